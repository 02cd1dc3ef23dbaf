"""The engines alone, as the service builds them: what each network of the store costs, without queue or framing."""

from __future__ import annotations

import functools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from service.engines.device import Lanes, choose_device
from service.engines.engine import Engine
from service.engines.openvino_engine import openvino_available
from service.engines.torch_framing import from_pixels
from service.loading import LONG, framing_of, load_engine
from service.networks import create
from service.settings import Settings
from service.store.manifest import ROLES, Role
from service.store.store import Entry, Store, embedded_store

SIDE = 1024  # of the matrices whose product tells what the machine can do


@dataclass(frozen=True)
class Raw:
    """An engine run by itself: rows and CPU seconds."""

    rows_a_second: float
    cpu_ms_a_row: float


def chosen(slot: str, settings: Settings) -> Entry:
    """The store's model of a slot that the service has: the default of a role, or the lifter of what moves."""
    store = Store(settings.store or embedded_store())
    if slot == LONG:
        return store.long_lifter() or store.default("lift")
    return store.default(cast(Role, slot))


def loaded(slot: str, settings: Settings | None = None) -> Engine:
    """The model of a slot, warmed."""
    settings = settings or Settings(remembered_frames=0)
    entry = chosen(slot, settings)
    return load_engine(entry.manifest, entry.load, settings, choose_device(settings.device), lanes(settings))


@functools.cache
def lanes(settings: Settings) -> Lanes:
    """The machine's lanes, as the service would have them."""
    on_cpu = choose_device(settings.device) == "cpu" and openvino_available()
    return Lanes(settings.network_lanes if on_cpu else 1)


def raw(engine: Engine, size: int, seconds: float, lanes: int) -> Raw:
    """Runs batches of so many rows for so long, on all lanes at once, each in the runs of warmed sizes that the engine
    makes of it."""
    inputs = np.repeat(engine.framing.example(), size, axis=0)
    started, spent = time.perf_counter(), time.process_time()

    def lane() -> int:
        rows = 0
        while time.perf_counter() - started < seconds or not rows:
            run(engine, inputs)
            rows += size
        return rows

    with ThreadPoolExecutor(lanes) as pool:
        rows = sum(each.result() for each in [pool.submit(lane) for _ in range(lanes)])
    return Raw(rows / (time.perf_counter() - started), 1000 * (time.process_time() - spent) / rows)


def run(engine: Engine, inputs: Any) -> None:
    """Any number of inputs, in runs of warmed sizes, largest first."""
    first = 0
    while first < len(inputs):
        size = max(size for size in engine.sizes if size <= len(inputs) - first)
        engine.infer(inputs[first : first + size])
        first += size


def run_times(engine: Engine, repeats: int = 15, beside: Lanes | None = None) -> dict[int, float]:
    """Median seconds of one run, by warmed size; alone, or on its lane of `beside`."""
    if beside is not None:
        with beside.taken():
            return run_times(engine, repeats)
    example = engine.framing.example()
    figures = {}
    for size in engine.sizes:
        inputs = np.repeat(example, size, axis=0)
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            engine.infer(inputs)
            times.append(time.perf_counter() - started)
        figures[size] = statistics.median(times)
    return figures


def matrix_gflops(threads: int, repeats: int = 15) -> float:
    """What a product of 32-bit matrices reaches, in 10^9 multiplications and additions a second."""
    torch.set_num_threads(threads)
    left = torch.rand(SIDE, SIDE)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        torch.mm(left, left)
        times.append(time.perf_counter() - started)
    return 2 * SIDE**3 / statistics.median(times) / 1e9


def gflop_a_row(slot: str, settings: Settings) -> float:
    """10^9 multiplications and additions of one input, of the network's matrix products and convolutions alone."""
    manifest = chosen(slot, settings).manifest
    module = create(manifest.network, **manifest.options).eval()
    network = module if manifest.role == "lift" else from_pixels(module, manifest.input).eval()
    example = torch.from_numpy(framing_of(manifest, settings).example())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(example)
    return float(counter.get_total_flops()) / 1e9


def row_times(settings: Settings, repeats: int = 15) -> list[dict[str, Any]]:
    """Milliseconds a row: a line for each network and batch size, and what share that is of a matrix product's rate."""
    lines = []
    most = matrix_gflops(settings.network_threads)
    for slot in (*ROLES, LONG):
        engine, gflop = loaded(slot, settings), gflop_a_row(slot, settings)
        for size, seconds in run_times(engine, repeats).items():
            lines.append(
                {
                    "network": slot,
                    "model": engine.label,
                    "runtime": f"{engine.runtime} {engine.precision}",
                    "batch": size,
                    "ms_a_row": round(1000 * seconds / size, 2),
                    "rows_a_second": round(size / seconds, 1),
                    "gflop_a_row": round(gflop, 3),
                    "of_f32_matrix_rate": round(gflop * size / seconds / most, 2),
                }
            )
    return lines


def single_runs(engine: Engine, seconds: float) -> list[float]:
    """Seconds of each run of one row, for so long."""
    inputs = engine.framing.example()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or not times:
        started = time.perf_counter()
        engine.infer(inputs)
        times.append(time.perf_counter() - started)
    return times
