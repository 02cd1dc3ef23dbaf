"""What figures depend on: the machine, the versions, the commit. Knows nothing of what is measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from service.settings import cpu_limit

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
PACKAGES = ("poselift", "torch", "openvino", "numpy", "uvicorn", "uvloop", "httptools")
TREE = Path(__file__).parent.parent


def load_average() -> list[float]:
    """Of the last 1, 5 and 15 minutes: a busy machine makes absolute figures void."""
    return [round(load, 2) for load in os.getloadavg()]


def machine() -> dict[str, object]:
    """Processor, its instruction sets, versions and commit, and how busy it is now."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    return {
        "processor": model.group(1) if model else platform.processor(),
        "cpus": cpu_limit(),
        "instructions": [name for name in INSTRUCTIONS if re.search(rf"\b{name}\b", text)],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "load_average": load_average(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """With `+` behind it where files differ from it."""
    try:
        run = ["git", "-C", str(TREE), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
