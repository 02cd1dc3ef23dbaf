"""`python -m benchmarks.fleet`: three replicas behind haproxy; one drains and one is killed under load. Prints JSON.

Least connections, health by /readyz, retries on 503 and on what no replica has answered. A drain must lose nothing that
was accepted; of a killed replica the gateway sends what was in work to another. The replicas are whole services whose
devices sleep (benchmarks/sleeping_replica.py), so that they do not take each other's CPU for what a device does; the
simulation (benchmarks/simulation.py) is held against them. What a request costs beside its batch they do share: it is
measured, and so is what each batch took. With --engines, the embedded models compute instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from service.loading import LONG

from . import wrk
from .bodies import JSON, window_body, windows
from .machine import load_average, machine
from .simulation import BatchTimes, Cores, SampledTimes, closed_loop

REPLICAS = 3
CALLERS = 24
GATEWAY = """
global
    maxconn 4000
    log stderr format raw local0 warning
defaults
    mode http
    timeout connect 2s
    timeout client 610s
    timeout server 610s
    timeout http-keep-alive 60s
    # Every POST is a pure function: what one replica refused, or has not answered, another may do.
    option redispatch 1
    retries 5
    retry-on 503 conn-failure empty-response response-timeout
frontend front
    bind 127.0.0.1:{port}
    http-request wait-for-body time 10s at-least 64k
    default_backend replicas
backend replicas
    balance leastconn
    option httpchk GET /readyz
    # One refused connection is enough: a dead replica has the fewest connections, and would be asked again and again.
    default-server check inter 250ms fall 1 rise 1 observe layer4 error-limit 1 on-error mark-down
{servers}
"""


@dataclass
class Replica:
    """A service of this tree as a process of its own. told: the file of its batches, where its device sleeps."""

    process: subprocess.Popen[bytes]
    port: int
    told: Path | None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def counted(self) -> tuple[float, float]:
        """From its metrics: rows and batches of the lifter so far."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        names = ("poselift_rows_total", "poselift_batch_rows_count")
        rows, batches = (
            next(float(line.split()[-1]) for line in lines if line.startswith(f'{name}{{network="{LONG}"}} '))
            for name in names
        )
        return rows, batches

    def cpu_s(self) -> float:
        """CPU time so far."""
        return cpu_s(self.process.pid)

    def batches(self, begin: int = 0) -> list[tuple[int, float]]:
        """Rows and seconds of each batch from the one of that number on."""
        lines = self.told.read_text().splitlines()[begin:] if self.told else []
        return [(int(rows), float(seconds)) for rows, seconds in map(str.split, lines)]


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def replica(times: BatchTimes | None) -> Iterator[Replica]:
    """Started, not yet ready; with batch times its device sleeps them."""
    port, told = free_port(), None
    slept: list[str] = []
    if times is not None:
        handle, name = tempfile.mkstemp(prefix="poselift-batches-")
        os.close(handle)
        told = Path(name)
        slept = [str(1000 * times.fixed_s), str(1000 * times.row_s), name]
    command = [sys.executable, "-m", "benchmarks.sleeping_replica" if times else "service", *slept, "serve"]
    command += ["--port", str(port), "--log-level", "warning", "--device", "cpu", "--threads", "1"]
    command += ["--decode-threads", "1", "--drain-delay-s", "2", "--drain-grace-s", "20", "--caller-share", "1"]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        yield Replica(process, port, told)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if told:
            told.unlink()


@contextmanager
def gateway(replicas: list[Replica]) -> Iterator[tuple[str, int]]:
    """haproxy before them: its address, and its process."""
    port = free_port()
    servers = "\n".join(f"    server r{n} 127.0.0.1:{one.port}" for n, one in enumerate(replicas))
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as file:
        file.write(GATEWAY.format(port=port, servers=servers))
        file.flush()
        process = subprocess.Popen(["haproxy", "-db", "-q", "-f", file.name])
        try:
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            process.wait()


def wait_ready(replicas: list[Replica], within_s: float = 180.0) -> None:
    until = time.monotonic() + within_s
    for one in replicas:
        while True:
            if one.process.poll() is not None:
                raise SystemExit(f"a replica ended with {one.process.returncode} before it was ready")
            try:
                if httpx.get(f"{one.url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if time.monotonic() > until:
                raise SystemExit("the replicas were not ready in time")
            time.sleep(0.2)


async def load(
    url: str, seconds: float, events: list[tuple[float, str, Replica]], callers: int = CALLERS
) -> dict[str, object]:
    """A closed loop over the gateway that looks at every answer; events: (second, what, which replica) meanwhile."""
    counts: Counter[str] = Counter()
    times: list[float] = []
    told: list[dict[str, object]] = []
    started = time.perf_counter()
    end = started + seconds
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=callers)) as client:

        async def caller(number: int) -> None:
            body = json.dumps(window_body(number)).encode()
            headers = {"content-type": "application/json"}
            while time.perf_counter() < end:
                began = time.perf_counter()
                try:
                    answer = await client.post("/v1/lift", content=body, headers=headers)
                    whole = answer.status_code != 200 or len(answer.json()["joints3d"]) == 27
                    counts[str(answer.status_code) if whole else "cut off"] += 1
                except (httpx.TransportError, ValueError) as error:
                    counts[type(error).__name__] += 1
                times.append(time.perf_counter() - began)

        async def happen() -> None:
            for second, what, which in events:
                await asyncio.sleep(max(0.0, started + second - time.perf_counter()))
                which.process.send_signal(signal.SIGTERM if what == "drain" else signal.SIGKILL)
                told.append({"second": second, "what": what})

        await asyncio.gather(happen(), *[caller(n) for n in range(callers)])
    elapsed = time.perf_counter() - started
    ordered = sorted(times)
    return {
        "seconds": round(elapsed, 1),
        "answers": dict(counts),
        "answers_a_second": round(counts["200"] / elapsed, 1),
        "p50_ms": round(1000 * statistics.median(times), 1),
        "p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 1),
        "events": told,
    }


async def fleet(seconds: float, times: BatchTimes | None) -> dict[str, object]:
    """The whole run."""
    figures: dict[str, object] = {"replicas": REPLICAS, "callers": CALLERS}
    with ExitStack() as stack:
        replicas = [stack.enter_context(replica(times)) for _ in range(REPLICAS)]
        wait_ready(replicas)
        url, gateway_pid = stack.enter_context(gateway(replicas))
        await asyncio.sleep(1.0)
        await load(url, 2.0, [])  # connections and caches
        figures |= undisturbed(url, seconds, replicas, gateway_pid, times)
        events = [(seconds * 0.25, "drain", replicas[0]), (seconds * 0.6, "kill", replicas[1])]
        figures["one_drained_one_killed"] = await load(url, seconds, events)
        figures["exit_code_of_the_drained"] = replicas[0].process.wait(60)
    figures["machine"] = machine()
    return figures


def undisturbed(
    url: str, seconds: float, replicas: list[Replica], gateway_pid: int, times: BatchTimes | None
) -> dict[str, object]:
    """All callers for so long, by wrk; what a request cost, what batches took, and the same simulated."""
    alone = wrk.closed_loop(f"{url}/v1/lift", windows(1), JSON, 1, 3.0)
    before = [one.counted() for one in replicas]
    told = [len(one.batches()) for one in replicas]
    worked = [one.cpu_s() for one in replicas]
    rest_s = cpu_s(gateway_pid) + children_s()
    seen = wrk.closed_loop(f"{url}/v1/lift", windows(1), JSON, CALLERS, seconds)
    after = [one.counted() for one in replicas]
    rows = [now[0] - then[0] for now, then in zip(after, before, strict=True)]
    batches = sum(now[1] - then[1] for now, then in zip(after, before, strict=True))
    replicas_s = sum(one.cpu_s() - then for one, then in zip(replicas, worked, strict=True))
    request_s = (replicas_s + cpu_s(gateway_pid) + children_s() - rest_s) / max(seen.requests, 1)
    figures: dict[str, object] = {
        "undisturbed": asdict(seen),
        "rows_by_replica": rows,
        "mean_batch_rows": round(sum(rows) / max(batches, 1), 2),
        "cpu_ms_a_request": round(1000 * request_s, 2),
        "cpu_ms_a_request_in_replicas": round(1000 * replicas_s / max(seen.requests, 1), 2),
        "load_average_meanwhile": load_average(),
    }
    if times is None:
        return figures
    took: dict[int, list[float]] = {}
    for one, first in zip(replicas, told, strict=True):
        for count, batch_s in one.batches(first):
            took.setdefault(count, []).append(batch_s)
    measured, cores = SampledTimes(took), Cores(len(os.sched_getaffinity(0)), request_s)
    # What a caller alone sees beside its batch and the CPU's work: wake-ups and the gateway's own waiting.
    around_s = max(0.0, alone.p50_ms / 1000 - times.seconds(1) - request_s)
    simulated = closed_loop(REPLICAS, CALLERS, around_s, measured, seconds=60.0, cores=cores)
    figures["batch_ms"] = {
        count: {"batches": len(each), "given": round(1000 * times.seconds(count), 1), **_spread_ms(each)}
        for count, each in sorted(took.items())
    }
    figures["simulated"] = simulated | {"around_ms": round(1000 * around_s, 2)}
    figures["simulated_on_nodes_of_their_own"] = closed_loop(REPLICAS, CALLERS, around_s, times, seconds=60.0)
    figures["measured_over_simulated"] = {
        "answers_a_second": round(seen.requests_a_second / simulated["answers_a_second"], 2),
        "p50": round(seen.p50_ms / simulated["p50_ms"], 2),
        "p99": round(seen.p99_ms / simulated["p99_ms"], 2),
    }
    return figures


def _spread_ms(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50": round(1000 * ordered[len(ordered) // 2], 1),
        "p99": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 1),
    }


def children_s() -> float:
    """CPU time of the programs that this one has started and that have ended: the callers'."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two loads")
    parser.add_argument("--fixed-ms", type=float, default=40.0, help="that a device sleeps for a batch")
    parser.add_argument("--row-ms", type=float, default=5.0, help="and for each row in it")
    parser.add_argument("--engines", action="store_true", help="the embedded models instead")
    given = parser.parse_args()
    times = None if given.engines else BatchTimes(given.fixed_ms / 1000, given.row_ms / 1000)
    if shutil.which("haproxy") is None:
        raise SystemExit("haproxy is not there: apt-get install haproxy")
    print(json.dumps(asyncio.run(fleet(given.seconds, times)), indent=1))


if __name__ == "__main__":
    main()
