"""People to write: one who stands and faces the camera, and one who walks through the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from service.formats import RecordedPerson, Recording, World, write
from service.geometry.cameras import Camera, project
from service.geometry.skeletons import H36M17
from service.people import Array, Scale

Floats = np.ndarray[Any, np.dtype[np.float64]]

CAMERA = Camera(900.0, (320.0, 240.0), None, "given")
NTSC = 30000 / 1001

# Camera axes: x right, y down, z away. Whoever faces the camera has the left arm on the picture's right.
LEFT_SIDE = {
    "hip": (0.13, 0.0, 0.0), "knee": (0.14, 0.44, 0.0), "ankle": (0.14, 0.88, 0.02),
    "shoulder": (0.17, -0.48, 0.0), "elbow": (0.2, -0.2, 0.02), "wrist": (0.22, 0.06, -0.01),
}  # fmt: skip
MIDDLE = {
    "pelvis": (0, 0, 0), "spine": (0, -0.24, 0), "thorax": (0, -0.5, 0.01), "head": (0, -0.65, -0.01),
    "head_top": (0, -0.77, -0.01),
}  # fmt: skip


def standing() -> Floats:
    """(17, 3) metres relative to joint 0, camera axes: upright, facing the camera."""
    places: dict[str, tuple[float, float, float]] = dict(MIDDLE)
    for joint, (x, y, z) in LEFT_SIDE.items():
        places[f"left_{joint}"], places[f"right_{joint}"] = (x, y, z), (-x, y, z)
    return np.array([places[joint] for joint in H36M17.joints], float)


def turned(joints: Floats, axis: str, degrees: float, names: tuple[str, ...], about: str) -> Floats:
    """Some joints turned about another one, right-handed in the camera's axes."""
    angle = np.radians(degrees)
    c, s = np.cos(angle), np.sin(angle)
    rotation = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }[axis]
    moved, centre = joints.copy(), joints[H36M17.joints.index(about)]
    rows = [H36M17.joints.index(name) for name in names]
    moved[rows] = (joints[rows] - centre) @ np.array(rotation).T + centre
    return moved


def walking(frames: int) -> Floats:
    """(frames, 17, 3): legs and arms swing, knees bend, and the whole turns once and a half about the vertical."""
    poses = []
    for n in range(frames):
        phase = 2 * np.pi * n / 20
        pose = standing()
        for side, sign in (("left", 1), ("right", -1)):
            leg, arm = (f"{side}_knee", f"{side}_ankle"), (f"{side}_elbow", f"{side}_wrist")
            pose = turned(pose, "x", 30 * sign * np.sin(phase), leg, f"{side}_hip")
            pose = turned(pose, "x", -20 - 20 * sign * np.cos(phase), leg[1:], f"{side}_knee")
            pose = turned(pose, "x", -35 * sign * np.sin(phase), arm, f"{side}_shoulder")
            pose = turned(pose, "x", 40, arm[1:], f"{side}_elbow")
        poses.append(turned(pose, "y", 540 * n / max(frames, 1), H36M17.joints, "pelvis"))
    return np.array(poses).reshape(-1, 17, 3)


def person(joints: Floats, id: int = 3, first: int = 0, positions: Floats | None = None) -> RecordedPerson:
    """That person four metres away, with keypoints that have nothing to do with the joints but their number."""
    frames = len(joints)
    if positions is None:
        positions = np.stack([np.linspace(-0.5, 0.5, frames), np.full(frames, 0.2), np.full(frames, 4.0)], axis=-1)
    pixels = project(joints + np.nan_to_num(positions)[:, None] + [0, 0, 1e-3], CAMERA)
    scores = np.random.default_rng(id).uniform(0.3, 1, (frames, 17, 1))
    boxes = np.concatenate([pixels.min(axis=1), np.ptp(pixels, axis=1)], axis=-1)
    return RecordedPerson(
        id,
        first,
        np.concatenate([pixels, scores], axis=-1).astype(np.float32),
        boxes.astype(np.float32),
        np.full(frames, 0.9, np.float32),
        joints.astype(np.float32),
        positions.astype(np.float32),
        Scale(1.8, "given"),
    )


def recording(
    *people: RecordedPerson,
    frames: int = 40,
    rate: float = NTSC,
    world: World | None = None,
    times: Floats | None = None,
) -> Recording:
    when = np.arange(frames) / rate if times is None else times
    return Recording(when, np.arange(len(when)), (640, 480), rate, people, CAMERA, world)


def upright(points: Array | Floats) -> Floats:
    """Camera axes to the files': x right, y up, z towards the camera."""
    return np.asarray(points, float) * [1, -1, -1]


def without(given: RecordedPerson, change: Callable[[dict[str, Any]], None]) -> RecordedPerson:
    """A copy whose arrays `change` may write to."""
    arrays: dict[str, Any] = {
        name: value.copy() if isinstance(value, np.ndarray) else value for name, value in vars(given).items()
    }
    change(arrays)
    return RecordedPerson(**arrays)


def written(given: Recording, name: str, folder: Path, person: int | None = None) -> Path:
    """The file that the format's name and person give."""
    path = folder / "written"
    with path.open("wb") as file:
        file_name, _ = write(given, name, "clip", file, person)
    return path.rename(folder / file_name)
