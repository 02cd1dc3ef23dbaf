"""`make lock`: pins every package of the images, with the hash of each wheel, into docker/requirements-*.lock.

The versions of torch and torchvision are the Dockerfile's. Their build for CUDA, which pip's default index has, is
pinned with its device libraries in a file of its own, since another CUDA is another index's. Their build for a CPU
stays out: it lies on torch's index, with other hashes under the same version. Needs a network; installs nothing.
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
# Of its build for CUDA: itself, and what no other package wants.
OF_TORCH = re.compile(r"torch|torchvision|triton|(nvidia|cuda)-.+")
# Every glibc up to torch's own, since pip takes those named here alone.
NEWEST_GLIBC = 28
PLATFORM = (*(f"manylinux_2_{n}_x86_64" for n in range(NEWEST_GLIBC, 4, -1)), "manylinux2014_x86_64")
HEAD = """# {count} packages for Python {python} on x86-64 Linux with their wheels' hashes, by `make lock` alone.
# Installed by the Dockerfile with --require-hashes. {note}, see docker/lock.py.
"""


def requirements(extras: tuple[str, ...]) -> list[str]:
    """What pyproject.toml asks for, without what is pinned by version alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    ours = [line for line in wanted if re.split(r"[^\w.-]", line)[0] not in BY_VERSION_ALONE]
    return [*ours, *TORCH_WANTS]


def version_of(name: str) -> str:
    """PYTHON, TORCH or TORCHVISION in the images, as the Dockerfile says."""
    match = re.search(rf"^ARG {name}_VERSION=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
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


def pins(installed: list[dict[str, Any]]) -> dict[str, str]:
    """Name to its line. Two wheels of one version on two machines are one line each here: this is one platform's."""
    lines = {}
    for each in installed:
        name = re.sub(r"[-_.]+", "-", each["metadata"]["name"]).lower()
        hashes = each["download_info"]["archive_info"]["hashes"]
        lines[name] = f"{name}=={each['metadata']['version']} --hash=sha256:{hashes['sha256']}"
    return lines


def write(target: str, lines: list[str], python: str, note: str = "torch and torchvision are beside it") -> None:
    path = ROOT / "docker" / f"requirements-{target}.lock"
    path.write_text(HEAD.format(count=len(lines), python=python, note=note) + "\n".join(sorted(lines)) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(lines)} packages")


def main() -> None:
    parser = argparse.ArgumentParser(prog="docker/lock.py", description=__doc__)
    parser.parse_args()
    python = version_of("PYTHON")
    write("cpu", list(pins(resolved(requirements(("cpu", "otel")), python)).values()), python)
    torch = [f"{name}=={version_of(name.upper())}" for name in BY_VERSION_ALONE]
    lines = pins(resolved([*requirements(("otel",)), *torch], python))
    write("cuda", [line for name, line in lines.items() if not OF_TORCH.fullmatch(name)], python)
    of_torch = [line for name, line in lines.items() if OF_TORCH.fullmatch(name)]
    write("torch-cuda", of_torch, python, "They are torch for CUDA and its device libraries")


if __name__ == "__main__":
    main()
