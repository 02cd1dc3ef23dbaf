"""Rendered clips as takes: who is seen in what `python -m training render --clips` wrote, and the 2D points of them.

A sighting is one person over frames in a row. 2D points are exact (projected) or a detector's, which `python -m
training detect rendered` wrote beside the clips. Pixels from the picture's corner; metres in the camera's axes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.geometry.skeletons import to_h36m17

from .takes import Take

Array = NDArray[np.float32]

LEAST_SHARE = 0.5  # of the silhouette that must be seen
LEAST_FRAMES = 9


@dataclass(frozen=True, eq=False)
class Sighting:
    """n frames from `first` on: boxes (n, 4); projected (n, 17, 2), coco17; joints (n, 17, 3), h36m17."""

    clip: str
    person: int
    first: int
    size: tuple[int, int]
    boxes: Array
    projected: Array
    joints: Array

    @property
    def name(self) -> str:
        return f"{self.clip}/{self.person}/{self.first}"


def read_sightings(folder: Path) -> list[Sighting]:
    """Everybody in a folder of clips, clip by clip.

    Raises:
        ValueError: there is no clip.
    """
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise ValueError(f"there are no rendered clips in {folder}: `python -m training render --clips`")
    return [sighting for file in files for sighting in _sightings(file)]


def _sightings(file: Path) -> Iterator[Sighting]:
    told = json.loads(file.read_text(encoding="utf-8"))
    seen: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for frame in told["frames"]:
        for person in frame["people"]:
            if person["whole"] >= LEAST_SHARE and all(x is not None for point in person["projected"] for x in point):
                seen.setdefault(person["id"], []).append((frame["index"], person))
    for number, frames in seen.items():
        cuts = [at for at, (one, other) in enumerate(pairwise(frames), 1) if other[0] != one[0] + 1]
        for first, end in pairwise([0, *cuts, len(frames)]):
            if end - first < LEAST_FRAMES:
                continue
            people = [person for _, person in frames[first:end]]
            boxes, projected, joints = (
                np.array([person[key] for person in people], np.float32) for key in ("bbox", "projected", "joints3d")
            )
            size = (told["width"], told["height"])
            yield Sighting(file.stem, number, frames[first][0], size, boxes, projected, joints)


def points_file(folder: Path, detections: str) -> Path:
    return folder / f"data_2d_{detections}.npz"


def read_rendered_takes(folder: Path, detections: str) -> list[Take]:
    """The sightings as takes.

    Args:
        detections: `exact`, or the name that a detector's points were written under.

    Raises:
        ValueError: clips or points are missing, or the points are of other clips.
    """
    sightings = read_sightings(folder)
    if detections == "exact":
        return [_take(each, np.stack([_h36m(points) for points in each.projected])) for each in sightings]
    path = points_file(folder, detections)
    if not path.is_file():
        raise ValueError(f"there is no {path}: `python -m training detect rendered {folder} --name {detections}`")
    with np.load(path, allow_pickle=False) as file:
        if missing := [each.name for each in sightings if each.name not in file.files]:
            raise ValueError(f"{path} is of other clips: it lacks {missing[0]} and {len(missing) - 1} more")
        return [_take(each, file[each.name]) for each in sightings]


def _h36m(projected: Array) -> Array:
    made: Array = to_h36m17(np.column_stack([projected, np.ones(17, np.float32)]), "coco17")[:, :2]
    return made


def _take(sighting: Sighting, points: Array) -> Take:
    return Take(sighting.name, sighting.clip, points.astype(np.float32), sighting.joints, sighting.size)
