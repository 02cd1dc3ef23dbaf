"""Laws of windows and resampling."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from service.pipelines.windows import newest_window, plan_centres, plan_windows, resample, uniform_times

COUNTS = [1, 2, 3, 26, 27, 28, 29, 35, 36, 37, 53, 54, 100, 1001]


@pytest.mark.parametrize("frames", [1, 3, 9, 27, 81])
@pytest.mark.parametrize("count", COUNTS)
def test_every_frame_is_answered_by_a_window_that_holds_it(count: int, frames: int) -> None:
    plan = plan_windows(count, frames, 9)
    assert plan.indices.shape[1] == frames
    assert plan.owner.shape == plan.place.shape == (count,)
    assert ((plan.place >= 0) & (plan.place < frames)).all()
    np.testing.assert_array_equal(plan.indices[plan.owner, plan.place], np.arange(count))


@pytest.mark.parametrize("count", COUNTS)
def test_windows_are_runs_of_frames_whose_ends_repeat(count: int) -> None:
    steps = np.diff(plan_windows(count, 27, 9).indices, axis=1)
    assert ((steps == 0) | (steps == 1)).all()
    if count >= 27:
        assert (steps == 1).all()


@pytest.mark.parametrize("count", [28, 53, 100, 1001])
def test_inner_frames_lie_central_and_no_frame_has_a_better_window(count: int) -> None:
    plan = plan_windows(count, 27, 9)
    off_centre = np.abs(plan.place - 13)
    assert (off_centre[13:-13] <= 4).all()
    all_windows = np.abs(np.arange(count)[:, None] - plan.indices[None, :, 13])
    np.testing.assert_array_equal(off_centre, all_windows.min(axis=1))


@pytest.mark.parametrize("frames", [1, 9, 27])
@pytest.mark.parametrize("count", COUNTS)
def test_a_window_a_frame_has_that_frame_in_its_centre(count: int, frames: int) -> None:
    plan = plan_centres(count, frames)
    np.testing.assert_array_equal(plan.indices[:, frames // 2], np.arange(count))
    np.testing.assert_array_equal(plan.indices[plan.owner, plan.place], np.arange(count))
    steps = np.diff(plan.indices, axis=1)
    assert ((steps == 0) | (steps == 1)).all()


def test_a_short_sequence_lies_in_the_middle_of_one_window() -> None:
    plan = plan_windows(3, 9, 9)
    np.testing.assert_array_equal(plan.indices, [[0, 0, 0, 0, 1, 2, 2, 2, 2]])
    np.testing.assert_array_equal(plan.place, [3, 4, 5])


def test_there_are_no_more_windows_than_the_stride_asks_for() -> None:
    for count in range(28, 200):
        assert len(plan_windows(count, 27, 9).indices) == 1 + -(-(count - 27) // 9)


@pytest.mark.parametrize("count", [28, 60, 200])
def test_a_frame_is_the_mean_of_its_windows_weighted_by_how_central_it_lies(count: int) -> None:
    plan = plan_windows(count, 27, 15)
    answers = [np.random.default_rng(n).normal(size=(27, 2)).astype(np.float32) for n in range(len(plan.indices))]
    wanted, weights = np.zeros((count, 2)), np.zeros(count)
    for indices, answer in zip(plan.indices, answers, strict=True):
        for place, frame in enumerate(indices):
            weight = 14 - abs(place - 13)
            wanted[frame] += weight * answer[place]
            weights[frame] += weight
    np.testing.assert_allclose(plan.joined(answers), wanted / weights[:, None], atol=1e-5)


def test_windows_that_agree_are_answered_as_they_are() -> None:
    true = np.random.default_rng(0).normal(size=(100, 17, 3)).astype(np.float32)
    for plan in (plan_windows(100, 27, 15), plan_windows(100, 27, 27), plan_centres(100, 27)):
        np.testing.assert_allclose(plan.joined([true[indices] for indices in plan.indices]), true, atol=1e-6)


def test_memory_grows_with_the_frames_and_not_with_their_square() -> None:
    tracemalloc.start()
    plan_windows(20_000, 27, 9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def test_resampling_onto_its_own_grid_changes_nothing() -> None:
    random = np.random.default_rng(0)
    times = np.cumsum(random.uniform(0.01, 0.1, 50))
    values = random.normal(size=(50, 17, 3)).astype(np.float32)
    values[random.random((50, 17)) < 0.2] = np.nan
    np.testing.assert_array_equal(resample(values, times, times), values)


def test_what_is_linear_in_time_stays_exact() -> None:
    random = np.random.default_rng(1)
    times = np.cumsum(random.uniform(0.01, 0.1, 30))
    wanted = np.linspace(times[0], times[-1], 77)
    slope, start = random.normal(size=(2, 17, 3))
    resampled = resample(start + slope * times[:, None, None], times, wanted)
    np.testing.assert_allclose(resampled, start + slope * wanted[:, None, None], atol=1e-5)


def test_there_and_back_returns_what_a_finer_grid_can_hold() -> None:
    times = np.arange(20) / 5
    values = np.sin(times)[:, None].astype(np.float32)
    finer = np.linspace(times[0], times[-1], 2 * 19 + 1)
    np.testing.assert_allclose(resample(resample(values, times, finer), finer, times), values, atol=1e-6)


def test_an_unknown_frame_spoils_only_what_lies_between_its_neighbours() -> None:
    times = np.arange(10.0)
    values = np.arange(10, dtype=np.float32)[:, None].repeat(2, axis=1)
    values[4, 0] = np.nan
    wanted = np.linspace(0, 9, 37)
    unknown = np.isnan(resample(values, times, wanted))
    np.testing.assert_array_equal(unknown[:, 0], (wanted > 3) & (wanted < 5))
    assert not unknown[:, 1].any()


def test_rounding_of_the_times_does_not_spread_what_is_unknown() -> None:
    times = np.arange(100) / 60
    values = np.zeros((100, 1), np.float32)
    values[50] = np.nan
    assert np.isnan(resample(values, times, times + 1e-12)).sum() == 1
    assert np.isnan(resample(values, times, times - 1e-12)).sum() == 1


@pytest.mark.parametrize("fps", [10, 12.5, 24, 25, 29.97, 30, 50, 59.94, 60])
@pytest.mark.parametrize("count", [2, 27, 999])
def test_rates_that_the_lifter_has_learned_are_left_alone(fps: float, count: int) -> None:
    assert uniform_times(np.arange(count) / fps, 10, 60) is None
    assert uniform_times(1e6 + np.arange(count) / fps, 10, 60) is None


@pytest.mark.parametrize(("fps", "wanted"), [(1, 10), (5, 10), (9, 10), (61, 60), (120, 60), (240, 60)])
def test_rates_outside_go_to_the_nearest_inside_and_keep_the_ends(fps: float, wanted: float) -> None:
    times = 3 + np.arange(500) / fps
    grid = uniform_times(times, 10, 60)
    assert grid is not None
    assert (grid[0], grid[-1]) == pytest.approx((times[0], times[-1]))
    assert 1 / np.diff(grid) == pytest.approx(wanted, rel=0.02)


def test_frames_that_do_not_come_evenly_are_put_on_an_even_grid_of_their_usual_rate() -> None:
    times = np.delete(np.arange(60) / 30, [20, 21, 22, 40])
    grid = uniform_times(times, 10, 60)
    assert grid is not None
    np.testing.assert_allclose(grid, np.arange(60) / 30, atol=1e-9)


def test_a_little_jitter_is_left_alone() -> None:
    random = np.random.default_rng(2)
    assert uniform_times(np.arange(60) / 30 + random.uniform(-0.004, 0.004, 60), 10, 60) is None


@pytest.mark.parametrize("count", [1, 2, 26, 27, 28, 100])
@pytest.mark.parametrize("dropped", [0.0, 0.3, 0.6])
def test_the_newest_window_is_one_window_and_the_longest_of_them(count: int, dropped: float) -> None:
    kept = np.random.default_rng(count).random(count) >= dropped
    kept[-1] = True
    times = np.flatnonzero(kept) / 30

    def windows(first: int) -> int:
        grid = uniform_times(times[first:], 10, 60)
        return len(plan_windows(len(times) - first if grid is None else len(grid), 27, 15).indices)

    first = newest_window(times, 27, 10, 60)
    assert windows(first) == 1
    assert first == 0 or windows(first - 1) > 1


def test_without_gaps_the_newest_window_has_all_its_frames() -> None:
    assert newest_window(np.arange(100) / 30, 27, 10, 60) == 73


def test_one_frame_has_no_rate() -> None:
    assert uniform_times(np.array([5.0]), 10, 60) is None


@pytest.mark.parametrize("count", [1, 2, 26, 27, 28, 60])
def test_centre_plans_answer_every_frame_by_a_window_of_its_own(count: int) -> None:
    plan = plan_centres(count, 27)
    assert plan.indices.shape == (count, 27)
    answered = plan.indices[plan.owner, plan.place]
    np.testing.assert_array_equal(answered, np.arange(count))
