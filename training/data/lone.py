"""Lone frames as a detector saw them: rendered people whose 3D joints are known, for lifters of photos.

A simulated error knows nothing of what makes a detector fail: crossed legs, a back, somebody in front. What it answered
on renderings does. Pixels of the picture, h36m17 as the service makes it; metres in the camera's axes.

A camera that turns where it stands, and another lens, show the same person elsewhere in another picture: what a joint's
place becomes follows from its ray alone. So a rendered crop stands for photos in which its person is not in the middle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.geometry.alignment import statures
from service.geometry.skeletons import to_h36m17

from .photos import read_picture
from .windows import MIRROR, SIZES, STATURE, Dice, Windows, rotations

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]

LEAST_SHARE = 0.3  # of the silhouette that must be seen
KEYS = ("points", "sizes", "focals", "joints")
FIELD_OF_VIEW = (25.0, 100.0)  # degrees of the longer side, of another lens
ASIDE, ROLLED, ROLLED_FAR = 0.2, 0.1, 0.4  # radians by which a camera turns: spreads of normal draws
THORAX = 8
LEAST_RAY = 1e-3  # against division by nothing
LEAST_DEPTH = 0.3  # of a ray of length 1 as another camera sees it: who would lie further aside stays where he was


@dataclass(frozen=True, eq=False)
class LoneFrames:
    """points (n, 17, 3) pixels and score, NaN unknown; sizes (n, 2) and focals (n,) of their pictures, pixels; joints
    (n, 17, 3) relative to joint 0, 1.70 m."""

    points: torch.Tensor
    sizes: torch.Tensor
    focals: torch.Tensor
    joints: torch.Tensor

    def __len__(self) -> int:
        return len(self.points)

    def draw(self, count: int, frames: int, seed: int, turned: float = 0.5, leaning: float = 1.0) -> Windows:
        """Each a window of one frame repeated, half of them seen in a mirror, a share `turned` by other cameras.

        leaning: how often somebody is drawn whose trunk leans by more than 45 degrees, for others' once.
        """
        dice = Dice(seed, torch.device("cpu"))
        which = dice.weighted(1 + (leaning - 1) * self.leans.float(), count)
        return self.some(which).varied(dice, turned).windows(frames)

    def some(self, which: torch.Tensor) -> LoneFrames:
        """Those of the indices (k,)."""
        return LoneFrames(*(getattr(self, key)[which] for key in KEYS))

    def joined(self, others: LoneFrames) -> LoneFrames:
        """These, and then the others."""
        return LoneFrames(*(torch.cat([getattr(self, key), getattr(others, key)]) for key in KEYS))

    def varied(self, dice: Dice, turned: float) -> LoneFrames:
        """Half of them as a mirror shows them, then a share `turned` as other cameras see them."""
        mirrored = _either(dice.chance(0.5, len(self)), self.mirrored(), self)
        return _either(dice.chance(turned, len(self)), mirrored.by_other_cameras(dice), mirrored)

    def windows(self, frames: int) -> Windows:
        """Each as a window that repeats it."""
        still = (len(self), frames, 17, 3)
        unpaired = torch.zeros(len(self), dtype=torch.bool)
        return Windows(self.points[:, None].expand(still), self.sizes, unpaired, self.joints[:, None].expand(still))

    @cached_property
    def leans(self) -> torch.Tensor:
        """(n,) whose trunk is nearer to lying than to standing, as the camera sees it."""
        trunk = self.joints[:, THORAX]
        leaning: torch.Tensor = -trunk[:, 1] < math.cos(math.pi / 4) * trunk.norm(dim=-1)
        return leaning

    def mirrored(self) -> LoneFrames:
        """All of them seen in a mirror."""
        points = self.points[:, MIRROR].clone()
        points[..., 0] = self.sizes[:, :1] - points[..., 0]
        return replace(self, points=points, joints=self.joints[:, MIRROR] * torch.tensor([-1.0, 1.0, 1.0]))

    def by_other_cameras(self, dice: Dice) -> LoneFrames:
        """The same people seen from the same places: cameras turned, other lenses and sizes of pictures.

        Whoever was whole in the picture stays whole.
        """
        count = len(self)
        rays = (self.points[..., :2] - self.sizes[:, None] / 2) / self.focals[:, None, None]
        rays = torch.cat([rays, torch.ones_like(rays[..., :1])], -1)
        aside = dice.normal(count, 3) * torch.tensor([1.0, 1.0, 0.0])
        roll = dice.normal(count) * torch.where(dice.chance(0.2, count), ROLLED_FAR, ROLLED)
        along = torch.tensor([[0.0, 0.0, 1.0]]).expand(count, 3)
        turns = rotations(along, roll) @ rotations(aside, ASIDE * aside.norm(dim=-1))
        rays = torch.einsum("nij,nkj->nki", turns, rays)
        depths = (rays[..., 2] / rays.norm(dim=-1)).nan_to_num(1.0).amin(1)
        flat = rays[..., :2] / rays[..., 2:].clamp(min=LEAST_RAY)
        sizes = torch.tensor(SIZES, dtype=torch.float32)[dice.below(len(SIZES), count)]
        focals = sizes.amax(-1) / 2 / torch.deg2rad(dice.uniform(*FIELD_OF_VIEW, count) / 2).tan()
        fits = (sizes / 2 / flat.nan_to_num(0.0).abs().amax(1).clamp(min=LEAST_RAY)).amin(-1)
        focals = torch.minimum(focals, fits)
        points = torch.cat([flat * focals[:, None, None] + sizes[:, None] / 2, self.points[..., 2:]], -1)
        joints = torch.einsum("nij,nkj->nki", turns, self.joints)
        return _either(depths > LEAST_DEPTH, LoneFrames(points, sizes, focals, joints), self)


def _either(first: torch.Tensor, those: LoneFrames, these: LoneFrames) -> LoneFrames:
    """Of equally many frames the ones of `those` where `first` (n,), else of `these`."""
    pairs = ((getattr(those, key), getattr(these, key)) for key in KEYS)
    return LoneFrames(*(torch.where(first.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs))


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

    Returns:
        The arrays of `LoneFrames` by their names, and truths (n, 17, 2): where the joints of `points` are, NaN unknown.

    Raises:
        ValueError: nobody in the file has 3D joints.
    """
    rng = np.random.default_rng(seed)
    seen: list[tuple[Array, tuple[int, int], float, Array, Array]] = []
    for picture, focal, people in _photos(file):
        for box, joints, projected in people:
            loose = box.copy()
            loose[:2] += box[2:] * rng.normal(0, 0.04, 2)
            loose[2:] *= np.exp(rng.normal(0, 0.06, 2))
            points = to_h36m17(pose(picture, loose), "coco17")
            truth = to_h36m17(np.column_stack([projected, np.ones(17, np.float32)]), "coco17")[:, :2]
            seen.append((points, (picture.shape[1], picture.shape[0]), focal, joints, truth))
    if not seen:
        raise ValueError(f"nobody in {file} has `joints3d`: `python -m training render` writes them")
    points, sizes, focals, joints, truths = (np.array(each, np.float32) for each in zip(*seen, strict=True))
    joints = joints - joints[:, :1]
    factors = (STATURE / statures(joints)).astype(np.float32)
    scaled = joints * factors[:, None, None]
    return {"points": points, "sizes": sizes, "focals": focals, "joints": scaled, "truths": truths}


def _photos(file: Path) -> Iterator[tuple[Picture, float, list[tuple[Array, Array, Array]]]]:
    told = json.loads(file.read_text(encoding="utf-8"))
    people: dict[int, list[tuple[Array, Array, Array]]] = {}
    for each in told["annotations"]:
        if each.get("joints3d") and each.get("whole", 0) >= LEAST_SHARE:
            known = (each[name] for name in ("bbox", "joints3d", "projected"))
            box, joints, projected = (np.array(values, np.float32) for values in known)
            people.setdefault(each["image_id"], []).append((box, joints, projected))
    for image in told["images"]:
        if image["id"] in people:
            yield read_picture(file.parent / image["file_name"]), float(image["focal_px"]), people[image["id"]]
