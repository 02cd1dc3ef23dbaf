"""The Dockerfile's form, read as text: no container engine is needed. It knows no layer of the service."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Instruction:
    """One instruction of a stage, its continued lines joined: `word` in capitals, `rest` as written."""

    word: str
    rest: str


def read_stages() -> dict[str, list[Instruction]]:
    """Stage name to its instructions, in order; each begins with its FROM."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, list[Instruction]] = {}
    stage: list[Instruction] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, rest = line.split(None, 1)
        if word.upper() == "FROM":
            stage = stages.setdefault(rest.split()[-1], [])
        stage.append(Instruction(word.upper(), " ".join(rest.split())))
    return stages


STAGES = read_stages()


def inherited(target: str) -> list[Instruction]:
    """The instructions that shape a target: those of the stages it is built on, then its own."""
    origin = STAGES[target][0].rest.split()[0]
    return (inherited(origin) if origin in STAGES else []) + STAGES[target]


def last(target: str, word: str) -> str:
    """What the last instruction of that name says, in the image that the target gives."""
    return [instruction.rest for instruction in inherited(target) if instruction.word == word][-1]


def copies(from_stage: bool) -> Iterator[tuple[str, str | None]]:
    """(source, stage that it comes from or None) of each COPY."""
    for instructions in STAGES.values():
        for instruction in instructions:
            if instruction.word in ("COPY", "ADD"):
                *words, _ = instruction.rest.split()
                stage = next((word.split("=")[1] for word in words if word.startswith("--from=")), None)
                if (stage is not None) is from_stage:
                    yield from ((word, stage) for word in words if not word.startswith("--"))


def test_both_targets_exist_and_the_default_is_the_cpu() -> None:
    assert {"cpu", "cuda"} <= set(STAGES)
    assert list(STAGES)[-1] == "cpu"


def test_every_copied_source_exists() -> None:
    sources = [source for source, _ in copies(from_stage=False)]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_every_copied_source_reaches_the_builder() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().split() if not line.startswith("#")]
    for source, _ in copies(from_stage=False):
        ignored = False
        for rule in rules:  # the last rule that matches wins
            if fnmatch.fnmatch(source, rule.removeprefix("!")):
                ignored = not rule.startswith("!")
        assert not ignored, f".dockerignore leaves out {source}"


def test_every_stage_that_is_copied_from_stands_above() -> None:
    names = list(STAGES)
    for name, instructions in STAGES.items():
        for instruction in instructions:
            for origin in re.findall(r"--from=(\S+)", instruction.rest):
                assert names.index(origin) < names.index(name)


def test_the_wheel_is_given_all_that_pyproject_puts_into_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {project["project"]["readme"], *project["project"]["license-files"]}
    wanted |= {*wheel["packages"], *wheel["force-include"]}
    assert wanted <= {source for source, _ in copies(from_stage=False)}


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_holds_its_packages_and_no_build_tool(target: str) -> None:
    copied = [instruction.rest for instruction in STAGES[target] if instruction.word == "COPY"]
    assert copied == [f"--from=packages-{target} /opt/poselift /opt/poselift"]
    assert not any("pip" in i.rest or "apt" in i.rest for i in inherited(target) if i.word == "RUN")


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_user_is_a_fixed_number_and_not_root(target: str) -> None:
    uid, gid = last(target, "USER").split(":")
    assert (int(uid), int(gid)) == (10001, 10001)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_service_is_process_1_and_gets_the_signal(target: str) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (command,) = json.loads(last(target, "ENTRYPOINT"))
    assert command in scripts
    assert json.loads(last(target, "CMD")) == ["serve", "--host", "0.0.0.0"]
    assert last(target, "STOPSIGNAL") == "SIGTERM"
    assert last(target, "EXPOSE") == "8000"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_each_target_names_its_device_so_that_none_falls_back(target: str) -> None:
    assert f"POSELIFT_DEVICE={target}" in [i.rest for i in STAGES[target] if i.word == "ENV"]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_only_tmp_is_written_to(target: str) -> None:
    assert "VOLUME" not in [instruction.word for instruction in inherited(target)]
    environment = " ".join(i.rest for i in inherited(target) if i.word == "ENV")
    assert "HOME=/tmp" in environment
    assert "PYTHONDONTWRITEBYTECODE=1" in environment


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_image_says_what_it_is(target: str) -> None:
    labels = last(target, "LABEL")
    for key in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{key}=" in labels
    assert 'licenses="Apache-2.0"' in labels


def argument(name: str) -> str:
    """The default of an ARG before the first stage."""
    (value,) = re.findall(rf"^ARG {name}=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return str(value)


def pinned(target: str) -> dict[str, Version]:
    """Name to version of each package of a lock file; every line must have a hash."""
    lines = (ROOT / f"docker/requirements-{target}.lock").read_text().splitlines()
    found = {}
    for line in lines:
        if not line.startswith("#"):
            name, version = re.fullmatch(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line).groups()  # type: ignore[union-attr]
            found[name] = Version(version)
    return found


@pytest.mark.parametrize(("target", "extras"), [("cpu", ["cpu", "otel"]), ("cuda", ["otel"])])
def test_what_is_pinned_is_what_pyproject_asks_for(target: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    torch = {name: Version(argument(f"{name.upper()}_VERSION")) for name in ("torch", "torchvision")}
    if target == "cuda":
        of_torch = pinned("torch-cuda")
        assert torch.items() <= of_torch.items(), "torch is not pinned to the Dockerfile's version: run `make lock`"
        torch = of_torch
    assert not set(torch) & set(pinned(target))
    there = pinned(target) | torch
    for requirement in map(Requirement, lines):
        version = there[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}: run `make lock`"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_lock_file_is_for_the_images_python_and_is_installed_with_its_hashes(target: str) -> None:
    head = (ROOT / f"docker/requirements-{target}.lock").read_text().splitlines()[0]
    assert f"{len(pinned(target))} packages for Python {argument('PYTHON_VERSION')} on x86-64 Linux" in head
    installs = [i.rest for i in STAGES[f"packages-{target}"] if i.word == "RUN" and " install " in i.rest]
    assert len(installs) == 3
    assert '"torch==${TORCH_VERSION}" "torchvision==${TORCHVISION_VERSION}"' in installs[0]
    assert f"--no-deps --require-hashes --requirement /locks/requirements-{target}.lock" in installs[1]
    assert "--no-deps /wheels/*.whl" in installs[2] and installs[2].endswith(
        "pip --python /opt/poselift/bin/python check"
    )


def test_what_torch_itself_asks_for_is_pinned_with_it() -> None:
    if Version(version("torch")).public != argument("TORCH_VERSION"):
        pytest.skip(f"another torch is installed: {version('torch')}")
    there = pinned("cuda") | pinned("torch-cuda")
    asked = [Requirement(line) for line in requires("torch") or ()]
    here = {"platform_system": "Linux", "python_version": argument("PYTHON_VERSION"), "extra": ""}
    wanted = [each for each in asked if each.marker is None or each.marker.evaluate(here)]
    assert {"sympy", "filelock"} <= {each.name for each in wanted}
    for each in wanted:
        assert each.specifier.contains(there[each.name]), f"{each} is pinned to {there[each.name]}: run `make lock`"


def test_the_cuda_build_of_torch_is_taken_by_its_hashes_unless_another_index_is_named() -> None:
    (install,) = [i.rest for i in STAGES["packages-cuda"] if i.word == "RUN" and "venv" in i.rest]
    locked, other = install.split(" else ")
    assert 'if [ -z "$TORCH_CUDA_INDEX_URL" ]; then' in locked
    assert "--no-deps --require-hashes --requirement /locks/requirements-torch-cuda.lock;" in locked
    assert '--index-url "$TORCH_CUDA_INDEX_URL" "torch==${TORCH_VERSION}"' in other


# As hadolint has them, of those that can apply here.
RULES: dict[str, Callable[[Instruction], bool]] = {
    "DL3000 WORKDIR is absolute": lambda i: i.word != "WORKDIR" or i.rest.startswith("/"),
    "DL3002 the last user is not root": lambda i: i.word != "USER" or not i.rest.startswith(("root", "0")),
    "DL3003 WORKDIR and not cd": lambda i: i.word != "RUN" or re.search(r"\bcd ", i.rest) is None,
    "DL3004 no sudo": lambda i: "sudo" not in i.rest,
    "DL3006 and DL3007 a tag, and not latest": lambda i: (
        i.word != "FROM" or ":" in i.rest.split()[0] or i.rest.split()[0] in STAGES
    ),
    "DL3013 versions are pinned": lambda i: ">=" not in i.rest,
    "DL3020 COPY and not ADD": lambda i: i.word != "ADD",
    "DL3025 exec form": lambda i: i.word not in ("CMD", "ENTRYPOINT") or i.rest.startswith("["),
    "DL3042 no cache": lambda i: (
        "pip install" not in i.rest or "PIP_NO_CACHE_DIR=1" in (ROOT / "Dockerfile").read_text()
    ),
    "DL4000 no MAINTAINER": lambda i: i.word != "MAINTAINER",
    "DL4006 no pipe that hides a failure": lambda i: i.word != "RUN" or " | " not in i.rest,
}


@pytest.mark.parametrize("rule", RULES)
def test_no_instruction_breaks_a_rule_of_the_trade(rule: str) -> None:
    instructions = [instruction for stage in STAGES.values() for instruction in stage]
    assert [i for i in instructions if not RULES[rule](i)] == []


@pytest.mark.parametrize(("url", "words"), [("", []), ("https://mirror/cpu", ["--index-url", "https://mirror/cpu"])])
def test_an_empty_torch_index_means_the_default_one(url: str, words: list[str]) -> None:
    expansion = '${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"}'
    assert any(expansion in i.rest for i in STAGES["packages-cpu"] if i.word == "RUN")
    printed = subprocess.run(
        ["sh", "-c", f'printf "%s\\n" {expansion} end'],
        env=os.environ | {"TORCH_INDEX_URL": url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.split() == [*words, "end"]


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server that gives that status to everything: its port, and the paths it was asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Keeps the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_follows_livez_and_ignores_a_proxy(status: int, healthy: bool) -> None:
    command = json.loads(last("cpu", "HEALTHCHECK").split("CMD ", 1)[1])
    assert command[0] == "python"
    with answering(status) as (port, asked):
        proxy = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
        environment = os.environ | proxy | {"POSELIFT_PORT": str(port)}
        checked = subprocess.run([sys.executable, *command[1:]], env=environment, capture_output=True, timeout=20)
    assert (checked.returncode == 0) is healthy
    assert asked == ["/livez"]
