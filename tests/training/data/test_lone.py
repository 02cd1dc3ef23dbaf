"""Lone frames that a detector saw: rendered people through a detector of a plain rule, and the windows of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service.geometry.alignment import statures
from service.geometry.skeletons import SKELETONS, mirror_order
from training.data.lone import LoneFrames, read_lone_frames, watch_photos
from training.data.windows import STATURE

Array = NDArray[np.float32]
ORDER = mirror_order(SKELETONS["h36m17"])


def labels(folder: Path, **changes: Any) -> Path:
    """A file of three pictures: two people with 3D, one of whom hardly seen, and one without."""
    joints = np.random.default_rng(0).normal((0, 0, 4), 0.3, (17, 3))
    person = {"category_id": 1, "bbox": [10, 20, 30, 60], "joints3d": joints.tolist(), "whole": 0.9} | changes
    people = [
        person | {"id": 1, "image_id": 1},
        person | {"id": 2, "image_id": 2, "whole": 0.1},
        {"id": 3, "image_id": 3, "category_id": 1, "bbox": [0, 0, 5, 5]},
    ]
    images = [{"id": n, "file_name": f"{n}.png", "width": 80, "height": 100} for n in (1, 2, 3)]
    for image in images:
        cv2.imwrite(str(folder / str(image["file_name"])), np.zeros((100, 80, 3), np.uint8))
    file = folder / "labels.json"
    file.write_text(json.dumps({"images": images, "annotations": people, "categories": []}))
    return file


def by_box(picture: NDArray[np.uint8], box: Array) -> Array:
    """COCO-17 on a line through the box, each joint with its own score."""
    at = np.linspace(0, 1, 17)[:, None]
    return np.column_stack([box[:2] + at * box[2:], np.linspace(0.2, 1, 17)]).astype(np.float32)


def frames(count: int = 40) -> LoneFrames:
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.uniform(0, 100, (count, 17, 2)), rng.uniform(0, 1, (count, 17, 1))], -1)
    sizes, joints = np.full((count, 2), (80, 100)), rng.normal(0, 0.3, (count, 17, 3))
    return LoneFrames(*(torch.from_numpy(each.astype(np.float32)) for each in (points, sizes, joints)))


def test_who_is_seen_and_known_in_3d_is_watched_in_a_box_nearly_theirs(tmp_path: Path) -> None:
    boxes = []

    def pose(picture: NDArray[np.uint8], box: Array) -> Array:
        boxes.append(box)
        return by_box(picture, box)

    watched = watch_photos(pose, labels(tmp_path))
    assert {key: each.shape for key, each in watched.items()} == {
        "points": (1, 17, 3),
        "sizes": (1, 2),
        "joints": (1, 17, 3),
    }
    assert watched["sizes"].tolist() == [[80, 100]]
    assert 0 < np.abs(boxes[0] - [10, 20, 30, 60]).max() < 20
    assert statures(watched["joints"])[0] == pytest.approx(STATURE, abs=0.1)  # what lies below the ankles stays 8 cm
    assert not watched["joints"][:, 0].any()


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    np.savez(tmp_path / "seen.npz", **watch_photos(by_box, labels(tmp_path)))  # type: ignore[arg-type]
    assert len(read_lone_frames(tmp_path / "seen.npz")) == 1


def test_another_file_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", points=np.zeros(3))
    with pytest.raises(ValueError, match="lacks sizes, joints"):
        read_lone_frames(tmp_path / "other.npz")


def test_labels_without_3d_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nobody in .* has `joints3d`"):
        watch_photos(by_box, labels(tmp_path, joints3d=None))


def test_a_window_is_one_frame_repeated_as_it_was_or_in_a_mirror() -> None:
    known = frames()
    windows = known.draw(64, 5, seed=3)
    assert windows.points.shape == windows.targets.shape == (64, 5, 17, 3)
    assert torch.equal(windows.points[:, 0], windows.points[:, 4])
    assert not windows.given.any()
    plain = mirrored = 0
    for points, targets in zip(windows.points[:, 0], windows.targets[:, 0], strict=True):
        back = points[ORDER] * torch.tensor([-1.0, 1, 1]) + torch.tensor([80.0, 0, 0])
        as_it_was = [n for n in range(len(known)) if torch.equal(known.points[n], points)]
        turned = [n for n in range(len(known)) if torch.allclose(known.points[n], back, atol=1e-3)]
        plain, mirrored = plain + len(as_it_was), mirrored + len(turned)
        for n in as_it_was:
            assert torch.equal(known.joints[n], targets)
        for n in turned:
            assert torch.equal(known.joints[n], targets[ORDER] * torch.tensor([-1.0, 1, 1]))
    assert plain + mirrored == 64
    assert plain and mirrored


def test_a_draw_follows_from_its_seed() -> None:
    assert torch.equal(frames().draw(8, 3, seed=1).points, frames().draw(8, 3, seed=1).points)
    assert not torch.equal(frames().draw(8, 3, seed=1).points, frames().draw(8, 3, seed=2).points)
