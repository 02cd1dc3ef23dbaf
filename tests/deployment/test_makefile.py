"""What a newcomer and CI type: the Makefile and .ci/run, with a Python that only writes down what it was asked for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# `-c` is the version check, `-m venv FOLDER` makes a python like itself; all but the check is written down.
PYTHON = """#!/bin/sh
case "$1" in
  -c) exit {version_check} ;;
  --version) echo "Python 3.9.2" ;;
  *) echo "$@" >> "{log}" ;;
esac
if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/poselift"; fi
"""


@dataclass(frozen=True)
class Clone:
    """A folder with the Makefile, as after a clone."""

    folder: Path
    log: Path

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        without_outer_make = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return subprocess.run(
            ["make", *arguments, "PYTHON=./python"],
            cwd=self.folder,
            env=without_outer_make,
            capture_output=True,
            text=True,
        )

    def calls(self) -> list[str]:
        """What the Pythons were asked for since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    def put_python(self, version_check: int = 0) -> None:
        python = self.folder / "python"
        python.write_text(PYTHON.format(version_check=version_check, log=self.log))
        python.chmod(0o755)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    clone = Clone(tmp_path, tmp_path / "calls")
    clone.put_python()
    return clone


def install(extras: str) -> str:
    return f"-m pip install --disable-pip-version-check --editable .[{extras}]"


def test_make_alone_lists_every_target(clone: Clone) -> None:
    listed = [line.split()[1] for line in clone.make().stdout.splitlines()]
    assert listed == [
        *("help", "setup", "serve", "test", "test-slow", "recipes", "lint", "bench"),
        *("fuzz", "faults", "lock", "release"),
    ]
    assert clone.calls() == []


def test_setup_installs_once_and_again_only_when_the_project_file_changed(clone: Clone) -> None:
    assert clone.make("setup").returncode == 0
    assert clone.calls() == ["-m venv .venv", install("cpu,dev")]
    clone.make("setup")
    assert clone.calls() == []
    later = (clone.folder / ".venv/.installed").stat().st_mtime + 10
    os.utime(clone.folder / "pyproject.toml", (later, later))
    clone.make("setup")
    assert clone.calls() == [install("cpu,dev")]


def test_serving_does_not_wait_for_the_test_tools(clone: Clone) -> None:
    clone.make("serve", "ARGS=--port 9000")
    assert clone.calls() == ["-m venv .venv", install("cpu"), "serve --port 9000"]


def test_serving_after_setup_installs_nothing_more(clone: Clone) -> None:
    clone.make("setup")
    clone.calls()
    clone.make("serve")
    assert clone.calls() == ["serve"]


def test_lint_checks_style_format_and_types_of_everything(clone: Clone) -> None:
    clone.make("setup")
    clone.calls()
    clone.make("lint")
    everything = "service training tests benchmarks"
    assert clone.calls() == [
        f"-m ruff check {everything}",
        f"-m ruff format --check {everything}",
        f"-m mypy --strict {everything}",
    ]


def test_too_old_a_python_is_named_together_with_the_way_out(clone: Clone) -> None:
    clone.put_python(version_check=1)
    answer = clone.make("setup")
    assert answer.returncode != 0
    assert "needs Python 3.11 or newer; './python' is Python 3.9.2" in answer.stderr
    assert "make setup PYTHON=python3.12" in answer.stderr
    assert not (clone.folder / ".venv").exists()


def test_a_python_that_is_not_there_is_said_to_be_so(clone: Clone) -> None:
    (clone.folder / "python").unlink()
    answer = clone.make("serve")
    assert answer.returncode != 0
    assert "needs Python 3.11 or newer; './python' is not there" in answer.stderr
    assert not (clone.folder / ".venv").exists()


def run_ci(folder: Path, failing: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Runs .ci/run from another folder, with a `make` that fails at one target; gives each call as `folder target`."""
    (folder / "bin").mkdir()
    make = folder / "bin/make"
    make.write_text(f'#!/bin/sh\necho "$PWD $@" >> {folder}/calls\n[ "$1" != {failing} ]\n')
    make.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
    outcome = subprocess.run(
        ["bash", str(ROOT / ".ci/run")], cwd=folder, env=environment, capture_output=True, text=True
    )
    return outcome, (folder / "calls").read_text().splitlines()


def test_ci_runs_what_a_newcomer_runs_and_says_how_long_each_took(tmp_path: Path) -> None:
    outcome, calls = run_ci(tmp_path, failing="nothing")
    assert outcome.returncode == 0
    assert calls == [f"{ROOT} {target}" for target in ("setup", "lint", "test", "recipes")]
    for target in ("setup", "lint", "test", "recipes"):
        assert re.search(rf"^== make {target}: \d+ s$", outcome.stdout, re.MULTILINE)


def test_ci_stops_at_the_first_failure(tmp_path: Path) -> None:
    outcome, calls = run_ci(tmp_path, failing="lint")
    assert outcome.returncode != 0
    assert [call.split()[-1] for call in calls] == ["setup", "lint"]
