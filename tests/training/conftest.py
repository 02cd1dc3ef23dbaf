"""Tiny data sets for every test of the training: drawn photos, and a motion pack."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from .drawn_photos import annotation, write_set


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hand.json: two photos, three people and a crowd. wild.json: labelled by models. nobody/: an empty photo."""
    root = tmp_path_factory.mktemp("photos")
    hand = {
        1: [annotation(1, 1, [20.0, 10, 50, 100]), annotation(2, 1, [90.0, 20, 45, 90])],
        2: [annotation(3, 2, [40.0, 5, 60, 110]), annotation(4, 2, [110.0, 10, 40, 50], iscrowd=1)],
    }
    write_set(root, "hand", hand)
    scores = np.linspace(0.3, 0.98, 17).tolist()
    wild = {
        3: [annotation(5, 3, [20.0, 10, 50, 100], scores=scores), annotation(6, 3, [90.0, 20, 45, 90], ignore_pose=1)],
        4: [annotation(7, 4, [40.0, 5, 60, 110], uncertain=1, keypoints=[0] * 51, num_keypoints=0)],
    }
    write_set(root, "wild", wild, boxes_complete=True)
    write_set(root, "cut_outs", {5: [annotation(8, 5, [40.0, 5, 60, 110])]}, boxes_complete=False)
    (root / "nobody").mkdir()
    cv2.imwrite(str(root / "nobody" / "empty.jpg"), np.full((90, 140, 3), 90, np.uint8))
    return root


@pytest.fixture(scope="session")
def motion_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of one person who swings and walks, z up, 50 frames a second."""
    rest = np.array(
        [[0, 0, 0], [-.13, 0, 0], [-.14, 0, -.45], [-.14, 0, -.88], [.13, 0, 0], [.14, 0, -.45], [.14, 0, -.88],
         [0, 0, .25], [0, 0, .5], [0, -.02, .62], [0, -.02, .74], [.17, 0, .45], [.2, 0, .17], [.22, -.05, -.07],
         [-.17, 0, .45], [-.2, 0, .17], [-.22, -.05, -.07]]
    )  # fmt: skip
    frames = 160
    swing = np.sin(np.arange(frames) / 9)[:, None] * 0.1
    joints = np.repeat(rest[None], frames, axis=0)
    joints[:, [2, 3, 12, 13], 1] += swing
    joints[:, [5, 6, 15, 16], 1] -= swing
    root = np.column_stack([np.arange(frames) * 0.01, np.zeros(frames), np.full(frames, 0.96)])
    path = tmp_path_factory.mktemp("motion") / "pack.npz"
    np.savez(
        path,
        joints=joints.astype(np.float16),
        root=root.astype(np.float32),
        seq_start=np.array([0, 100, frames]),
        seq_kind=np.array(["walk", "dance"]),
        seq_subject=np.array(["a", "b"]),
        fps=np.float32(50),
        up=np.array("z"),
        units=np.array("metre"),
    )
    return path
