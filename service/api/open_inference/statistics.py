"""What the models have done, in the words of the Open Inference Protocol's statistics extension. Nanoseconds.

`inference_stats` are of the requests under /v2; how many rows and batches a model ran is of all doors, from the
metrics, for it is with everybody's rows that one's own are batched.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.metrics import Metrics

STEPS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
_NETWORKS = ("person", "pose", "lift")


@dataclass
class Tally:
    """One model's requests: of each step how often and how long, and when the last one ended (ms since 1970)."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STEPS, 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))
    items: int = 0
    last_ms: int = 0

    def add(self, step: str, seconds: float) -> None:
        self.counts[step] += 1
        self.seconds[step] += seconds


class Statistics:
    """Tallies by model. Only names that are served come here, so they are few."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def succeeded(
        self, model: str, items: int, seconds: float, spent_ms: Mapping[str, float], read_s: float, written_s: float
    ) -> None:
        """One answered request. spent_ms: by stage, as Server-Timing has it; read_s, written_s: of its tensors."""
        tally = self._tallies.setdefault(model, Tally())
        tally.items += items
        tally.last_ms = time.time_ns() // 1_000_000
        tally.add("success", seconds)
        tally.add("queue", spent_ms.get("queue", 0.0) / 1000)
        tally.add("compute_input", read_s + spent_ms.get("decode", 0.0) / 1000)
        tally.add("compute_infer", sum(spent_ms.get(network, 0.0) for network in _NETWORKS) / 1000)
        tally.add("compute_output", written_s)

    def failed(self, model: str, seconds: float) -> None:
        """One request that was refused or failed."""
        self._tallies.setdefault(model, Tally()).add("fail", seconds)

    def of(self, name: str, canonical: str, version: str, role: str, metrics: Metrics) -> dict[str, Any]:
        """An entry of `model_stats`. role: of the network; a pipeline counts its own requests as its batches."""
        tally = self._tallies.get(canonical, Tally())
        items = batches = tally.items
        if role in _NETWORKS:
            items, batches = _rows(metrics, role), _batches(metrics, role)
        return {
            "name": name,
            "version": version,
            "last_inference": tally.last_ms,
            "inference_count": items,
            "execution_count": batches,
            "inference_stats": {
                step: {"count": tally.counts[step], "ns": round(tally.seconds[step] * 1e9)} for step in STEPS
            },
            "batch_stats": [],  # the histogram of batches knows no exact sizes
        }


def _rows(metrics: Metrics, role: str) -> int:
    return _sample(metrics.rows_total.collect(), "rows_total", role)


def _batches(metrics: Metrics, role: str) -> int:
    return _sample(metrics.batch_rows.collect(), "batch_rows_count", role)


def _sample(families: Any, name: str, role: str) -> int:
    """A metric's value for one network."""
    values = [
        sample.value
        for family in families
        for sample in family.samples
        if sample.name.endswith(name) and sample.labels == {"network": role}
    ]
    return int(values[0]) if values else 0
