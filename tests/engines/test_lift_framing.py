"""The lifter's framing: what its channels tell, what they keep back, and poses that come back root-relative."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines.framing import SIZE_STEPS, LiftFraming, WindowRow, window_channels
from service.geometry.skeletons import SKELETONS, mirror_order, mirror_points

Array = NDArray[np.float32]

FRAMES, SIZE = 5, (640, 480)
H36M = SKELETONS["h36m17"]


def windows(count: int = 3, unknown: float = 0.2) -> Array:
    """(windows, frames, 17, 3) with some unknown joints, the hip of frame 1 of the first window among them."""
    random = np.random.default_rng(7)
    points = np.concatenate(
        [random.uniform(50, 450, (count, FRAMES, 17, 2)), random.random((count, FRAMES, 17, 1))], -1
    )
    points[random.random(points.shape[:3]) < unknown] = (np.nan, np.nan, 0)
    points[0, 1, 0] = (np.nan, np.nan, 0)
    return points.astype(np.float32)


def channels(points: Array, size: tuple[int, int] = SIZE, given: bool = True) -> Array:
    count = len(points)
    return window_channels(points, np.tile(np.array(size, np.float32), (count, 1)), np.full(count, given))


@pytest.mark.parametrize("kept", [0, 1])
def test_what_stands_behind_an_unknown_joint_does_not_leak(kept: int) -> None:
    points = windows()
    unknown = np.isnan(points[..., 0])
    wanted = channels(points)
    assert unknown.any()
    for hidden in (0.0, 1e6, np.inf):
        changed = points.copy()
        changed[unknown, kept] = hidden  # the other coordinate is still unknown, and so is the joint
        changed[unknown, 2] = 0.9
        np.testing.assert_array_equal(channels(changed), wanted)
    np.testing.assert_array_equal(wanted[unknown][:, [0, 1, 3, 4]], 0)
    np.testing.assert_array_equal(wanted[unknown][:, 2], -1)
    np.testing.assert_array_equal(wanted[~unknown][:, 2], points[~unknown][:, 2])
    assert np.isfinite(wanted).all()


def test_who_stands_elsewhere_looks_alike_around_the_hip() -> None:
    points = windows()
    moved = points + np.array([120.5, -33.25, 0], np.float32)
    np.testing.assert_allclose(channels(moved)[..., :3], channels(points)[..., :3], atol=1e-4)
    known = np.isfinite(points[..., 0])
    shift = (channels(moved) - channels(points))[known][:, 3:5]
    np.testing.assert_allclose(shift, np.tile([120.5 / 320, -33.25 / 320], (known.sum(), 1)), atol=1e-4)


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_a_picture_of_another_size_changes_nothing(scale: float) -> None:
    points = windows()
    larger = points * np.array([scale, scale, 1], np.float32)
    size = (round(SIZE[0] * scale), round(SIZE[1] * scale))
    np.testing.assert_allclose(channels(larger, size), channels(points), atol=1e-4)


def test_who_stands_further_away_looks_alike_around_the_hip() -> None:
    points = windows()
    middle = np.array([320, 240, 0], np.float32)
    halved = (points - middle) * np.array([0.5, 0.5, 1], np.float32) + middle
    np.testing.assert_allclose(channels(halved)[..., :3], channels(points)[..., :3], atol=1e-4)
    further = (points - middle) * np.array([0.3, 0.3, 1], np.float32) + middle  # up to half a step of sizes either way
    np.testing.assert_allclose(channels(further)[..., :2], channels(points)[..., :2], rtol=0.03, atol=1e-4)


def test_a_frame_looks_the_same_in_every_window_in_which_the_person_has_about_the_same_size() -> None:
    standing = np.random.default_rng(3).uniform(100, 300, (1, 17, 2))
    swaying = standing + np.random.default_rng(4).normal(0, 0.05, (FRAMES + 9, 17, 2))
    points = np.concatenate([swaying, np.full((FRAMES + 9, 17, 1), 0.9)], -1).astype(np.float32)
    made = channels(np.stack([points[first : first + FRAMES] for first in range(10)]))
    for first in range(9):
        np.testing.assert_array_equal(made[first, 1:], made[first + 1, :-1])


def test_sizes_are_told_in_steps_of_three_percent() -> None:
    points = windows(1, unknown=0.0)
    middle = points[:, :, :1]
    told = []
    for scale in np.geomspace(0.5, 1, 400, dtype=np.float32):
        scaled = (points - middle) * np.array([scale, scale, 1], np.float32) + middle
        told.append(np.sqrt((channels(scaled)[..., :2] ** 2).sum(-1).mean()) / scale)
    sizes = np.unique(np.round(told, 4))
    assert len(sizes) in (24, 25)
    np.testing.assert_allclose(sizes[1:] / sizes[:-1], 2 ** (1 / SIZE_STEPS), rtol=1e-3)


def test_a_mirrored_window_gives_mirrored_channels() -> None:
    points = windows(unknown=0.1)
    order = mirror_order(H36M)
    mirrored = (points * np.array([-1, 1, 1], np.float32) + np.array([SIZE[0], 0, 0], np.float32))[:, :, order]
    wanted = channels(points)[:, :, order] * np.array([-1, 1, 1, -1, 1, 1], np.float32)
    np.testing.assert_allclose(channels(mirrored), wanted, atol=1e-4)


def test_the_persons_size_is_that_of_the_window_and_the_hip_its_middle() -> None:
    points = windows(unknown=0.0)[1:]
    around = channels(points)[..., :2]
    np.testing.assert_allclose(around[:, :, 0], 0, atol=1e-6)
    extent = np.sqrt((around**2).sum(-1).mean((1, 2)))
    assert (abs(np.log2(extent)) <= 0.5 / SIZE_STEPS + 1e-5).all()


def test_frames_without_a_hip_are_told_around_the_middle_of_the_known_joints() -> None:
    points = windows(1, unknown=0.0)
    points[0, 2, 0] = (np.nan, np.nan, 0)
    around = channels(points)[0, 2, 1:, :2]
    np.testing.assert_allclose(around.mean(0), 0, atol=1e-5)


def test_batched_windows_equal_single_ones() -> None:
    points = windows(6)
    singles = [channels(one[None])[0] for one in points]
    np.testing.assert_allclose(channels(points), singles, atol=1e-6)


@pytest.mark.parametrize("known", [0, 1])
def test_a_window_of_next_to_nothing_stays_small(known: int) -> None:
    points = np.full((1, FRAMES, 17, 3), (np.nan, np.nan, 0), np.float32)
    points[0, 2, :known] = (5000, 4000, 0.5)
    made = channels(points)
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made[..., :2], 0)


def test_the_network_is_told_whose_joints_these_are() -> None:
    points = windows()
    np.testing.assert_array_equal(channels(points, given=True)[..., 5], 1)
    np.testing.assert_array_equal(channels(points, given=False)[..., 5], 0)


def test_windows_are_left_as_they_were() -> None:
    points = windows()
    points.flags.writeable = False
    channels(points)


def test_rows_of_the_lifter_become_its_channels_and_its_poses_root_relative() -> None:
    framing = LiftFraming(FRAMES)
    points = windows()
    rows = [WindowRow(one, (640 + n, 480), bool(n % 2)) for n, one in enumerate(points)]
    made = framing.inputs(rows)
    assert made.shape[1:] == framing.example().shape[1:]
    assert made.dtype == framing.example().dtype
    for n, each in enumerate(rows):
        np.testing.assert_allclose(made[n], channels(points[n][None], each.size, each.given)[0], atol=1e-6)
    output = np.random.default_rng(0).normal(size=(3, FRAMES, 17, 3)).astype(np.float32)
    answers = framing.answers([output], rows)
    assert len(answers) == 3
    for n, answer in enumerate(answers):
        np.testing.assert_allclose(answer, output[n] - output[n, :, :1], atol=1e-6)
        assert answer.dtype == np.float32


def test_a_window_with_its_mirror_image_answers_the_mirrored_one_with_the_mirrored_pose() -> None:
    framing, skeleton = LiftFraming(FRAMES), SKELETONS["h36m17"]
    points = windows()
    mix = np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32)

    def network(channels: np.ndarray) -> np.ndarray:
        """Knows no symmetry by itself."""
        return np.tanh(channels @ mix) + np.arange(17, dtype=np.float32)[:, None]

    size = (640, 480)
    mirrored = mirror_points(points[0], skeleton, size[0])
    rows = [
        WindowRow(points[1], size, True),
        WindowRow(points[0], size, True, mirror_test=True),
        WindowRow(mirrored, size, True, mirror_test=True),
    ]
    assert [row.cost for row in rows] == [1, 2, 2]
    plain, pose, other = framing.answers([network(framing.inputs(rows))], rows)
    np.testing.assert_allclose(other[:, mirror_order(skeleton)] * [-1, 1, 1], pose, atol=1e-5)
    alone = framing.answers([network(framing.inputs(rows[:1]))], rows[:1])[0]
    np.testing.assert_array_equal(plain, alone)
