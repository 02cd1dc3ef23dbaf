"""Who is looked at again, how the crop turns, and which pose stays."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from service.engines.framing import CropRow, PoseFraming
from service.geometry.crops import to_input
from service.pipelines.photo import PhotoOptions
from service.pipelines.second_look import MUCH_SURER, Array, lean, surest, turned_row, turns

from .fake import RED, FakeEngine, Fakes, call, draw, figure, street

PICTURE = np.zeros((200, 300, 3), np.uint8)
BOX = np.array([100, 60, 80, 90], np.float32)
PRESET: dict[str, Any] = {"width": 48, "height": 64, "padding": 1.25, "stride": 4, "shift": [0, 0], "flip_shift": 1}


def leaning(angle: float, score: float = 0.9) -> Array:
    """A figure turned about the middle of BOX, its head to the right by `angle` degrees."""
    pose = figure(BOX, score)
    pose[:, 2] = score
    middle = BOX[:2] + BOX[2:] / 2
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    pose[:, :2] = (pose[:, :2] - middle) @ np.array([[c, s], [-s, c]]) + middle
    return pose.astype(np.float32)


@pytest.mark.parametrize("angle", [0.0, 30.0, -44.0, 90.0, -135.0, 179.0])
def test_the_lean_is_the_angle_that_the_person_was_turned_by(angle: float) -> None:
    assert lean(leaning(angle)[None])[0] == pytest.approx(angle, abs=1e-3)


def test_the_mirror_image_leans_to_the_other_side() -> None:
    pose = leaning(70)
    pose[:, 0] = 300 - pose[:, 0]
    assert lean(pose[None])[0] == pytest.approx(-70, abs=1e-3)


def test_who_stands_is_not_looked_at_again_unless_the_pose_is_unsure() -> None:
    poses = np.stack([leaning(40), leaning(90), leaning(-170), leaning(10, 0.2)])
    looks = turns(poses)
    assert looks[0] == ()
    assert looks[1] == pytest.approx((90.0, 180.0))
    assert looks[2] == pytest.approx((-170.0, 180.0))
    assert looks[3] == (180.0,)
    assert turns(poses[:0]) == []


@pytest.mark.parametrize("angle", [90.0, -90.0, 135.0, 180.0])
def test_a_turned_crop_shows_a_leaning_person_upright_and_whole(angle: float) -> None:
    framing = PoseFraming(PRESET | {"decode": "argmax"})
    row = turned_row(CropRow(PICTURE, BOX, True), angle)
    assert row.flip_test
    crop = framing.crop(row)
    seen = to_input(leaning(angle), crop)
    assert lean(seen[None])[0] == pytest.approx(0, abs=1e-3)
    corners = BOX[:2] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * BOX[2:]
    inside = to_input(corners, crop)
    assert (inside >= 0).all()
    assert (inside <= [48, 64]).all()


def test_a_box_that_is_not_turned_stays_as_it_is() -> None:
    np.testing.assert_allclose(turned_row(CropRow(PICTURE, BOX), 0.0).box, BOX)
    np.testing.assert_allclose(turned_row(CropRow(PICTURE, BOX), 180.0).box, BOX, atol=1e-4)
    np.testing.assert_allclose(turned_row(CropRow(PICTURE, BOX), 90.0).box, [95, 65, 90, 80], atol=1e-4)


def test_the_surer_pose_stays() -> None:
    lying = leaning(90, 0.5)
    assert surest(lying, []) is lying
    assert surest(lying, [leaning(90, 0.4)]) is lying
    better = leaning(90, 0.6)
    assert surest(lying, [leaning(0, 0.4), better]) is better
    upright = leaning(0, 0.25)
    assert surest(upright, [leaning(180, 0.25 * MUCH_SURER - 0.01)]) is upright
    sure = leaning(180, 0.25 * MUCH_SURER + 0.01)
    assert surest(upright, [sure]) is sure


# ---- Through the queue


def lying_detector(row: CropRow) -> Array:
    """Sure of a person who lies to the right only where the crop is turned by the lean."""
    return leaning(90, 0.9 if abs(row.rotation - 90) < 1 else 0.5)


@pytest.mark.parametrize("given", [True, False], ids=["given boxes", "found people"])
def test_people_who_lie_are_seen_better_at_the_second_look(given: bool) -> None:
    async def main(second_look: bool) -> tuple[Array, int]:
        fakes = Fakes()
        fakes.pose = FakeEngine("pose", lying_detector)
        options = PhotoOptions(boxes=BOX[None] if given else None, second_look=second_look)
        async with fakes.photo() as photo:
            _, _, points = await photo.keypoints(draw(street(300, 200), BOX.tolist(), RED), options, call())
        return points, len(fakes.pose.rows)

    points, rows = asyncio.run(main(True))
    assert (points[..., 2] == np.float32(0.9)).all()
    assert rows == 3
    points, rows = asyncio.run(main(False))
    assert (points[..., 2] == np.float32(0.5)).all()
    assert rows == 1
