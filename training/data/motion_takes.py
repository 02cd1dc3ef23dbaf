"""Motion packs as takes: every sequence filmed by made cameras, so that the paper's lifters train on our own data.

The cameras stand around the person as a laboratory's do, at 4 m and more, 50 degrees wide, 1000 x 1000 pixels, and
follow from the sequence's number alone. 2D points are exact, or moved as a detector would: errors that wander and
flicker, ends of limbs most. World axes z up; out come root-relative metres in the camera's axes, bodies as they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .motion import Motion, read_motion
from .takes import Take
from .windows import HARDNESS

Floats = NDArray[np.float64]

FILES = {True: "motion_train.npz", False: "motion_val.npz"}
VIEWS = 4
SIDE_PX = 1000
FOCAL_PX = SIDE_PX / 2 / np.tan(np.radians(25))
NEAREST_M = 4.0
MISS = 0.016  # a mean joint's error, as a share of the person's size in the picture
KEPT = 0.9  # of the wandering part, from frame to frame


def read_motion_takes(folder: Path, training: bool, detections: str) -> list[Take]:
    """The takes of `motion_train.npz` or `motion_val.npz`.

    Args:
        detections: exact or simulated.

    Raises:
        ValueError: the file is missing, is no pack, or there are no such 2D points.
    """
    path = folder / FILES[training]
    if detections not in ("exact", "simulated"):
        raise ValueError(f"a motion pack's 2D points are `exact` or `simulated`, got {detections!r}")
    if not path.is_file():
        raise ValueError(f"there is no {path}: a motion pack, see docs/training.md")
    motion = read_motion(path)
    return [take for number in range(len(motion.lengths)) for take in filmed(motion, number, detections)]


def filmed(motion: Motion, number: int, detections: str) -> list[Take]:
    """One sequence before its cameras."""
    joints = motion.joints[motion.starts[number] : motion.starts[number + 1]].astype(np.float64)
    rng = np.random.default_rng([number, len(joints)])
    first = rng.uniform(0, 2 * np.pi)
    takes = []
    for view in range(VIEWS):
        in_camera = _filmed(joints, first + 2 * np.pi * view / VIEWS, rng)
        points = FOCAL_PX * in_camera[..., :2] / in_camera[..., 2:] + SIDE_PX / 2
        if detections == "simulated":
            # Draws of their own, so that the cameras are the same with errors and without.
            points = points + _errors(points, np.random.default_rng([number, len(joints), view]))
        relative = (in_camera - in_camera[:, :1]).astype(np.float32)
        kind = str(motion.kinds[number])
        name = f"{kind} {number} view {view}"
        takes.append(Take(name, kind, points.astype(np.float32), relative, (SIDE_PX, SIDE_PX)))
    return takes


def _filmed(joints: Floats, angle: float, rng: np.random.Generator) -> Floats:
    """(frames, 17, 3) in the axes of a camera that looks at the sequence's middle from outside of where it goes."""
    middle = joints[:, 0].mean(axis=0)
    reach = np.linalg.norm(joints[:, 0, :2] - middle[:2], axis=-1).max()
    away = NEAREST_M + reach + rng.uniform(0, 2)
    eye = middle + np.array([away * np.cos(angle), away * np.sin(angle), rng.uniform(0, 1.0)])
    ahead = (middle - eye) / np.linalg.norm(middle - eye)
    right = np.cross(ahead, [0, 0, 1])
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(ahead, right), ahead])
    turned: Floats = (joints - eye) @ axes.T
    return turned


def _errors(points: Floats, rng: np.random.Generator) -> Floats:
    """(frames, 17, 2) pixels by which a detector misses."""
    size = np.sqrt(np.ptp(points, axis=1).prod(-1)).mean()
    steps = rng.normal(size=points.shape)
    wander = np.empty_like(steps)
    wander[0] = steps[0]
    for frame in range(1, len(steps)):
        wander[frame] = KEPT * wander[frame - 1] + np.sqrt(1 - KEPT**2) * steps[frame]
    spread = MISS * size * np.array(HARDNESS)[:, None]
    moved: Floats = spread * (0.8 * wander + 0.6 * rng.normal(size=points.shape))
    return moved
