"""What the paper's modules cost: `python -m benchmarks.modules` prints ms a crop and a window with and without each.

The service's CPU engine (OpenVINO, 32 bits), one thread unless told, networks with random weights at their published
sizes and the small one of the ablations. Alternating runs in one process, medians, and each over the plain network's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from service.engines.openvino_engine import openvino_infer
from service.networks import create

from .machine import load_average, machine
from .report import table

ATTENTION: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "six": {"attention": "six"},
    "all": {"attention": "all_blocks"},
}
LIFTER: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "spatial": {"spatial": True},
    "temporal": {"temporal": True},
    "both": {"spatial": True, "temporal": True},
}


class Compared(NamedTuple):
    """network, options, shape: of one input. variants: by name, the plain one first."""

    label: str
    network: str
    options: Mapping[str, Any]
    shape: tuple[int, ...]
    variants: Mapping[str, Mapping[str, Any]]


SMALL_CROP, CROP = (3, 128, 96), (3, 256, 192)
NETWORKS = (
    Compared("HRNet-W32, 256x192", "hrnet-w32", {}, CROP, ATTENTION),
    Compared("ablation network, 128x96", "hrnet-w16", {"blocks": 2}, SMALL_CROP, ATTENTION),
    Compared("lifter, 81 frames", "lifter", {"frames": 81}, (81, 17, 2), LIFTER),
    Compared("lifter, 27 frames", "lifter", {"frames": 27}, (27, 17, 2), LIFTER),
    Compared("lifter, 9 frames", "lifter", {"frames": 9}, (9, 17, 2), LIFTER),
)


def compare(compared: Compared, batch: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    """A line a variant: milliseconds a row, and how much longer than the plain one, in percent."""
    torch.manual_seed(0)
    inputs = np.random.default_rng(0).normal(size=(batch, *compared.shape)).astype(np.float32)
    ways = {
        name: openvino_infer(
            create(compared.network, **{**compared.options, **options}), inputs[:1], (batch,), threads, "f32"
        )
        for name, options in compared.variants.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, infer in ways.items():
            started = time.perf_counter()
            infer(inputs)
            seconds[name].append(time.perf_counter() - started)
    ms = {name: 1000 * statistics.median(each[1:]) / batch for name, each in seconds.items()}  # the first warms up
    plain = next(iter(ms.values()))
    return [
        {"network": compared.label, "modules": name, "ms_a_row": round(each, 3), "more": f"{each / plain - 1:+.1%}"}
        for name, each in ms.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.modules", description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    print(json.dumps({"machine": machine(), "batch": given.batch, "threads": given.threads, "rounds": given.rounds}))
    lines = [line for each in NETWORKS for line in compare(each, given.batch, given.threads, given.rounds)]
    print(f"{table(lines)}\n\nload average after: {load_average()}")


if __name__ == "__main__":
    main()
