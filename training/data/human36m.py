"""Human3.6M in the layout everybody has: `data_3d_h36m.npz` and a `data_2d_h36m_*.npz` beside it.

World joints become the four cameras' views: root-relative metres in the camera's axes, and 2D points in pixels, a
detector's or the exact projection through the lens. Subjects, actions and what is left out are the field's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .joint_orders import HUMAN36M_OF_32
from .object_arrays import read_objects
from .takes import Take

Floats = NDArray[np.float64]

TRAINING = ("S1", "S5", "S6", "S7", "S8")
TESTING = ("S9", "S11")
# In the tables' order; the recordings' own names of three differ.
ACTIONS = (
    "Directions", "Discussion", "Eating", "Greeting", "Phoning", "Photo", "Posing", "Purchases", "Sitting",
    "SittingDown", "Smoking", "Waiting", "WalkDog", "Walking", "WalkTogether",
)  # fmt: skip
RENAMED = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}
CORRUPT = {("S11", "Directions")}  # the first take of it; the second is fine
RATE = 50.0

JOINTS_FILE = "data_3d_h36m.npz"
WHERE_FROM = (
    "Human3.6M is had from vision.imar.ro/human3.6m by those who sign its licence; VideoPose3D's DATASETS.md says how"
    " to make this file of it, and where its 2D detections lie"
)
OURS_FROM = "`python -m training detect human36m VIDEOS` makes it with a detector of ours"
# By name: the file's middle part, and the order of its joints.
DETECTIONS = {
    "cpn": ("cpn_ft_h36m_dbb", "h36m17"),
    "detectron2": ("detectron_pt_coco", "coco17"),
    "hourglass": ("sh_ft_h36m", "mpii16"),
    "gt": ("gt", "h36m17"),
}


@dataclass(frozen=True, eq=False)
class View:
    """One camera as one subject was filmed by it. turn: (3, 3) world to camera; place: (3,) in the world, metres."""

    id: str
    size: tuple[int, int]
    centre: Floats
    focal: Floats
    radial: Floats
    tangential: Floats
    turn: Floats
    place: Floats

    def from_world(self, joints: NDArray[np.floating]) -> Floats:
        """World metres (..., 3) to the camera's: x right, y down, z away."""
        turned: Floats = (np.asarray(joints, np.float64) - self.place) @ self.turn.T
        return turned

    def project(self, joints: NDArray[np.floating]) -> Floats:
        """Camera metres (..., 3) to pixels (..., 2) through the lens, as the data set's own projection has it."""
        given = np.asarray(joints, np.float64)
        flat = (given[..., :2] / given[..., 2:]).clip(-1, 1)
        square = np.square(flat).sum(-1, keepdims=True)
        radial = 1 + (self.radial * np.concatenate([square, square**2, square**3], -1)).sum(-1, keepdims=True)
        along = (self.tangential * flat).sum(-1, keepdims=True)
        pixels: Floats = self.focal * (flat * (radial + along) + self.tangential * square) + self.centre
        return pixels


@cache
def views(subject: str) -> tuple[View, ...]:
    """The four cameras of a subject, in the order of the 2D files. A ValueError names the subjects that there are."""
    path = Path(__file__).with_name("human36m_cameras.toml")
    told = tomllib.loads(path.read_text(encoding="utf-8"))
    if subject not in told["subjects"]:
        raise ValueError(f"Human3.6M's cameras are known for {', '.join(told['subjects'])}; got {subject!r}")
    where = told["subjects"][subject]
    made = []
    for camera, turn, place in zip(told["cameras"], where["turn"], where["place"], strict=True):
        lens = {name: np.array(camera[name]) for name in ("centre", "focal", "radial", "tangential")}
        size = (int(camera["size"][0]), int(camera["size"][1]))
        made.append(View(camera["id"], size, **lens, turn=_rotation(turn).T, place=np.array(place) / 1000))
    return tuple(made)


def _rotation(quaternion: Sequence[float]) -> Floats:
    """(w, x, y, z) of any length to (3, 3)."""
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def action_of(take: str) -> str:
    """The action of a take: the word before the space, by its name in the tables."""
    name = take.split(" ")[0]
    return RENAMED.get(name, name)


def detections_file(detections: str) -> tuple[str, str]:
    """File name and joint order of a set of 2D points: one of DETECTIONS, or `ours-...` from `training detect`."""
    if detections in DETECTIONS:
        middle, layout = DETECTIONS[detections]
    elif detections.startswith("ours-"):
        middle, layout = detections, "h36m17"
    else:
        raise ValueError(f"2D points are {', '.join(DETECTIONS)}, exact or ours-NAME; got {detections!r}")
    return f"data_2d_h36m_{middle}.npz", layout


def read_human36m(folder: Path, subjects: Sequence[str], detections: str = "cpn", stride: int = 1) -> list[Take]:
    """Every take of the subjects before each camera, in the files' order.

    Args:
        folder: where `data_3d_h36m.npz` and the 2D file lie.
        detections: one of DETECTIONS; `exact` projects the 3D joints instead, and needs no 2D file; `ours-NAME`.
        stride: keeps every n-th frame only.

    Raises:
        ValueError: a file is missing (the message says how people get it), or has not the form; names subject and take.
    """
    world = read_objects(folder / JOINTS_FILE, WHERE_FROM)
    if "positions_3d" not in world:
        raise ValueError(f"{folder / JOINTS_FILE} lacks `positions_3d`; it has {', '.join(world) or 'nothing'}")
    points: Any = None
    layout = "h36m17"
    if detections != "exact":
        name, layout = detections_file(detections)
        told = read_objects(folder / name, OURS_FROM if detections.startswith("ours-") else WHERE_FROM)
        if "positions_2d" not in told:
            raise ValueError(f"{folder / name} lacks `positions_2d`; it has {', '.join(told) or 'nothing'}")
        points = told["positions_2d"]
    takes: list[Take] = []
    for subject in subjects:
        if subject not in world["positions_3d"]:
            raise ValueError(f"{folder / JOINTS_FILE} lacks {subject}; it has {', '.join(world['positions_3d'])}")
        for take, joints in world["positions_3d"][subject].items():
            if (subject, take) in CORRUPT:
                continue
            seen = None
            if points is not None:
                seen = points.get(subject, {}).get(take)
                if seen is None or len(seen) != 4:
                    raise ValueError(f"the 2D file has no four views of {subject} {take!r}")
            takes += _views_of(subject, take, np.asarray(joints), seen, layout, stride)
    return takes


def _views_of(
    subject: str, take: str, world: NDArray[np.floating], seen: Any, layout: str, stride: int
) -> Iterator[Take]:
    if world.ndim != 3 or world.shape[1:] not in ((32, 3), (17, 3)):
        raise ValueError(f"{subject} {take!r}: 3D joints must be (frames, 32, 3), got {world.shape}")
    joints = world[:, list(HUMAN36M_OF_32)] if world.shape[1] == 32 else world
    for number, view in enumerate(views(subject)):
        in_camera = view.from_world(joints)
        name = f"{subject} {take} {view.id}"
        if seen is None:
            points = view.project(in_camera)
        else:
            points = np.asarray(seen[number], np.float64)[..., :2]
            if len(points) < len(joints):
                raise ValueError(f"{name}: {len(points)} frames of 2D for {len(joints)} of 3D")
            points = points[: len(joints)]  # the videos are longer than the recordings
        relative = (in_camera - in_camera[:, :1]).astype(np.float32)
        yield Take(name, action_of(take), points[::stride].astype(np.float32), relative[::stride], view.size, layout)
