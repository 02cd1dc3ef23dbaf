"""Exact labels of a scene: COCO's keypoints with visibility, boxes, areas, and 3D joints. Knows no colours.

Pixels from the picture's corner; camera axes x right, y down, z away, metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.geometry.skeletons import COCO17

from .figures import Figure
from .raster import nearest_surface
from .shading import Mesh
from .views import View

Array = NDArray[np.float32]

# How far under the skin a joint may lie and still count as seen, as a share of the leg (about 0.85 m): joints are
# inside of limbs, and what is seen is the limb around them. COCO's order.
DEPTH_OF_JOINTS = np.array(
    [0.045, 0.045, 0.045, 0.06, 0.06, 0.2, 0.2, 0.12, 0.12, 0.1, 0.1, 0.245, 0.245, 0.15, 0.15, 0.13, 0.13], np.float32
)
LEAST_SIDE_PX = 2.0
LEAST_WHOLE = 0.12  # of whom less is seen has a box and no joints, as a labeller would have it


@dataclass(frozen=True, eq=False)
class PersonLabel:
    """Somebody who is at least partly seen.

    owner: who of the scene. keypoints: (17, 3) x, y and 2 seen, 1 hidden but inside the picture, 0 outside (x, y 0).
    projected: (17, 2) x, y wherever they fall, NaN behind the camera. box: x, y, width, height of what is seen; area in
    pixels of what is seen; whole: the share of the person's own silhouette that is neither hidden nor cut off.
    joints: (17, 3) h36m17 in the camera's axes.
    """

    owner: int
    keypoints: Array
    projected: Array
    box: Array
    area: float
    whole: float
    joints: Array


def label(
    figures: Sequence[Figure],
    mesh: Mesh,
    ids: NDArray[np.int32],
    points: Array,
    view: View,
    silhouettes: Sequence[float],
    enlarged: int = 1,
) -> list[PersonLabel]:
    """Labels of those figures (numbered as their parts' owners) of whom a pixel is seen.

    ids, points: the picture's triangles and the projected mesh, `enlarged` times the view's pixels a side.
    silhouettes: pixels (of the picture) that each would cover alone, uncut.
    """
    owners = np.where(ids >= 0, mesh.owner[np.maximum(ids, 0)], -1)
    flat = [view.project(figure.keypoints) for figure in figures]
    seen = _seen(figures, flat, mesh, points, view, enlarged)
    out = []
    for owner, figure in enumerate(figures):
        mine = owners == owner
        rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
        if not len(rows):
            continue
        area = int(mine.sum()) / enlarged**2
        low = np.array([columns[0], rows[0]]) / enlarged
        high = np.array([columns[-1] + 1, rows[-1] + 1]) / enlarged
        if (high - low).min() < LEAST_SIDE_PX:
            continue
        whole = min(area / max(silhouettes[owner], 1), 1.0)
        state = seen[owner] if whole >= LEAST_WHOLE else np.zeros(17, np.float32)
        places = np.where(state[:, None] > 0, flat[owner][:, :2], 0)
        out.append(
            PersonLabel(
                owner,
                np.column_stack([places, state]).astype(np.float32),
                flat[owner][:, :2],
                np.concatenate([low, high - low]).astype(np.float32),
                area,
                whole,
                view.to_camera(figure.joints).astype(np.float32),
            )
        )
    return out


def _seen(
    figures: Sequence[Figure], flat: Sequence[Array], mesh: Mesh, points: Array, view: View, enlarged: int
) -> list[Array]:
    """(17,) for each figure: 2 seen, 1 hidden but inside the picture, 0 outside."""
    if not figures:
        return []
    joints = np.concatenate(flat)
    inside = np.isfinite(joints).all(1) & (joints[:, 2] > 0)
    inside &= (joints[:, :2] >= 0).all(1) & (joints[:, :2] < np.array(view.size)).all(1)
    which = np.flatnonzero(inside)
    triangles, depths = nearest_surface(joints[which, :2] * enlarged, points, mesh.triangles)
    own = (triangles >= 0) & (mesh.owner[np.maximum(triangles, 0)] == which // 17)
    reach = np.concatenate([DEPTH_OF_JOINTS * figure.size_m for figure in figures])
    out = np.zeros(len(joints), np.float32)
    out[which] = np.where(own & (joints[which, 2] - depths < reach[which]), 2, 1)
    return list(out.reshape(-1, 17))


def annotation(person: PersonLabel, number: int, image: int) -> dict[str, Any]:
    """A person in COCO's form, with `joints3d` (metres, camera axes), `projected` and `whole` beside its fields."""
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": _rounded(person.box, 1),
        "area": round(person.area, 1),
        "keypoints": _rounded(person.keypoints.ravel(), 1),
        "num_keypoints": int((person.keypoints[:, 2] > 0).sum()),
        "whole": round(person.whole, 3),
        "joints3d": _rounded(person.joints, 4),
        "projected": _rounded(person.projected, 1),
    }


def category() -> dict[str, Any]:
    return {"id": 1, "name": "person", "keypoints": list(COCO17.joints), "skeleton": []}


def _rounded(values: Array, digits: int) -> Any:
    """Lists of numbers, null for NaN."""
    tidy = np.round(np.asarray(values, np.float64), digits)
    known: Any = np.isfinite(tidy)
    return np.where(known, tidy.astype(object), np.array(None, object)).tolist()
