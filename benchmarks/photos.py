"""One photo end to end against its networks alone, on the same numbers of rows. Milliseconds, medians.

Alternating, photo by photo: one through real sockets, then the engines in this process, of which how many rows of each
the service has run is told by its metrics.
"""

from __future__ import annotations

import http.client
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from service.engines.engine import Engine
from service.settings import Settings
from service.store.manifest import ROLES

from . import engines
from .bodies import JPEG, two_people
from .served import Served, since


def photo(served: Served, settings: Settings, repeats: int = 40, file: Path | None = None) -> list[dict[str, Any]]:
    """What a photo costs above the sum of its networks. file: one of yours, else two people that we rendered."""
    networks = {role: engines.loaded(role, settings) for role in ROLES}
    body = file.read_bytes() if file else two_people()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)

    people = 0

    def ask() -> float:
        nonlocal people
        started = time.perf_counter()
        connection.request("POST", "/v1/images", body, {"Content-Type": JPEG})
        answer = connection.getresponse()
        content = answer.read()
        taken = time.perf_counter() - started
        if answer.status != 200:
            raise SystemExit(f"the photo was answered with {answer.status}")
        people = len(json.loads(content)["people"])
        return 1000 * taken

    before = served.metrics()
    ask()
    after = served.metrics()
    rows = {role: _inputs(before, after, role) for role in ROLES}
    whole, own = [], []
    for _ in range(repeats):
        whole.append(ask())
        own.append(sum(_run(networks[role], count) for role, count in rows.items()))
    above = [asked - networks_ms for asked, networks_ms in zip(whole, own, strict=True)]
    return [
        {
            "photo": file.name if file else "640 x 480, two rendered people",
            "people": people,
            "rows": rows,
            "repeats": repeats,
            "whole_p50_ms": round(statistics.median(whole), 2),
            "networks_p50_ms": round(statistics.median(own), 2),
            "above_p50_ms": round(statistics.median(above), 2),
            "above_p90_ms": round(float(np.quantile(above, 0.9)), 2),
        }
    ]


def _inputs(before: dict[str, float], after: dict[str, float], role: str) -> int:
    """How many of the network's inputs the batches between the two scrapes had."""
    return round(since(before, after, f'batch_rows_sum{{network="{role}"}}'))


def _run(engine: Engine, count: int) -> float:
    """Milliseconds of so many inputs, in the runs that the engine makes of them."""
    if not count:
        return 0.0
    inputs = np.repeat(engine.framing.example(), count, axis=0)
    started = time.perf_counter()
    engines.run(engine, inputs)
    return 1000 * (time.perf_counter() - started)
