"""Bodies that nobody draws, and where their joints would be seen: hundreds a second, where a picture takes a quarter.

As `training detect photos` would write them if a detector made no errors: pixels of the picture, h36m17 as the service
makes it; metres in the camera's axes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.geometry.alignment import statures
from service.geometry.skeletons import to_h36m17
from training.data.windows import STATURE

from .figures import figure, random_manner
from .scenes import CROP_ASPECT, CROP_TILTED, Stage, crop_view, random_pose, tilted_at_times
from .views import framing

Array = NDArray[np.float32]

POSES_EACH = 24  # a body's shape takes as long as four poses of it
NEAREST_M = 0.2


def posed_body(stage: Stage, size: tuple[int, int], room: float, rng: np.random.Generator) -> dict[str, Array]:
    """Somebody in POSES_EACH poses, each whole in a crop of its own as `scenes.crop_scene` frames it.

    Returns:
        points (n, 17, 3) pixels and score 1, sizes (n, 2), focals (n,), joints (n, 17, 3) about joint 0, for 1.70 m.
    """
    person = stage.cast.bare(rng)
    points, focals, joints = [], [], []
    for _ in range(POSES_EACH):
        made = tilted_at_times(figure(person, random_pose(stage, rng), 0, random_manner(rng)), CROP_TILTED, rng)
        view, _, _ = crop_view(made, size, rng)
        view = framing(view, made.outline, CROP_ASPECT, room * float(np.exp(rng.normal(0, 0.06))), size)
        flat = view.project(made.keypoints)
        if not (flat[:, 2] > NEAREST_M).all():  # also where it is NaN: behind the camera
            continue
        points.append(to_h36m17(np.column_stack([flat[:, :2], np.ones(17, np.float32)]), "coco17"))
        focals.append(view.focal_px)
        joints.append(view.to_camera(made.joints))
    of_camera = np.array(joints, np.float32).reshape(-1, 17, 3)
    of_camera -= of_camera[:, :1]
    factors = (STATURE / statures(of_camera)).astype(np.float32)
    return {
        "points": np.array(points, np.float32).reshape(-1, 17, 3),
        "sizes": np.tile(np.array(size, np.float32), (len(points), 1)),
        "focals": np.array(focals, np.float32),
        "joints": of_camera * factors[:, None, None],
    }
