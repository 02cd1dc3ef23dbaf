"""Open loops: requests that come by chance at a part of what the service can do, and beyond; beside the simulation.

The lifter, one window a request. The simulation (benchmarks/simulation.py) runs the service's own queue rules with the
engine's batch times as measured just before, stretched by what batches took longer at the service's capacity, where
they share the cores with everything else; it knows no sockets, and nothing that waits for the event loop.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.batching.policy import Limits
from service.engines.engine import Engine
from service.loading import LONG
from service.settings import Settings

from . import engines, simulation
from .bodies import JSON, windows
from .poisson import open_loop
from .saturation import BATCHES, CALLERS, ROWS
from .served import Served, since, under
from .wrk import closed_loop

BATCH_SECONDS = f'batch_duration_seconds_sum{{network="{LONG}"}}'
SHARES = (0.5, 0.8, 1.0, 1.2, 1.5)
SIMULATED_S = 60.0


def capacity(served: Served, seconds: float, runs: int = 3) -> float:
    """Requests a second in a closed loop of 64 callers, the median of some runs."""
    url, body = f"{served.url}/v1/lift", windows(1)
    return statistics.median(closed_loop(url, body, JSON, CALLERS, seconds).requests_a_second for _ in range(runs))


def overload(
    served: Served, engine: Engine, seconds: float, shares: Sequence[float] = SHARES, full: float | None = None
) -> list[dict[str, Any]]:
    """One line for each share of the capacity: the service's figures, and the simulation's with `simulated_` before."""
    lanes = engines.lanes(Settings())
    times = simulation.MeasuredTimes(engines.run_times(engine, beside=lanes))
    before = served.metrics()
    full = full or capacity(served, seconds / 3)
    after = served.metrics()
    rows_each = since(before, after, ROWS) / max(since(before, after, BATCHES), 1)
    took = since(before, after, BATCH_SECONDS) / max(since(before, after, BATCHES), 1)
    stretched = max(1.0, took / times.seconds(round(rows_each))) if rows_each >= 1 else 1.0
    times = simulation.MeasuredTimes({size: stretched * each for size, each in times.by_size.items()})
    budget = int(served.metrics()[f'batch_cap_rows{{network="{LONG}"}}'])
    rows = int(served.metrics()[f'queue_limit_rows{{network="{LONG}"}}'])
    limits = Limits(rows=rows, share=1.0, budget=budget)
    lines = []
    for seed, share in enumerate(shares):
        before = served.metrics()
        heard = open_loop(served.port, "/v1/lift", windows(1), JSON, share * full, seconds, seed=seed)
        after = served.metrics()
        told = simulation.open_loop(1, share * full, times, SIMULATED_S, limits, lanes.count)
        ok = heard.count(200)
        p99 = heard.latency_ms(200, 0.99)
        lines.append(
            {
                "load": share,
                "capacity": round(full, 1),
                "batches_stretched": round(stretched, 2),
                "asked": len(heard.status),
                "goodput": round(ok / seconds, 1),
                "goodput_over_capacity": round(ok / seconds / full, 3),
                "p50_ms": heard.latency_ms(200, 0.5),
                "p95_ms": heard.latency_ms(200, 0.95),
                "p99_ms": p99,
                "shed_share": round(heard.count(503) / max(len(heard.status), 1), 4),
                "shed_p50_ms": heard.latency_ms(503, 0.5),
                "shed_p99_ms": heard.latency_ms(503, 0.99),
                "failed": heard.failed,
                "mean_batch": round(since(before, after, ROWS) / max(since(before, after, BATCHES), 1), 2),
                "loop_lag_p99_ms_under": 1000 * under(before, after, "loop_lag_seconds", 0.99),
                "simulated_p50_ms": told["p50_ms"],
                "simulated_p99_ms": told["p99_ms"],
                "simulated_mean_batch": told["mean_batch_rows"],
                "simulated_shed_share": round(told["refused"] / (share * full * SIMULATED_S), 4),
                "p99_over_simulated": round(p99 / told["p99_ms"], 2) if p99 else None,
                "generator_late_p99_ms": round(1000 * float(np.quantile(heard.late, 0.99)), 2),
                "generator_cpu": heard.generator_cpu,
            }
        )
    return lines
