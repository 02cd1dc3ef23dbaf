"""Laws of the repair of exchanged sides."""

from __future__ import annotations

import numpy as np
import pytest

from service.geometry.skeletons import SKELETONS, mirror_order
from service.pipelines.swaps import LONGEST_S, repair
from service.pipelines.tracking import Array

from .conftest import person

PAIRS = SKELETONS["coco17"].pairs
SIZE = 110.0  # of `person`, 160 pixels tall


def walk(frames: int = 60, fps: float = 25.0, seed: int | None = 0, facing: int = 1) -> tuple[Array, np.ndarray]:
    """Somebody who walks across the picture, legs crossing, with a detector's noise unless seed is None."""
    times = np.arange(frames) / fps
    points = np.stack([person(80 + 60 * t, 6.0 * t, facing) for t in times])
    if seed is not None:
        points[..., :2] += np.random.default_rng(seed).normal(0, 1.0, points[..., :2].shape)
    return points.astype(np.float32), times


def turned(frames: int = 60, fps: float = 25.0, seed: int = 0) -> tuple[Array, np.ndarray]:
    """Somebody who stands facing us, so that left and right lie apart, and sways."""
    times = np.arange(frames) / fps
    pose = person(200, 0.0)
    for n, (left, right) in enumerate(PAIRS):
        pose[left, 0], pose[right, 0] = 200 + 12 + n, 200 - 12 - n
    points = np.tile(pose, (frames, 1, 1))
    points[..., 0] += 6 * np.sin(3 * times)[:, None]
    points[..., :2] += np.random.default_rng(seed).normal(0, 1.0, points[..., :2].shape)
    return points.astype(np.float32), times


def exchanged(points: Array, first: int, after: int, pairs: list[int]) -> Array:
    out = points.copy()
    for pair in pairs:
        left, right = PAIRS[pair]
        out[first:after, [left, right]] = points[first:after, [right, left]]
    return out


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("facing", [1, -1])
@pytest.mark.parametrize("fps", [25.0, 50.0])
def test_a_walk_without_exchanges_is_left_alone(fps: float, facing: int, seed: int) -> None:
    points, times = walk(fps=fps, seed=seed, facing=facing)
    repaired, swapped = repair(points, times, SIZE)
    assert not swapped.any()
    np.testing.assert_array_equal(repaired, points)


@pytest.mark.parametrize("length", [1, 2, 5, 14])
@pytest.mark.parametrize("pairs", [[7], [4], [6, 7], list(range(len(PAIRS)))])
def test_an_exchange_is_put_right_and_flagged(pairs: list[int], length: int) -> None:
    points, times = turned()
    repaired, swapped = repair(exchanged(points, 20, 20 + length, pairs), times, SIZE)
    np.testing.assert_array_equal(repaired, points)
    assert np.flatnonzero(swapped).tolist() == list(range(20, 20 + length))


def test_two_exchanges_are_two() -> None:
    points, times = turned()
    wrong = exchanged(exchanged(points, 10, 13, [7]), 40, 44, [7])
    repaired, swapped = repair(wrong, times, SIZE)
    np.testing.assert_array_equal(repaired, points)
    assert np.flatnonzero(swapped).tolist() == [10, 11, 12, 40, 41, 42, 43]


def test_repairing_what_is_repaired_changes_nothing() -> None:
    points, times = turned()
    once, _ = repair(exchanged(points, 20, 26, [6, 7]), times, SIZE)
    again, swapped = repair(once, times, SIZE)
    np.testing.assert_array_equal(again, once)
    assert not swapped.any()


def test_one_jump_alone_tells_nothing_and_is_left() -> None:
    points, times = turned()
    wrong = exchanged(points, 30, 60, [7])
    repaired, swapped = repair(wrong, times, SIZE)
    np.testing.assert_array_equal(repaired, wrong)
    assert not swapped.any()


def test_what_lasts_is_no_exchange() -> None:
    points, times = turned()
    frames = int(LONGEST_S * 25) + 2
    wrong = exchanged(points, 20, 20 + frames, [7])
    assert not repair(wrong, times, SIZE)[1].any()


def test_the_mirror_image_is_repaired_alike() -> None:
    points, times = turned()
    wrong = exchanged(points, 20, 25, [4, 7])
    order = mirror_order(SKELETONS["coco17"])
    flipped = wrong[:, order] * np.array([-1, 1, 1], np.float32)
    there, swapped = repair(flipped, times, SIZE)
    here, also = repair(wrong, times, SIZE)
    np.testing.assert_array_equal(there, here[:, order] * np.array([-1, 1, 1], np.float32))
    np.testing.assert_array_equal(swapped, also)


def test_a_hundred_times_the_size_is_repaired_alike() -> None:
    points, times = turned()
    wrong = exchanged(points, 20, 25, [4, 7])
    larger = wrong * np.array([100, 100, 1], np.float32)
    np.testing.assert_array_equal(repair(larger, times, 100 * SIZE)[1], repair(wrong, times, SIZE)[1])


def test_unknown_joints_are_no_jumps() -> None:
    points, times = turned()
    points[15:30, 15] = np.nan, np.nan, 0
    repaired, swapped = repair(points, times, SIZE)
    np.testing.assert_array_equal(repaired, points)
    assert not swapped.any()


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_too_few_frames_are_left_alone_and_nothing_is_written_to(frames: int) -> None:
    points, times = turned()
    kept = points[:frames].copy()
    repaired, swapped = repair(points[:frames], times[:frames], SIZE)
    np.testing.assert_array_equal(repaired, kept)
    assert repaired is not points and len(swapped) == frames
