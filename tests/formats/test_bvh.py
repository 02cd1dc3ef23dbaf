"""BVH, read back and played by pybvh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pybvh import read_bvh_file

from service.errors import OutOfRange
from service.formats.bvh import _swing
from service.geometry.skeletons import H36M17

from .fake import NTSC, Floats, person, recording, standing, turned, upright, walking, without, written


def play(path: Path) -> tuple[Any, Floats]:
    """pybvh's reading, and (frames, 17, 3) metres in our order of joints."""
    read = read_bvh_file(path, world_up="+y")
    rows = [read.joint_index[joint] for joint in H36M17.joints]
    return read, read.joint_positions()[:, rows] / 100


def test_a_person_of_fixed_bones_is_played_where_he_was_to_a_millimetre(tmp_path: Path) -> None:
    someone = person(walking(40))
    read, places = play(written(recording(someone), "bvh", tmp_path, 3))
    np.testing.assert_allclose(places, upright(someone.joints + someone.positions[:, None]), atol=1e-3)
    assert read.frame_time == pytest.approx(1 / NTSC, abs=1e-9)
    assert all(order == "ZXY" for order in read.euler_orders)


def test_bones_have_the_median_of_their_lengths(tmp_path: Path) -> None:
    joints = walking(31) * np.random.default_rng(0).normal(1, 0.03, (31, 1, 1))
    _, places = play(written(recording(person(joints), frames=31), "bvh", tmp_path, 3))
    bones = np.linalg.norm(joints - joints[:, H36M17.parents], axis=-1)[:, 1:]
    played = np.linalg.norm(places - places[:, H36M17.parents], axis=-1)[:, 1:]
    np.testing.assert_allclose(played, np.broadcast_to(np.median(bones, axis=0), played.shape), atol=1e-4)
    assert np.abs(places - upright(joints) - places[:, :1]).max() < 0.15


def test_a_standing_person_is_upright_and_so_is_the_rest_pose(tmp_path: Path) -> None:
    read, places = play(written(recording(person(standing()[None]), frames=1), "bvh", tmp_path, 3))
    at = dict(zip(H36M17.joints, places[0], strict=True))
    assert at["head_top"][1] - at["left_ankle"][1] == pytest.approx(1.65, abs=1e-3)
    rest = dict(
        zip(H36M17.joints, read.rest_pose_positions()[[read.node_index[j] for j in H36M17.joints]], strict=True)
    )
    assert rest["head_top"][1] - rest["left_ankle"][1] == pytest.approx(165, abs=1)
    assert rest["left_wrist"][0] > 60
    assert rest["right_wrist"][0] < -60


def test_angles_go_on_from_frame_to_frame_while_a_person_turns_round(tmp_path: Path) -> None:
    path = written(recording(person(walking(200)), frames=200), "bvh", tmp_path, 3)
    rows = path.read_text().split("Frame Time:")[1].splitlines()[1:]
    angles = np.array([row.split() for row in rows], float)[:, 3:]
    assert np.abs(np.diff(angles, axis=0)).max() < 60
    assert abs(angles[-1, 2] - angles[0, 2]) == pytest.approx(540 * 199 / 200, abs=1)


def test_gaps_are_bridged_and_what_was_never_seen_rests(tmp_path: Path) -> None:
    def lose(arrays: dict[str, Any]) -> None:
        arrays["joints"][4:7] = np.nan
        arrays["scores"][4:7] = np.nan
        arrays["positions"][4:7] = np.nan
        arrays["joints"][:, 13] = np.nan

    still = np.tile(standing(), (10, 1, 1))
    given = person(still, first=3)
    read, places = play(written(recording(without(given, lose), frames=20), "bvh", tmp_path, 3))
    assert read.frame_count == 10
    expected = upright(given.joints + given.positions[:, None])
    seen = [n for n in range(17) if n != 13]
    np.testing.assert_allclose(places[:, seen], expected[:, seen], atol=1e-3)
    assert np.isfinite(places).all()


def test_a_person_without_position_stays_at_the_origin(tmp_path: Path) -> None:
    someone = person(walking(5), positions=np.full((5, 3), np.nan))
    _, places = play(written(recording(someone, frames=5), "bvh", tmp_path, 3))
    np.testing.assert_allclose(places, upright(someone.joints), atol=1e-3)


def test_a_limb_turned_straight_back_is_still_a_rotation() -> None:
    rest = np.array([[1.0, 0, 0], [0, 1, 0], [0, -1, 0]])
    for direction in rest:
        turns = _swing(direction, np.stack([-direction, -direction + [0, 0, 1e-4], direction, direction * 0]))
        np.testing.assert_allclose(turns @ np.swapaxes(turns, 1, 2), np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-6)
        np.testing.assert_allclose(turns[0] @ direction, -direction, atol=1e-6)
        np.testing.assert_allclose(turns[2:], np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-6)


def test_a_person_upside_down_is_played_upside_down(tmp_path: Path) -> None:
    someone = person(turned(standing(), "z", 180, H36M17.joints, "pelvis")[None])
    _, places = play(written(recording(someone, frames=1), "bvh", tmp_path, 3))
    np.testing.assert_allclose(places, upright(someone.joints + someone.positions[:, None]), atol=1e-3)


def test_a_person_who_was_never_lifted_is_refused(tmp_path: Path) -> None:
    flat = person(np.full((4, 17, 3), np.nan), id=1, positions=np.full((4, 3), np.nan))
    with pytest.raises(OutOfRange, match="`person` 1 has no 3D joints"):
        written(recording(flat, frames=4), "bvh", tmp_path, 1)
