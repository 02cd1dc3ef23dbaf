"""Laws of the symmetric filter and of the causal one."""

from __future__ import annotations

import numpy as np
import pytest

from service.pipelines.smoothing import BLOCK, Array, OneEuro, smooth, without_spikes


def walk(frames: int, fps: float, seed: int = 0) -> tuple[Array, np.ndarray]:
    """Points (frames, 17, 3) that sway slowly, and their times."""
    times = np.arange(frames) / fps
    phases = np.random.default_rng(seed).uniform(0, 6, (17, 2))
    places = 200 + 50 * np.sin(2 * times[:, None, None] + phases)
    points = np.concatenate([places, np.full((frames, 17, 1), 0.8)], axis=2)
    return points.astype(np.float32), times


def roughness(points: Array) -> float:
    """Mean second difference of the places, pixels."""
    return float(np.abs(np.diff(points[..., :2], n=2, axis=0)).mean())


# ---- The symmetric filter


@pytest.mark.parametrize("frames", [1, 2, 50])
def test_what_does_not_move_stays(frames: int) -> None:
    points = np.tile(walk(1, 30)[0], (frames, 1, 1))
    np.testing.assert_allclose(smooth(points, np.arange(frames) / 30), points, atol=1e-3)


def test_even_motion_stays_even_inside() -> None:
    times = np.arange(40) / 30
    points = np.concatenate([100 + 90 * times[:, None, None].repeat(34, 1).reshape(40, 17, 2), np.ones((40, 17, 1))], 2)
    smoothed = smooth(points.astype(np.float32), times)
    np.testing.assert_allclose(smoothed[8:-8, :, :2], points[8:-8, :, :2], atol=1e-2)


def test_scores_stay_and_the_input_is_not_written_to() -> None:
    points, times = walk(30, 30)
    points[..., 2] = np.random.default_rng(1).random((30, 17))
    before = points.copy()
    np.testing.assert_array_equal(smooth(points, times)[..., 2], points[..., 2])
    np.testing.assert_array_equal(points, before)


def test_what_is_unknown_stays_unknown_and_adds_nothing() -> None:
    points, times = walk(30, 30)
    holes = points.copy()
    holes[10:13, 4] = np.nan, np.nan, 0
    smoothed = smooth(holes, times)
    np.testing.assert_array_equal(np.isnan(smoothed[..., 0]), np.isnan(holes[..., 0]))
    others = np.arange(17) != 4
    np.testing.assert_array_equal(smoothed[:, others], smooth(points, times)[:, others])
    away = np.r_[0:3, 20:30]
    np.testing.assert_allclose(smoothed[away, 4], smooth(points, times)[away, 4], atol=1e-3)
    assert np.isfinite(smoothed[9, 4]).all()


def test_all_unknown_gives_all_unknown() -> None:
    points = np.full((5, 17, 3), (np.nan, np.nan, 0), np.float32)
    assert np.isnan(smooth(points, np.arange(5) / 30)[..., :2]).all()


def test_flicker_goes_and_motion_stays() -> None:
    points, times = walk(90, 30)
    noisy = points.copy()
    noisy[..., :2] += np.random.default_rng(2).normal(0, 3, (90, 17, 2)).astype(np.float32)
    smoothed = smooth(noisy, times)
    assert roughness(smoothed) < 0.4 * roughness(noisy)
    assert np.abs(smoothed[..., :2] - points[..., :2]).mean() < 0.8 * np.abs(noisy[..., :2] - points[..., :2]).mean()


def test_a_joint_that_is_not_sure_follows_those_that_are() -> None:
    points, times = walk(21, 30)
    points[..., :2] = 100
    points[10, 3] = 300, 300, 0.01
    assert np.abs(smooth(points, times)[10, 3, :2] - 100).max() < 5


def test_time_runs_the_same_in_both_directions() -> None:
    points, times = walk(40, 30)
    backwards = smooth(points[::-1], times[-1] - times[::-1])[::-1]
    np.testing.assert_allclose(smooth(points, times), backwards, atol=1e-3)


def test_no_seam_shows_in_a_long_sequence() -> None:
    points, times = walk(2 * BLOCK + 100, 240)
    points[..., :2] += np.random.default_rng(4).normal(0, 3, points[..., :2].shape).astype(np.float32)
    smoothed = smooth(points, times)
    for seam in (BLOCK, 2 * BLOCK):
        around = slice(seam - 100, seam + 100)
        np.testing.assert_allclose(smoothed[around][80:120], smooth(points[around], times[around])[80:120], atol=1e-3)


def test_no_frames_in_no_frames_out() -> None:
    assert smooth(np.zeros((0, 17, 3), np.float32), np.zeros(0)).shape == (0, 17, 3)


def test_half_the_rate_smooths_over_as_many_seconds() -> None:
    points, times = walk(120, 60)
    np.testing.assert_allclose(smooth(points, times)[20:100:2], smooth(points[::2], times[::2])[10:50], atol=0.5)


# ---- The causal filter


def run(one: OneEuro, points: Array, times: np.ndarray) -> Array:
    return np.stack([one(frame, float(time)) for frame, time in zip(points, times, strict=True)])


def test_the_first_frame_passes_as_it_is() -> None:
    points = walk(1, 30)[0][0]
    np.testing.assert_array_equal(OneEuro()(points, 7.0), points)


def test_a_stream_that_does_not_move_does_not_move() -> None:
    points = np.tile(walk(1, 30)[0], (30, 1, 1))
    np.testing.assert_allclose(run(OneEuro(), points, np.arange(30) / 30), points, atol=1e-3)


@pytest.mark.parametrize("fps", [10, 30, 120])
def test_a_jump_is_followed_within_a_second_and_not_overshot(fps: int) -> None:
    points = np.tile(walk(1, fps)[0], (2 * fps, 1, 1))
    points[fps:, :, 0] += 80
    answered = run(OneEuro(), points, np.arange(2 * fps) / fps)
    assert (answered[:, :, 0] <= points[:, :, 0] + 0.1).all()
    assert (np.diff(answered[:, :, 0], axis=0) > -0.1).all()
    np.testing.assert_allclose(answered[-1], points[-1], atol=4)


def test_a_still_person_is_smoothed_more_than_a_fast_one() -> None:
    noise = np.random.default_rng(3).normal(0, 1, (90, 17, 2)).astype(np.float32)
    still = np.tile(walk(1, 30)[0], (90, 1, 1))
    fast = still.copy()
    fast[..., 0] += 20 * np.arange(90, dtype=np.float32)[:, None]
    left = []
    for points in (still, fast):
        noisy = points.copy()
        noisy[..., :2] += noise
        left.append(roughness(run(OneEuro(), noisy, np.arange(90) / 30)[30:]))
    assert left[0] < 0.5 * left[1]


def test_near_and_far_people_are_smoothed_alike() -> None:
    points, times = walk(60, 30)
    near = points * np.array([4, 4, 1], np.float32)
    np.testing.assert_allclose(
        run(OneEuro(), near, times)[..., :2], 4 * run(OneEuro(), points, times)[..., :2], rtol=1e-4
    )


def test_twice_the_rate_gives_nearly_the_same_lag() -> None:
    lags = []
    for fps in (30, 60):
        points, times = walk(4 * fps, fps)
        lags.append(float(np.abs(run(OneEuro(), points, times) - points)[fps:].mean()))
    assert lags[0] == pytest.approx(lags[1], rel=0.3)


def test_a_joint_that_comes_back_begins_where_it_is() -> None:
    points = np.tile(walk(1, 30)[0], (20, 1, 1))
    points[8:12, 5] = np.nan, np.nan, 0
    points[12:, 5, 0] += 100
    answered = run(OneEuro(), points, np.arange(20) / 30)
    np.testing.assert_array_equal(np.isnan(answered[..., 0]), np.isnan(points[..., 0]))
    np.testing.assert_allclose(answered[12, 5], points[12, 5], atol=1e-3)
    np.testing.assert_array_equal(answered[..., 2], points[..., 2])


def test_a_frame_in_which_nothing_is_known_passes() -> None:
    points = np.tile(walk(1, 30)[0], (3, 1, 1))
    points[1] = np.nan, np.nan, 0
    answered = run(OneEuro(), points, np.arange(3) / 30)
    assert np.isnan(answered[1, :, :2]).all()
    np.testing.assert_array_equal(answered[2], points[2])


def test_a_clock_that_goes_back_begins_anew() -> None:
    points, times = walk(10, 30)
    one = OneEuro()
    run(one, points, times)
    np.testing.assert_array_equal(one(points[0], 0.0), points[0])
    np.testing.assert_array_equal(one(points[5], 0.0), points[5])


# ---- Leaps of one frame


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fps", [12.5, 25, 60])
def test_motion_without_leaps_is_left_alone(fps: float, seed: int) -> None:
    points, times = walk(80, fps, seed)
    points[..., :2] += np.random.default_rng(seed).normal(0, 2, points[..., :2].shape).astype(np.float32)
    np.testing.assert_array_equal(without_spikes(points, times, 200), points)


@pytest.mark.parametrize("joint", [0, 9, 16])
@pytest.mark.parametrize("frame", [1, 20, 48])
def test_a_leap_and_back_is_taken_out(joint: int, frame: int) -> None:
    points, times = walk(50, 25)
    wrong = points.copy()
    wrong[frame, joint] += np.array([70, -40, 0], np.float32)
    calm = without_spikes(wrong, times, 200)
    np.testing.assert_allclose(calm[frame, joint, :2], points[frame, joint, :2], atol=2)
    wrong[frame, joint] = calm[frame, joint]
    np.testing.assert_array_equal(calm, wrong)


def test_a_leap_that_stays_is_motion() -> None:
    points, times = walk(50, 25)
    points[20:, 9, 0] += 80
    np.testing.assert_array_equal(without_spikes(points, times, 200), points)


def test_where_frames_are_rare_people_do_leap() -> None:
    points, times = walk(50, 5)
    points[20, 9, 0] += 80
    np.testing.assert_array_equal(without_spikes(points, times, 200), points)


def test_unknown_neighbours_make_no_leap() -> None:
    points, times = walk(50, 25)
    points[20, 9, 0] += 80
    points[21, 9] = np.nan, np.nan, 0
    np.testing.assert_array_equal(without_spikes(points, times, 200), points)


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_two_frames_have_no_leaps(frames: int) -> None:
    points, times = walk(2, 25)
    points[0] += 100
    np.testing.assert_array_equal(without_spikes(points[:frames], times[:frames], 200), points[:frames])
