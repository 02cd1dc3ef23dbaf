"""What every peer runs: a window of keypoints to 3D joints, by OpenVINO or by nothing. numpy and openvino only.

Pixels in; metres out, root-relative, for a person of 1.70 m. No scale, no place in space: those are the service's own.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

PORT = int(os.environ.get("PEER_PORT", "8000"))
BATCHING = os.environ.get("PEER_BATCHING") == "1"
MAX_BATCH, MAX_WAIT_S = 64, 0.002
SIZES = (16, 8, 4, 1)  # the service's own on a CPU: a batch is made up of these
FRAMES = 27
# A person in h36m17's order, metres: right leg, left leg, spine and head, left arm, right arm.
STANDING: Array = np.array(
    [
        *([0, 0, 0], [-0.13, 0, 0], [-0.13, 0.43, 0.05], [-0.13, 0.85, 0.1], [0.13, 0, 0], [0.13, 0.43, 0.05]),
        *([0.13, 0.85, 0.1], [0, -0.23, 0], [0, -0.48, 0], [0, -0.57, -0.05], [0, -0.68, 0], [0.15, -0.46, 0]),
        *([0.17, -0.18, 0], [0.18, 0.06, 0], [-0.15, -0.46, 0], [-0.17, -0.18, 0], [-0.18, 0.06, 0]),
    ],
    np.float32,
)


def window(body: dict[str, Any]) -> Array:
    """The keypoints of a request's body, (27, 17, 2) pixels."""
    return np.array(body["keypoints"], np.float32)


class Network:
    """(n, 27, 17, 2) pixels of pictures of 1000 x 1000 to (n, 27 or 1, 17, 3) metres."""

    def __init__(self) -> None:
        engine, centre = os.environ.get("PEER_ENGINE"), os.environ.get("PEER_FRAMES") == "centre"
        self._kept = slice(FRAMES // 2, FRAMES // 2 + 1) if centre else slice(None)
        self._requests = _compiled(engine, int(os.environ["PEER_THREADS"])) if engine else {}

    def __call__(self, windows: Array) -> NDArray[np.float64]:
        if not self._requests:
            poses: Array = np.broadcast_to(STANDING, (len(windows), FRAMES, 17, 3))
        else:
            poses = self._run(channels(windows, 1000))
        return poses[:, self._kept].astype(np.float64).round(4)

    def _run(self, inputs: Array) -> Array:
        parts, first = [], 0
        while first < len(inputs):
            size = next(size for size in SIZES if size <= len(inputs) - first)
            request = self._requests[size]
            request.infer([np.ascontiguousarray(inputs[first : first + size])], share_inputs=True)
            parts.append(np.array(request.output_tensors[0].data))
            first += size
        poses: Array = np.concatenate(parts)
        return poses - poses[:, :, :1]


def _compiled(engine: str, threads: int) -> dict[int, Any]:
    """A request of each size, with the service's own hints."""
    import openvino

    core = openvino.Core()
    hints = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    requests = {}
    for size in SIZES:
        model = core.read_model(engine)
        model.reshape([size, FRAMES, 17, 6])
        requests[size] = core.compile_model(model, "CPU", hints).create_infer_request()
    return requests


def channels(windows: Array, side: int) -> Array:
    """The lifter's input, (n, 27, 17, 6), where every joint is known, given as h36m17, with a score of 1.

    Args:
        windows: (n, 27, 17, 2) pixels of a square picture of that side.
    """
    around = windows - windows[:, :, :1]
    extent = np.sqrt((around**2).sum(-1).mean((1, 2)))
    inputs = np.ones((*windows.shape[:3], 6), np.float32)
    steps = np.rint(24 * np.log2(np.maximum(extent, 1) / (side / 2)))  # sizes are told in steps of 3 %
    inputs[..., 0:2] = around / (side / 2 * np.exp2(steps / 24))[:, None, None, None]
    inputs[..., 3:5] = (windows - side / 2) / (side / 2)
    return inputs
