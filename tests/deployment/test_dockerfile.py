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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_torch_is_asked_for_as_pyproject_asks(target: str) -> None:
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted = {line for line in requirements if re.match(r"torch(vision)?\b", line)}
    runs = " ".join(i.rest for i in STAGES[f"packages-{target}"] if i.word == "RUN")
    assert set(re.findall(r'"(torch[^"]*)"', runs)) == wanted


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
