"""Rows as the Open Inference Protocol sends them: crops, sequences and pictures, through everybody's queues.

Pixels are the crop's own (the upright picture's for the finder), from the corner; metres in the camera's axes, relative
to joint 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.engines.framing import Found, PictureRow, TensorCropRow

from .call import Call, run_rows
from .lift import LiftOptions, LiftPipeline
from .photo import PhotoPipeline

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def crop_size(photo: PhotoPipeline) -> tuple[int, int]:
    """Height and width of the crops that the detector takes."""
    _, height, width, _ = photo.pose.engine.framing.example().shape
    return height, width


async def detect_in_crops(
    photo: PhotoPipeline, crops: Pixels, heatmaps: bool, call: Call
) -> tuple[Array, Array | None]:
    """The COCO-17 joints of the person in each crop.

    Args:
        crops: (n, height, width, 3) uint8 RGB, of `crop_size`.

    Returns:
        keypoints: (n, 17, 3) x and y in crop pixels, score 0..1.
        heatmaps: (n, 17, rows, columns) as the network answered them, if asked for.
    """
    asked = [TensorCropRow(crop, heatmaps) for crop in crops]
    poses = await run_rows(photo.pose, asked, call)
    if not poses:
        # Without a row nobody says how large a heatmap is.
        return np.zeros((0, 17, 3), np.float32), np.zeros((0, 17, 0, 0), np.float32) if heatmaps else None
    points = np.stack([pose.points for pose in poses])
    return points, np.stack([pose.heatmaps for pose in poses]) if heatmaps else None


async def lift_tensor(
    lift: LiftPipeline,
    points: Array,
    sizes: NDArray[np.int64],
    stature: float,
    call: Call,
    model: str | None = None,
) -> tuple[Array, str]:
    """Sequences of equal length to 3D, each as POST /v1/lift does it at 30 frames a second.

    Args:
        points: (n, frames, 17, 3) pixels and score in the h36m17 order; unknown joints are NaN.
        sizes: (n, 2) width and height of each sequence's picture in pixels.
        stature: standing height in metres that the answer is for.
        model: name@version of the lifter to take; without one, that for sequences of this length.

    Returns:
        joints: (n, frames, 17, 3) metres.
        lifter: name@version of the one that lifted them.
    """
    joints, lifter = np.zeros(points.shape, np.float32), model or lift.models["lift"]
    models = {"lift": model} if model else {}
    for width, height in np.unique(sizes, axis=0):
        chosen = np.flatnonzero((sizes == [width, height]).all(axis=1))
        options = LiftOptions("h36m17", (int(width), int(height)), stature=stature, models=models)
        lifted = await lift.lift_people([points[n] for n in chosen], options, call)
        joints[chosen] = np.stack([each.joints for each in lifted])
        lifter = lifted[0].models["lift"]
    return joints, lifter


async def find_boxes(photo: PhotoPipeline, pixels: Pixels, call: Call) -> Found:
    """Everyone whom the finder takes for possible in one picture (height, width, 3) RGB."""
    found: Found = (await run_rows(photo.person, [PictureRow(pixels)], call))[0]
    return found
