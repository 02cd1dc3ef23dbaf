"""An open loop: requests that come by chance and wait for nobody, some of whose callers vanish. Seconds.

The generator is a process of its own that writes bytes made beforehand to raw sockets and looks at nothing of an answer
but its status and length, and of a clip's lines at whether one tells an error. Latencies count from when a request was
due, so a generator that is late hides nothing; how late it was is told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray

LEFT, BROKEN = 0, -1  # instead of a status: the caller vanished; the connection ended without an answer
VANISH_S = 0.02  # within which a caller who vanishes does: sooner than most answers come
LAST_CHUNK, ERROR_LINE = b"\r\n0\r\n\r\n", b'{"type":"error"'
PATIENCE_S = 60.0  # for the last answers


@dataclass(frozen=True)
class Heard:
    """due: seconds since the start; late: how much later it was sent; took: from due to the last byte; status."""

    due: NDArray[np.float64]
    late: NDArray[np.float64]
    took: NDArray[np.float64]
    status: NDArray[np.int64]
    generator_cpu: float  # share of a core

    def latency_ms(self, status: int, quantile: float) -> float | None:
        took = self.took[self.status == status]
        return round(1000 * float(np.quantile(took, quantile)), 2) if len(took) else None

    def count(self, status: int) -> int:
        return int((self.status == status).sum())

    @property
    def failed(self) -> int:
        """Answers that are neither whole nor a refusal at the door, and connections that broke."""
        return int((~np.isin(self.status, (200, 429, 503, LEFT))).sum())


def open_loop(
    port: int,
    path: str,
    body: bytes | Sequence[bytes],
    kind: str,
    rate: float,
    seconds: float,
    vanish: float = 0.0,
    within: float = VANISH_S,
    seed: int = 0,
) -> Heard:
    """Posts the body, or any of several, `rate` times a second by chance, for so long.

    vanish: the part of callers who do; within: seconds in which they do.
    """
    with tempfile.TemporaryDirectory() as folder:
        requests, heard = Path(folder, "requests"), Path(folder, "heard.npy")
        requests.mkdir()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {kind}\r\n"
        for n, each in enumerate([body] if isinstance(body, bytes) else body):
            (requests / str(n)).write_bytes(f"{head}Content-Length: {len(each)}\r\n\r\n".encode() + each)
        command = [sys.executable, "-m", "benchmarks.poisson", str(port), str(requests), str(heard)]
        command += [str(rate), str(seconds), str(vanish), str(within), str(seed)]
        told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        due, late, took, status = np.load(heard)
    return Heard(due, late, took, status.astype(np.int64), told["cpu"])


class _Connection(asyncio.Protocol):
    """One kept connection, one request at a time; goes back to `idle` once it is answered."""

    def __init__(self, generator: _Generator) -> None:
        self._generator = generator
        self._transport: Any = None
        self._got = b""
        self._due = self._sent = 0.0
        self._asking = False
        self._leaving: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, due: float, vanish_after: float | None) -> None:
        self._due, self._sent, self._got, self._asking = due, time.perf_counter(), b"", True
        self._transport.write(self._generator.request())
        if vanish_after is not None:
            self._leaving = asyncio.get_running_loop().call_later(vanish_after, self._leave)

    def data_received(self, data: bytes) -> None:
        self._got += data
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._got[:end].lower()
        at = head.find(b"content-length: ")
        if at < 0:  # in chunks, as lines are
            if not self._got.endswith(LAST_CHUNK):
                return
        elif len(self._got) < end + 4 + int(head[at + 16 :].split(b"\r\n", 1)[0]):
            return
        self._end(BROKEN if at < 0 and ERROR_LINE in self._got else int(head[9:12]))
        if b"connection: close" in head:
            self._transport.close()
        else:
            self._generator.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._asking:
            self._end(BROKEN)
        with suppress(ValueError):
            self._generator.idle.remove(self)

    def _leave(self) -> None:
        if self._asking:
            self._end(LEFT)
            self._transport.abort()

    def _end(self, status: int) -> None:
        self._asking = False
        if self._leaving:
            self._leaving.cancel()
        self._generator.note(self._due, self._sent, status)


class _Generator:
    def __init__(self, port: int, requests: Sequence[bytes], seed: int) -> None:
        self.port, self._requests, self._which = port, requests, random.Random(seed)
        self.idle: list[_Connection] = []
        self.heard: list[tuple[float, float, float, int]] = []
        self._open = 0

    def request(self) -> bytes:
        return self._which.choice(self._requests)

    def note(self, due: float, sent: float, status: int) -> None:
        self.heard.append((due, sent - due, time.perf_counter() - due, status))
        self._open -= 1

    async def _connect(self, due: float, vanish_after: float | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.port)
        except OSError:
            self.note(due, time.perf_counter(), BROKEN)
            return
        connection.ask(due, vanish_after)

    async def run(self, rate: float, seconds: float, vanish: float, within: float, chance: random.Random) -> None:
        began = due = time.perf_counter()
        connecting: set[asyncio.Task[None]] = set()
        while (due := due + chance.expovariate(rate)) < began + seconds:
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            vanish_after = chance.uniform(0, within) if chance.random() < vanish else None
            self._open += 1
            if self.idle:
                self.idle.pop().ask(due, vanish_after)
            else:
                task = asyncio.create_task(self._connect(due, vanish_after))
                connecting.add(task)
                task.add_done_callback(connecting.discard)
        until = time.perf_counter() + PATIENCE_S
        while self._open and time.perf_counter() < until:
            await asyncio.sleep(0.01)
        self.heard = [(due - began, late, took, status) for due, late, took, status in self.heard]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.poisson", description=__doc__)
    for name, kind in (("port", int), ("requests", Path), ("heard", Path)):
        parser.add_argument(name, type=kind)
    for name in ("rate", "seconds", "vanish", "within"):
        parser.add_argument(name, type=float)
    parser.add_argument("seed", type=int)
    given = parser.parse_args()
    with suppress(OSError):
        os.nice(-10)  # late by the service's own work, it would measure itself
    requests = [file.read_bytes() for file in sorted(given.requests.iterdir())]
    generator = _Generator(given.port, requests, given.seed)
    began, spent = time.perf_counter(), time.process_time()
    uvloop.run(generator.run(given.rate, given.seconds, given.vanish, given.within, random.Random(given.seed)))
    cpu = (time.process_time() - spent) / (time.perf_counter() - began)
    np.save(given.heard, np.array(generator.heard).T.reshape(4, -1))
    print(json.dumps({"cpu": round(cpu, 3)}))


if __name__ == "__main__":
    main()
