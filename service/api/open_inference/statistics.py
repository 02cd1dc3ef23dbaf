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

from .repository import Served

STEPS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
_ROLES = ("person", "pose", "lift")  # the stages that are networks


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
        tally.add("compute_infer", sum(spent_ms.get(role, 0.0) for role in _ROLES) / 1000)
        tally.add("compute_output", written_s)

    def failed(self, model: str, seconds: float) -> None:
        """One request that was refused or failed."""
        self._tallies.setdefault(model, Tally()).add("fail", seconds)

    def of(self, served: Served, metrics: Metrics) -> dict[str, Any]:
        """An entry of `model_stats`: of all that answer under a name. A pipeline's requests are its batches."""
        tallies = [self._tallies.get(name, Tally()) for name in {model.name for model in served.models}]
        items = batches = sum(tally.items for tally in tallies)
        if served.role in _ROLES:
            items = sum(_rows(metrics, model.network) for model in served.models)
            batches = sum(_batches(metrics, model.network) for model in served.models)
        return {
            "name": served.name,
            "version": served.versions[0],
            "last_inference": max(tally.last_ms for tally in tallies),
            "inference_count": items,
            "execution_count": batches,
            "inference_stats": {
                step: {
                    "count": sum(tally.counts[step] for tally in tallies),
                    "ns": round(sum(tally.seconds[step] for tally in tallies) * 1e9),
                }
                for step in STEPS
            },
            "batch_stats": [],  # the histogram of batches knows no exact sizes
        }


def _rows(metrics: Metrics, network: str) -> int:
    return _sample(metrics.rows_total.collect(), "rows_total", network)


def _batches(metrics: Metrics, network: str) -> int:
    return _sample(metrics.batch_rows.collect(), "batch_rows_count", network)


def _sample(families: Any, name: str, network: str) -> int:
    """A metric's value for one network."""
    values = [
        sample.value
        for family in families
        for sample in family.samples
        if sample.name.endswith(name) and sample.labels == {"network": network}
    ]
    return int(values[0]) if values else 0
