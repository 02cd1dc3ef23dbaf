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
from training.data.windows import STATURE, Dice

Array = NDArray[np.float32]
ORDER = mirror_order(SKELETONS["h36m17"])


def labels(folder: Path, **changes: Any) -> Path:
    """A file of three pictures: two people with 3D, one of whom hardly seen, and one without."""
    joints = np.random.default_rng(0).normal((0, 0, 4), 0.3, (17, 3))
    projected = [*np.random.default_rng(1).uniform(0, 80, (16, 2)).tolist(), [None, None]]
    person = {"category_id": 1, "bbox": [10, 20, 30, 60], "joints3d": joints.tolist(), "whole": 0.9}
    person |= {"projected": projected} | changes
    people = [
        person | {"id": 1, "image_id": 1},
        person | {"id": 2, "image_id": 2, "whole": 0.1},
        {"id": 3, "image_id": 3, "category_id": 1, "bbox": [0, 0, 5, 5]},
    ]
    images = [{"id": n, "file_name": f"{n}.png", "width": 80, "height": 100, "focal_px": 90.0} for n in (1, 2, 3)]
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
    sizes, focals, joints = np.full((count, 2), (80, 100)), np.full(count, 90), rng.normal(0, 0.3, (count, 17, 3))
    return LoneFrames(*(torch.from_numpy(each.astype(np.float32)) for each in (points, sizes, focals, joints)))


def projected(count: int = 60) -> tuple[LoneFrames, torch.Tensor]:
    """People exactly as cameras saw them, and how far joint 0 of each is from the camera."""
    dice = torch.Generator().manual_seed(4)
    bodies = 0.3 * torch.randn(count, 17, 3, generator=dice) + torch.tensor([0.2, -0.3, 4.0])
    focals = 300 + 500 * torch.rand(count, generator=dice)
    sizes = torch.tensor([640.0, 480.0]).expand(count, 2)
    places = bodies[..., :2] / bodies[..., 2:] * focals[:, None, None] + sizes[:, None] / 2
    points = torch.cat([places, torch.full_like(places[..., :1], 0.7)], -1)
    points[:, 3] = torch.nan
    return LoneFrames(points, sizes, focals, bodies - bodies[:, :1]), bodies[:, 0].norm(dim=-1)


def test_who_is_seen_and_known_in_3d_is_watched_in_a_box_nearly_theirs(tmp_path: Path) -> None:
    boxes = []

    def pose(picture: NDArray[np.uint8], box: Array) -> Array:
        boxes.append(box)
        return by_box(picture, box)

    watched = watch_photos(pose, labels(tmp_path))
    assert {key: each.shape for key, each in watched.items()} == {
        "points": (1, 17, 3),
        "sizes": (1, 2),
        "focals": (1,),
        "joints": (1, 17, 3),
        "truths": (1, 17, 2),
    }
    assert watched["sizes"].tolist() == [[80, 100]]
    assert 0 < np.abs(boxes[0] - [10, 20, 30, 60]).max() < 20
    assert statures(watched["joints"])[0] == pytest.approx(STATURE, abs=0.1)  # what lies below the ankles stays 8 cm
    assert not watched["joints"][:, 0].any()
    assert np.isnan(watched["truths"][0]).any(-1).tolist() == [n == 3 for n in range(17)]  # the last of COCO's


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    np.savez(tmp_path / "seen.npz", **watch_photos(by_box, labels(tmp_path)))  # type: ignore[arg-type]
    assert len(read_lone_frames(tmp_path / "seen.npz")) == 1


def test_another_file_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", points=np.zeros(3))
    with pytest.raises(ValueError, match="lacks sizes, focals, joints"):
        read_lone_frames(tmp_path / "other.npz")


def test_labels_without_3d_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nobody in .* has `joints3d`"):
        watch_photos(by_box, labels(tmp_path, joints3d=None))


def test_a_window_is_one_frame_repeated_as_it_was_or_in_a_mirror() -> None:
    known = frames()
    windows = known.draw(64, 5, seed=3, turned=0.0)
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


def test_another_camera_at_the_same_place_sees_the_same_body_on_its_rays() -> None:
    known, far = projected()
    seen = known.by_other_cameras(Dice(5, torch.device("cpu")))
    rays = torch.cat(
        [(seen.points[..., :2] - seen.sizes[:, None] / 2) / seen.focals[:, None, None], torch.ones(60, 17, 1)], -1
    )
    first = rays[:, :1] / rays[:, :1].norm(dim=-1, keepdim=True) * far[:, None, None]
    bodies = seen.joints + first
    where = torch.arange(17) != 3
    assert torch.allclose((bodies[..., :2] / bodies[..., 2:])[:, where], rays[:, where, :2], atol=1e-4)
    assert (seen.points[..., 2].isnan() == known.points[..., 2].isnan()).all()


def test_another_camera_turns_rolls_and_has_another_lens_and_keeps_whole_people_whole() -> None:
    known, _ = projected()
    seen = known.by_other_cameras(Dice(5, torch.device("cpu")))
    assert len({tuple(size) for size in seen.sizes.tolist()}) > 3
    assert len(set(seen.focals.tolist())) == 60
    assert ((seen.joints - known.joints).norm(dim=-1).amax(1) > 0.01).all()
    assert torch.allclose(seen.joints.norm(dim=-1), known.joints.norm(dim=-1), atol=1e-5)
    places = seen.points[..., :2].nan_to_num(1.0)
    assert ((places > -0.01) & (places < seen.sizes[:, None] + 0.01)).all()


def test_a_share_of_the_windows_are_turned() -> None:
    known, _ = projected()
    plain, half, every = (known.draw(200, 1, seed=3, turned=share) for share in (0.0, 0.5, 1.0))
    changed = [(each.sizes != plain.sizes).any(-1).sum() for each in (half, every)]
    assert 60 < changed[0] < 120 < changed[1]


def test_those_who_lean_can_be_drawn_more_often() -> None:
    known, _ = projected(200)
    known.joints[:, 8] = torch.tensor([0.1, -0.5, 0.0])  # upright
    known.joints[::4, 8] = torch.tensor([0.5, -0.1, 0.2])
    assert known.leans.tolist() == [n % 4 == 0 for n in range(200)]
    lying = [(known.draw(900, 1, 3, 0.0, often).targets[:, 0, 8, 1] > -0.3).float().mean() for often in (1.0, 3.0)]
    assert lying[0] == pytest.approx(1 / 4, abs=0.05)
    assert lying[1] == pytest.approx(1 / 2, abs=0.05)


def test_a_draw_follows_from_its_seed() -> None:
    assert torch.equal(frames().draw(8, 3, seed=1).points, frames().draw(8, 3, seed=1).points)
    assert not torch.equal(frames().draw(8, 3, seed=1).points, frames().draw(8, 3, seed=2).points)
