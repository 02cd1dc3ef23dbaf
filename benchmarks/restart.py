"""`python -m benchmarks.restart`: a service under load gets kill -9 and is started again: seconds until it is ready.

Then what each network costs of that, by the sizes that are warmed: the first one holds building, reading and
converting, each further one its own compilation and warming. Seconds.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from service import loading
from service.engines.device import choose_device
from service.loading import LONG, load_engine
from service.settings import Settings
from service.store.manifest import ROLES
from service.store.store import Entry, Store, embedded_store

from .fleet import free_port
from .machine import load_average, machine
from .report import Lines, table

CALLERS = 4
LOADED_S = 2.0  # of load before each kill
PATIENCE_S = 180.0


def start(port: int) -> tuple[subprocess.Popen[bytes], float, float]:
    """A service, once it is ready, how long that took from the start of its process, and its CPU seconds until then."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--log-level", "error"]
    process = subprocess.Popen(command)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:  # one, since a new one costs 20 ms
        while time.perf_counter() - began < PATIENCE_S:
            if process.poll() is not None:
                raise SystemExit(f"the service ended with {process.returncode} before it was ready")
            with suppress(httpx.TransportError):
                if client.get("/readyz").status_code == 200:
                    took, spent = time.perf_counter() - began, psutil.Process(process.pid).cpu_times()
                    return process, took, spent.user + spent.system
            time.sleep(0.1)
    process.kill()
    raise SystemExit(f"the service was not ready within {PATIENCE_S:g} s")


def picture() -> bytes:
    """A JPEG of noise, 640 x 480."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def kills(times: int) -> Lines:
    """Kills and starts again so often, each time from the middle of requests. answered: before the kill."""
    port, body = free_port(), picture()
    lines: list[dict[str, Any]] = []
    process, *_ = start(port)
    for number in range(1, times + 1):
        killed = threading.Event()
        answered = itertools.count()

        def call(killed: threading.Event = killed, answered: itertools.count[int] = answered) -> None:
            with httpx.Client(timeout=30) as client, suppress(httpx.TransportError):
                while not killed.is_set():
                    client.post(f"http://127.0.0.1:{port}/v1/images", content=body).raise_for_status()
                    next(answered)

        callers = [threading.Thread(target=call) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        time.sleep(LOADED_S)
        process.kill()
        exit_code = process.wait()
        killed.set()
        for caller in callers:
            caller.join()
        process, ready_s, cpu_s = start(port)  # on the same port, at once
        line = {"kill": number, "exit_code": exit_code, "answered": next(answered)}
        lines.append(line | {"ready_s": round(ready_s, 2), "cpu_s": round(cpu_s, 2)})
    process.kill()
    process.wait()
    return lines


def warming(settings: Settings) -> Lines:
    """A line for each network and size: what loading takes with the sizes up to it, and what more that is."""
    store, device = Store(embedded_store()), choose_device(settings.device)
    all_sizes = loading.CPU_SIZES if device == "cpu" else loading.CUDA_SIZES
    slots: dict[str, Entry | None] = {role: store.default(role) for role in ROLES}
    lines: list[dict[str, Any]] = []
    for slot, entry in (slots | {LONG: store.long_lifter(False)}).items():
        if entry is None:
            continue
        sizes, before = all_sizes[slot], 0.0
        # Once for nothing: the first of all brings the libraries.
        load_engine(entry.manifest, entry.load, settings, device)
        for count in range(1, len(sizes) + 1):
            all_sizes[slot] = sizes[:count]
            began = time.perf_counter()
            engine = load_engine(entry.manifest, entry.load, settings, device)
            took = time.perf_counter() - began
            size = sizes[count - 1]
            line = {"network": slot, "model": entry.label, "size": size, "seconds": round(took, 2)}
            lines.append(line | {"more": round(took - before, 2), "run_ms": round(1000 * engine.seconds[size], 1)})
            before = took
        all_sizes[slot] = sizes
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restart", description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    given = parser.parse_args()
    print(json.dumps(machine()))
    print(table(kills(given.kills)))
    print(table(warming(Settings())))
    print(f"load average afterwards: {load_average()}")


if __name__ == "__main__":
    main()
