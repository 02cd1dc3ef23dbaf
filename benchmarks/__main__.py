"""`python -m benchmarks` (`make bench`): measures this machine and prints JSON. Compare figures within one run.

Starts a service of its own unless --url names one. Prints the load average: a busy machine makes absolute figures void.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from service.settings import Settings, cpu_limit

from . import callers, engines

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


def machine() -> dict[str, object]:
    """What the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    return {
        "processor": model.group(1) if model else platform.processor(),
        "cpus": cpu_limit(),
        "instructions": [name for name in INSTRUCTIONS if re.search(rf"\b{name}\b", text)],
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


@contextmanager
def own_service(*flags: str) -> Iterator[tuple[str, int]]:
    """A service of this tree on a free port, ready: its address and process id. flags: further ones of `serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen([*command, "--drain-delay-s", "0", *flags]) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                if process.poll() is not None:
                    raise SystemExit(f"the service ended with {process.returncode} before it was ready")
                try:
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.2)
            yield url, process.pid
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--url", help="a running service; by default one is started")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each closed loop")
    arguments = parser.parse_args()
    figures: dict[str, object] = {"machine": machine(), "engines": engines.row_times(Settings())}

    async def over_http(url: str) -> None:
        figures["lift_1_caller"] = await callers.lift(url, 1, arguments.seconds)
        figures["lift_64_callers"] = await callers.lift(url, 64, arguments.seconds)
        figures["photo_two_people"] = await callers.photo(url)

    if arguments.url:
        asyncio.run(over_http(arguments.url))
    else:
        with own_service() as (url, pid):
            asyncio.run(over_http(url))
            times = psutil.Process(pid).cpu_times()
            figures["server_cpu_seconds"] = round(times.user + times.system, 1)
    figures["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
