"""The service against its own engine: how much of the network's rate reaches callers, and what each costs above it.

The lifter of what moves, windows of 27 frames, real sockets. Alternating runs: the engine alone in this process, on
all of its lanes, then the service in its own under load by wrk; ratios are of neighbours. Served rows are counted by
the service while all callers wait in its queue: of a run's first and last seconds, when requests of 16 windows have
begun and none has ended, callers' own counts tell little. CPU milliseconds a request above the engine are the
service's whole CPU time less the engine's own for as many rows. The engine alone runs batches of its budget, as the
service does under load.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from service.engines.engine import Engine
from service.loading import LONG
from service.settings import Settings

from . import engines
from .bodies import JSON, windows
from .served import Served, since, under
from .wrk import Closed, closed_loop

CALLERS = 64
SETTLING_S = 2.0  # until the queue is as long as it will be
ROWS = f'rows_total{{network="{LONG}"}}'
BATCHES = f'batch_rows_count{{network="{LONG}"}}'


def saturation(served: Served, engine: Engine, seconds: float, pairs: int = 5) -> list[dict[str, Any]]:
    """Served over raw rows a second at 64 callers: one line for requests of 1 window, one for 16."""
    url = f"{served.url}/v1/lift"
    lines = []
    for count in (1, 16):
        body = windows(count)
        closed_loop(url, body, JSON, CALLERS, 1)  # the first requests grow buffers
        runs = [_pair(served, engine, url, body, count, seconds) for _ in range(pairs)]
        line: dict[str, Any] = {"windows_a_request": count, "callers": CALLERS, "pairs": pairs}
        for name in runs[0]:
            line[name] = round(statistics.median(run[name] for run in runs), 3)
        line["ratios"] = [round(run["served_over_raw"], 3) for run in runs]
        line["cpu_above"] = [round(run["cpu_ms_above_engine"], 3) for run in runs]
        lines.append(line)
    return lines


def _pair(served: Served, engine: Engine, url: str, body: bytes, count: int, seconds: float) -> dict[str, float]:
    raw = engines.raw(engine, engine.budget, seconds, engines.lanes(Settings()).count)
    with ThreadPoolExecutor(1) as other:
        load = other.submit(closed_loop, url, body, JSON, CALLERS, SETTLING_S + seconds + 1)
        time.sleep(SETTLING_S)
        before, begun, cpu, loop = served.metrics(), time.monotonic(), served.cpu_seconds(), served.loop_cpu_seconds()
        time.sleep(seconds)
        after, ended = served.metrics(), time.monotonic()
        cpu, loop = served.cpu_seconds() - cpu, served.loop_cpu_seconds() - loop
        heard = load.result()
    if heard.errors:
        raise SystemExit(f"{heard.errors} of {heard.requests} requests failed: these figures would mean nothing")
    rows = since(before, after, ROWS)
    served_rate = rows / (ended - begun)
    return {
        "raw_rows_a_second": raw.rows_a_second,
        "served_rows_a_second": served_rate,
        "served_over_raw": served_rate / raw.rows_a_second,
        "engine_cpu_ms_a_row": raw.cpu_ms_a_row,
        "cpu_ms_above_engine": 1000 * cpu * count / rows - raw.cpu_ms_a_row * count,
        "loop_cpu_ms_a_request": 1000 * loop * count / rows,
        "mean_batch": rows / max(since(before, after, BATCHES), 1),
        "p50_ms": heard.p50_ms,
        "p99_ms": heard.p99_ms,
        "loop_lag_p99_ms_under": 1000 * under(before, after, "loop_lag_seconds", 0.99),
    }


def latency(served: Served, engine: Engine, pairs: int = 7, seconds: float = 2.0) -> list[dict[str, Any]]:
    """What one caller of one window waits beyond the engine's own time for it; medians of medians."""
    body = windows(1)
    alone, asked = [], []
    for _ in range(pairs):
        alone.append(1000 * statistics.median(engines.single_runs(engine, seconds)))
        asked.append(closed_loop(f"{served.url}/v1/lift", body, JSON, 1, seconds).p50_ms)
    added = [heard - own for heard, own in zip(asked, alone, strict=True)]
    return [
        {
            "callers": 1,
            "pairs": pairs,
            "engine_p50_ms": round(statistics.median(alone), 3),
            "served_p50_ms": round(statistics.median(asked), 3),
            "added_p50_ms": round(statistics.median(added), 3),
            "added": [round(each, 3) for each in added],
        }
    ]


def callers(served: Served, seconds: float) -> list[dict[str, Any]]:
    """Closed loops of 1 to 256 callers."""
    body = windows(1)
    lines = []
    for number in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        before = served.metrics()
        heard: Closed = closed_loop(f"{served.url}/v1/lift", body, JSON, number, seconds)
        after = served.metrics()
        batch = since(before, after, ROWS) / max(since(before, after, BATCHES), 1)
        lines.append(
            {
                "callers": number,
                "requests_a_second": heard.requests_a_second,
                "p50_ms": heard.p50_ms,
                "p95_ms": heard.p95_ms,
                "p99_ms": heard.p99_ms,
                "mean_batch": round(batch, 2),
                "errors": heard.errors,
            }
        )
    return lines
