"""The engines alone: what each network of the store costs a row on this machine, at every batch size that is warmed."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from service.assembly import load_engine
from service.engines.device import choose_device
from service.engines.engine import Engine
from service.settings import Settings
from service.store.manifest import ROLES
from service.store.store import Store, embedded_store


def row_times(settings: Settings, repeats: int = 15) -> dict[str, Any]:
    """Role to the model's label and its median milliseconds a row by batch size, without queue or framing."""
    device = choose_device(settings.device)
    store = Store(settings.store or embedded_store())
    figures: dict[str, Any] = {}
    for role in ROLES:
        entry = store.default(role)
        engine = load_engine(entry.manifest, entry.load, settings, device)
        figures[role] = {"model": engine.label, "runtime": engine.runtime, "ms_a_row": _by_size(engine, repeats)}
    return figures


def _by_size(engine: Engine, repeats: int) -> dict[int, float]:
    example = engine.framing.example()
    figures = {}
    for size in engine.sizes:
        inputs = np.repeat(example, size, axis=0)
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            engine.infer(inputs)
            times.append(time.perf_counter() - started)
        figures[size] = round(1000 * statistics.median(times) / size, 2)
    return figures
