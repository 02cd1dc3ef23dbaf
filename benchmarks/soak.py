"""Hours in minutes: most of what the service can do, a fifth of whose callers vanish, and what that leaves behind.

The lifter, one window a request. Memory in MB (2^20 bytes), and how it grows once the first part has warmed all pools.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from .bodies import JSON, windows
from .overload import capacity
from .poisson import LEFT, open_loop
from .served import Served, since

LOAD, VANISH = 0.8, 0.2
WARM_UP = 0.2  # of the time, in which memory is not looked at
MEGABYTE = 1024 * 1024


def soak(served: Served, minutes: float) -> list[dict[str, Any]]:
    """One line: memory's slope, errors, and the 99th percentile of the first and the last third."""
    full = capacity(served, 4)
    before, ended = served.metrics(), threading.Event()
    seen: list[int] = []

    def watch() -> None:
        while not ended.wait(1.0):
            seen.append(served.memory_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        heard = open_loop(served.port, "/v1/lift", windows(1), JSON, LOAD * full, 60 * minutes, VANISH)
    finally:
        ended.set()
        watcher.join()
    after = served.metrics()
    memory = np.array(seen[int(WARM_UP * len(seen)) :]) / MEGABYTE
    slope = float(np.polyfit(np.arange(len(memory)) / 60, memory, 1)[0])
    third = 20 * minutes
    answered = heard.status == 200
    first, last = (heard.took[answered & part] for part in (heard.due < third, heard.due >= 2 * third))
    return [
        {
            "minutes": minutes,
            "capacity": round(full, 1),
            "asked": len(heard.status),
            "answered": heard.count(200),
            "vanished": heard.count(LEFT),
            "shed": heard.count(503),
            "failed": heard.failed,
            "abandoned_total": since(before, after, "abandoned_total"),
            "queue_rows_after": after['queue_rows{network="lift_long"}'],
            "memory_mb_first": round(float(memory[0]), 1),
            "memory_mb_last": round(float(memory[-1]), 1),
            "memory_mb_a_minute": round(slope, 3),
            "p99_ms_first_third": round(1000 * float(np.quantile(first, 0.99)), 1),
            "p99_ms_last_third": round(1000 * float(np.quantile(last, 0.99)), 1),
            "generator_late_p99_ms": round(1000 * float(np.quantile(heard.late, 0.99)), 2),
        }
    ]
