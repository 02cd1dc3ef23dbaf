"""`python -m benchmarks.sleeping_replica FIXED_MS ROW_MS BATCHES serve ...`: the service with devices that sleep.

Three replicas on one small machine take each other's CPU, which three nodes do not: so here a batch takes the time that
it is given, and everything around it (HTTP, queues, drain) is real. Answers are zeros. What each batch really took goes
to the file BATCHES, a line each: its rows, and seconds from the queue to its answers.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from service import loading
from service.batching.batcher import Batcher
from service.engines.engine import Engine
from service.engines.framing import FinderFraming, LiftFraming, PoseFraming
from service.settings import Settings
from service.store.manifest import Manifest


def sleeping_loader(fixed_s: float, row_s: float) -> Any:
    """What takes the place of `loading.load_engine`."""

    def load(manifest: Manifest, load: Any, settings: Settings, device: str, lanes: Any = None) -> Engine:
        frames = int(manifest.options.get("frames", 1))

        def infer(inputs: Any) -> list[Any]:
            time.sleep(fixed_s + row_s * len(inputs))
            return [np.zeros((len(inputs), frames, 17, 3), np.float32)]

        framings: dict[str, Any] = {
            "person": lambda: FinderFraming(manifest.input, settings.person_side),
            "pose": lambda: PoseFraming(manifest.input),
            "lift": lambda: LiftFraming(frames),
        }
        return Engine(
            manifest.label,
            manifest.role,
            framings[manifest.role](),
            infer,
            sizes=range(1, 33),
            budget=32,
            pads=False,
            runtime="sleep",
            precision="f32",
            network=loading.LONG if manifest.long else manifest.role,
        )

    return load


def tell_batches(file: Path) -> None:
    """Has every queue write down what it delivers."""
    deliver, told = Batcher.deliver, file.open("w", buffering=1)

    def delivered(self: Batcher, waiting: Any, results: Any, seconds: float) -> None:
        told.write(f"{len(results)} {seconds:.6f}\n")
        deliver(self, waiting, results, seconds)

    Batcher.deliver = delivered  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    loading.load_engine = sleeping_loader(float(sys.argv[1]) / 1000, float(sys.argv[2]) / 1000)
    tell_batches(Path(sys.argv[3]))
    sys.argv[1:] = sys.argv[4:]
    runpy.run_module("service", run_name="__main__")
