"""`poselift serve` with real doors and queues before made networks: `python -m tests.api.made_service FOLDER`.

What the networks do is told by files in FOLDER while it runs: `seconds` (a run's length), `sticky` (each run fails as
CUDA does once its context is gone), `endless` (a run never ends). The rest of the arguments are `poselift serve`'s.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service import cli, loading
from service.engines.device import Lanes
from service.engines.engine import Engine
from service.settings import Settings
from service.store.manifest import Manifest

FOLDER = Path(sys.argv[1])


def outputs_of(manifest: Manifest, settings: Settings, count: int) -> list[NDArray[Any]]:
    """Nobody, joints in the middle, and a pose of small numbers."""
    if manifest.role == "person":
        cells = [settings.person_side // stride for stride in (8, 16, 32)]
        return [np.full((count, side, side, 5), -9, np.float32) for side in cells]
    if manifest.role == "pose":
        heatmaps = np.zeros((count, 17, manifest.input["height"] // 4, manifest.input["width"] // 4), np.float32)
        heatmaps[:, :, 20, 20] = 0.8
        return [heatmaps]
    pose = np.linspace(0, 1, 51, dtype=np.float32).reshape(17, 3)
    return [np.tile(pose, (count, int(manifest.options["frames"]), 1, 1))]


def load_engine(
    manifest: Manifest, load: Callable[[], Any], settings: Settings, device: str, lanes: Lanes | None = None
) -> Engine:
    def infer(inputs: NDArray[Any]) -> list[NDArray[Any]]:
        if (FOLDER / "sticky").exists():
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        while (FOLDER / "endless").exists():
            time.sleep(0.05)
        seconds = FOLDER / "seconds"
        time.sleep(float(seconds.read_text()) if seconds.exists() else 0)
        return outputs_of(manifest, settings, len(inputs))

    label = f"{manifest.name}@{manifest.version}"
    framing = loading.framing_of(manifest, settings)
    sizes = range(1, 17)
    return Engine(
        label,
        manifest.role,
        framing,
        infer,
        sizes=sizes,
        budget=16,
        pads=False,
        runtime="made",
        precision="f32",
        network=loading.LONG if manifest.long else manifest.role,
    )


if __name__ == "__main__":
    loading.load_engine = load_engine
    sys.exit(cli.main(["serve", *sys.argv[2:]]))
