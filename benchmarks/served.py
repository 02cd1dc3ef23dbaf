"""A service of this tree in a process of its own, and what is read of it from outside: CPU time, memory, metrics.

Knows no load. CPU times are seconds, memory bytes.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

_SAMPLE = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)$")


@dataclass(frozen=True)
class Served:
    """A running service."""

    url: str
    pid: int
    temporary: Path  # a folder for its temporary files alone

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def cpu_seconds(self) -> float:
        """Of all its threads so far."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def loop_cpu_seconds(self) -> float:
        """Of its first thread, on which the event loop runs."""
        threads = psutil.Process(self.pid).threads()
        return next(float(each.user_time + each.system_time) for each in threads if each.id == self.pid)

    def memory_bytes(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)

    def open_files(self) -> int:
        """Of all kinds: files, sockets, pipes."""
        return int(psutil.Process(self.pid).num_fds())

    def temporary_files(self) -> int:
        """Those in its folder, and those that it holds open without a name."""
        held = 0
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                target = str(link.readlink())
                held += target.startswith(str(self.temporary)) and target.endswith("(deleted)")
        return held + sum(1 for path in self.temporary.rglob("*") if path.is_file())

    def metrics(self) -> dict[str, float]:
        """Each sample by its name and labels, as /metrics writes them, without the prefix `poselift_`."""
        found = {}
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if match := _SAMPLE.match(line):
                name, labels, value = match.groups()
                found[name.removeprefix("poselift_") + (labels or "")] = float(value)
        return found


def since(before: dict[str, float], after: dict[str, float], name: str) -> float:
    """How much a sample has grown."""
    return after[name] - before.get(name, 0.0)


def under(before: dict[str, float], after: dict[str, float], histogram: str, share: float) -> float:
    """The least bucket's bound, seconds, under which so large a share of what came between the two scrapes lies."""
    whole = since(before, after, f"{histogram}_count")
    bounds = {}
    for name in after:
        if match := re.match(rf'{histogram}_bucket\{{le="([^"]+)"\}}$', name):
            bounds[float(match.group(1))] = since(before, after, name)
    return min((bound for bound, count in bounds.items() if count >= share * whole), default=float("nan"))


@contextmanager
def own_service(*flags: str, temporary: str | None = None) -> Iterator[tuple[str, int]]:
    """A service of this tree on a free port, ready: its address and process id.

    flags: further ones of `serve`; temporary: a folder for its temporary files, else the system's.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--log-level", "warning"]
    # Under overload it has a line for each refusal, which is for a file, not for who reads the figures.
    command += ["--drain-delay-s", "0", *flags]
    environment = os.environ | ({"TMPDIR": temporary} if temporary else {})
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stderr=log, env=environment) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                if process.poll() is not None:
                    log.seek(0)
                    told = log.read().decode(errors="replace")
                    raise SystemExit(f"the service ended with {process.returncode} before it was ready\n{told}")
                try:
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.2)
            yield url, process.pid
        finally:
            process.terminate()


@contextmanager
def served(*flags: str) -> Iterator[Served]:
    """As `own_service`, with what can be read of it. Its callers share a queue as one: no share is kept from any.
    Nothing is remembered of earlier windows, for all of its callers send the same."""
    with (
        tempfile.TemporaryDirectory() as folder,
        own_service("--caller-share", "1", "--remembered-frames", "0", *flags, temporary=folder) as (url, pid),
    ):
        yield Served(url, pid, Path(folder))
