"""`python -m tests.fuzz` (`make fuzz`): thousands of mutated bodies at a service of its own, and what came of them.

Ends with 1 after any server error, any answer that did not come, a process that died, or memory that grew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence

import httpx
import psutil

from benchmarks.served import own_service

from .corpus import Body, corpus
from .mutations import mutated

CALLERS = 8
PATIENCE_S = 90.0
# 503 and 504 are answers, not faults: the queue is full, or the caller set a deadline of 1 ms.
FAULTS = {500, 501, 502}
SETTLED = 0.25  # of the bodies; until then caches and pools fill up
GROWTH_MB = 64


async def run(url: str, pid: int, bodies: int, seed: int) -> dict[str, object]:
    """Sends them, CALLERS at once; counts statuses by door and keeps what broke."""
    whole = corpus()
    statuses: dict[str, Counter[int]] = {}
    broken: list[str] = []
    memory: list[tuple[int, float]] = []
    process, started, slowest = psutil.Process(pid), time.perf_counter(), 0.0
    numbers = iter(range(bodies))
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:

        async def send(body: Body) -> int:
            address = body.path + (f"?{body.query}" if body.query else "")
            headers = {name.encode(): value.encode("latin-1") for name, value in body.headers.items()}
            async with client.stream("POST", address, content=body.content, headers=headers) as answer:
                last = b""
                async for piece in answer.aiter_raw():
                    last = (last + piece)[-4096:]
            if b'"status":500' in last:  # of a clip: its last line says so
                return 500
            return answer.status_code

        async def caller() -> None:
            nonlocal slowest
            for number in numbers:
                source = whole[number % len(whole)]
                body = mutated(source, random.Random(f"{seed} {number}"), whole)
                began = time.perf_counter()
                try:
                    status = await send(body)
                except httpx.HTTPError as error:
                    status = 0
                    if not (isinstance(error, httpx.LocalProtocolError) or _never_sent(body)):
                        broken.append(f"{source.name} number {number}: {error!r}")
                slowest = max(slowest, time.perf_counter() - began)
                statuses.setdefault(source.path, Counter())[status] += 1
                if status in FAULTS:
                    broken.append(f"{source.name} number {number}: {status}")
                if number % max(bodies // 40, 1) == 0:
                    memory.append((number, process.memory_info().rss / 2**20))

        await asyncio.gather(*[caller() for _ in range(CALLERS)])
        alive = (await client.get("/readyz")).status_code
    settled = [(number, size) for number, size in memory if number >= SETTLED * bodies]
    sizes = [size for _, size in settled]
    return {
        "bodies": bodies,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "statuses": {path: dict(sorted(counts.items())) for path, counts in sorted(statuses.items())},
        "broken": broken,
        "slowest_s": round(slowest, 2),
        "ready_afterwards": alive == 200,
        "memory_mb": {
            "settled": round(sizes[0], 1),
            "end": round(sizes[-1], 1),
            "most": round(max(sizes), 1),
            "slope_for_1000_bodies": round(slope(settled) * 1000, 2),
        },
        "open_files": process.num_fds(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line that fits (x, y) pairs best; 0 for fewer than two different x."""
    if len({x for x, _ in points}) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def _never_sent(body: Body) -> bool:
    """Whether the client itself refuses such a header."""
    return any(not value.isprintable() for value in body.headers.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--bodies", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="another seed is another run; the same one the same bodies")
    parser.add_argument("--url", help="a running service and --pid; by default one is started, with a small finder")
    parser.add_argument("--pid", type=int)
    arguments = parser.parse_args()
    if arguments.url:
        figures = asyncio.run(run(arguments.url, arguments.pid, arguments.bodies, arguments.seed))
    else:
        with own_service("--person-side", "128") as (url, pid):
            figures = asyncio.run(run(url, pid, arguments.bodies, arguments.seed))
    print(json.dumps(figures, indent=1))
    memory = figures["memory_mb"]
    assert isinstance(memory, dict)
    grown = memory["end"] - memory["settled"]
    return int(bool(figures["broken"]) or not figures["ready_afterwards"] or grown > GROWTH_MB)


if __name__ == "__main__":
    sys.exit(main())
