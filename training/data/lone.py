"""Lone frames as a detector saw them: rendered people whose 3D joints are known, for lifters of photos.

A simulated error knows nothing of what makes a detector fail: crossed legs, a back, somebody in front. What it answered
on renderings does. Pixels of the picture, h36m17 as the service makes it; metres in the camera's axes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.geometry.alignment import statures
from service.geometry.skeletons import to_h36m17

from .photos import read_picture
from .windows import MIRROR, STATURE, Windows

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]

LEAST_SHARE = 0.3  # of the silhouette that must be seen
KEYS = ("points", "sizes", "joints")


@dataclass(frozen=True, eq=False)
class LoneFrames:
    """points (n, 17, 3) pixels and score, NaN unknown; sizes (n, 2); joints (n, 17, 3) relative to joint 0, 1.70 m."""

    points: torch.Tensor
    sizes: torch.Tensor
    joints: torch.Tensor

    def __len__(self) -> int:
        return len(self.points)

    def draw(self, count: int, frames: int, seed: int) -> Windows:
        """Each a window of one frame repeated, half of them seen in a mirror."""
        dice = torch.Generator().manual_seed(seed)
        which = torch.randint(len(self), (count,), generator=dice)
        points, sizes, joints = self.points[which], self.sizes[which], self.joints[which]
        turned = torch.rand(count, generator=dice)[:, None, None] < 0.5
        back = points[:, MIRROR].clone()
        back[..., 0] = sizes[:, :1] - back[..., 0]
        points = torch.where(turned, back, points)
        joints = torch.where(turned, joints[:, MIRROR] * torch.tensor([-1.0, 1.0, 1.0]), joints)
        still = (count, frames, 17, 3)
        return Windows(
            points[:, None].expand(still), sizes, torch.zeros(count, dtype=torch.bool), joints[:, None].expand(still)
        )


def read_lone_frames(file: Path) -> LoneFrames:
    """What `python -m training detect photos` wrote.

    Raises:
        ValueError: it is no such file.
    """
    with np.load(file, allow_pickle=False) as arrays:
        if missing := [key for key in KEYS if key not in arrays.files]:
            raise ValueError(f"{file} lacks {', '.join(missing)}: it is not what `training detect photos` writes")
        return LoneFrames(*(torch.from_numpy(arrays[key].astype(np.float32)) for key in KEYS))


def watch_photos(pose: Callable[[Picture, Array], Array], file: Path, seed: int = 0) -> dict[str, Array]:
    """Every rendered person of an annotation file through a detector, in a box as roughly placed as a finder's.

    Args:
        pose: picture and box (4,) to (17, 3), COCO-17.

    Raises:
        ValueError: nobody in the file has 3D joints.
    """
    rng = np.random.default_rng(seed)
    seen: list[tuple[Array, tuple[int, int], Array]] = []
    for picture, people in _photos(file):
        for box, joints in people:
            loose = box.copy()
            loose[:2] += box[2:] * rng.normal(0, 0.04, 2)
            loose[2:] *= np.exp(rng.normal(0, 0.06, 2))
            points = to_h36m17(pose(picture, loose), "coco17")
            seen.append((points, (picture.shape[1], picture.shape[0]), joints))
    if not seen:
        raise ValueError(f"nobody in {file} has `joints3d`: `python -m training render` writes them")
    points, sizes, joints = (np.array(each, np.float32) for each in zip(*seen, strict=True))
    joints = joints - joints[:, :1]
    factors = (STATURE / statures(joints)).astype(np.float32)
    return {"points": points, "sizes": sizes, "joints": joints * factors[:, None, None]}


def _photos(file: Path) -> Iterator[tuple[Picture, list[tuple[Array, Array]]]]:
    told = json.loads(file.read_text(encoding="utf-8"))
    people: dict[int, list[tuple[Array, Array]]] = {}
    for each in told["annotations"]:
        if each.get("joints3d") and each.get("whole", 0) >= LEAST_SHARE:
            known = np.array(each["bbox"], np.float32), np.array(each["joints3d"], np.float32)
            people.setdefault(each["image_id"], []).append(known)
    for image in told["images"]:
        if image["id"] in people:
            yield read_picture(file.parent / image["file_name"]), people[image["id"]]
