"""`make lock`: pins every package of the images, with the hash of each wheel, into docker/requirements-*.lock.

torch and torchvision stay out: their build for a CPU lies on another index than their build for CUDA, with other
hashes under the same version. Their versions are the Dockerfile's. Needs a network; installs nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BY_VERSION_ALONE = ("torch", "torchvision")
# What torch itself wants of others, without its device libraries, which come with its build.
TORCH_WANTS = ("filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec", "setuptools")
PLATFORM = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
HEAD = """# {count} packages for Python {python} on x86-64 Linux with their wheels' hashes, by `make lock` alone.
# Installed by the Dockerfile with --require-hashes. torch and torchvision are beside it, see docker/lock.py.
"""


def requirements(extras: tuple[str, ...]) -> list[str]:
    """What pyproject.toml asks for, without what is pinned by version alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    ours = [line for line in wanted if re.split(r"[^\w.-]", line)[0] not in BY_VERSION_ALONE]
    return [*ours, *TORCH_WANTS]


def python_version() -> str:
    """Of the images, as the Dockerfile says."""
    match = re.search(r"^ARG PYTHON_VERSION=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert match is not None
    return match[1]


def resolved(wanted: list[str], python: str) -> list[dict[str, Any]]:
    """pip's report of what it would install: the newest versions that fit together."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp"]
        command += [word for name in PLATFORM for word in ("--platform", name)]
        command += ["--target", folder, "--report", str(report), *wanted]
        subprocess.run(command, check=True)
        installed: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return installed


def lock_text(installed: list[dict[str, Any]], python: str) -> str:
    """The lock file. Two wheels of one version on two machines are one line each here: this is one platform's."""
    lines = []
    for each in installed:
        name, version = each["metadata"]["name"], each["metadata"]["version"]
        hashes = each["download_info"]["archive_info"]["hashes"]
        lines.append(f"{re.sub(r'[-_.]+', '-', name).lower()}=={version} --hash=sha256:{hashes['sha256']}")
    return HEAD.format(count=len(lines), python=python) + "\n".join(sorted(lines)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="docker/lock.py", description=__doc__)
    parser.parse_args()
    python = python_version()
    for name, extras in (("cpu", ("cpu", "otel")), ("cuda", ("otel",))):
        path = ROOT / "docker" / f"requirements-{name}.lock"
        path.write_text(lock_text(resolved(requirements(extras), python), python))
        print(f"{path.relative_to(ROOT)}: {len(path.read_text().splitlines()) - 2} packages")


if __name__ == "__main__":
    main()
