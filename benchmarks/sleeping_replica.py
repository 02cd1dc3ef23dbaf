"""`python -m benchmarks.sleeping_replica FIXED_MS ROW_MS serve ...`: the service with devices that sleep, not compute.

Three replicas on one small machine take each other's CPU, which three nodes do not: so here a batch takes the time that
it is given, and everything around it (HTTP, queues, drain) is real. Answers are zeros.
"""

from __future__ import annotations

import runpy
import sys
import time
from typing import Any

import numpy as np

from service import assembly
from service.engines.engine import Engine
from service.engines.framing import FinderFraming, LiftFraming, PoseFraming
from service.settings import Settings
from service.store.manifest import Manifest


def sleeping_loader(fixed_s: float, row_s: float) -> Any:
    """What takes the place of `assembly.load_engine`."""

    def load(manifest: Manifest, load: Any, settings: Settings, device: str) -> Engine:
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
        )

    return load


if __name__ == "__main__":
    assembly.load_engine = sleeping_loader(float(sys.argv[1]) / 1000, float(sys.argv[2]) / 1000)
    sys.argv[1:] = sys.argv[3:]
    runpy.run_module("service", run_name="__main__")
