"""Which peers there are, the packages of each, and how it is started. Each has a virtual environment of its own.

`pip` takes what the newest releases are; the versions that ran are printed with the figures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SERVERS = "benchmarks.peers.servers"
COMMON = ("numpy", "openvino")


@dataclass(frozen=True)
class Peer:
    """packages: what is installed; told: those whose versions are told; path: its door."""

    name: str
    packages: tuple[str, ...]
    told: tuple[str, ...]
    path: str = "/predict"

    def command(self, environments: Path, port: int) -> list[str]:
        """How it is started, in the folder that holds `benchmarks`."""
        folder = environments / self.name / "bin"
        if self.name == "bentoml":
            at = ["--host", "127.0.0.1", "--port", str(port)]
            return [str(folder / "bentoml"), "serve", f"{SERVERS}.on_bentoml:Lift", *at]
        return [str(folder / "python"), "-m", f"{SERVERS}.on_{self.name}"]

    def versions(self, environments: Path) -> dict[str, str]:
        """Of the packages that tell."""
        code = "import json, sys; from importlib.metadata import version"
        code += "; print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
        python = str(environments / self.name / "bin" / "python")
        told: dict[str, str] = json.loads(subprocess.check_output([python, "-c", code, *self.told]))
        return told

    def install(self, environments: Path) -> None:
        """Makes its environment."""
        folder = environments / self.name
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "-q", *COMMON, *self.packages], check=True)


PEERS = {
    peer.name: peer
    for peer in (
        Peer("litserve", ("litserve", "uvloop", "httptools"), ("litserve", "fastapi", "uvicorn")),
        Peer("bentoml", ("bentoml", "uvloop", "httptools"), ("bentoml", "uvicorn")),
        Peer("ray", ("ray[serve]", "orjson"), ("ray", "starlette")),
        Peer("mosec", ("mosec", "orjson"), ("mosec",), "/inference"),
        Peer("fastapi", ("fastapi", "uvicorn", "uvloop", "httptools"), ("fastapi", "uvicorn", "pydantic")),
    )
}
