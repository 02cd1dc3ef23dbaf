"""The simulated fleet: laws that any fleet keeps, and the plan that follows from them."""

from __future__ import annotations

import pytest

from benchmarks.simulation import BatchTimes, Cores, MeasuredTimes, SampledTimes, closed_loop, open_loop, plan
from service.batching.policy import Limits

TIMES = BatchTimes(0.04, 0.005)


def test_a_lone_caller_waits_for_a_batch_of_its_own_row() -> None:
    told = closed_loop(1, 1, 0.0, TIMES, 10.0)
    assert told["p50_ms"] == told["p99_ms"] == pytest.approx(45)
    assert told["answers_a_second"] == pytest.approx(1 / 0.045, rel=0.02) and told["mean_batch_rows"] == 1


def test_callers_in_a_closed_loop_keep_littles_law() -> None:
    told = closed_loop(3, 24, 0.01, TIMES, 10.0)
    assert told["answers_a_second"] * (told["p50_ms"] / 1000 + 0.01) == pytest.approx(24, rel=0.05)


def test_twice_the_replicas_bear_twice_the_callers() -> None:
    one, two = closed_loop(4, 32, 0.0, TIMES, 5.0), closed_loop(8, 64, 0.0, TIMES, 5.0)
    assert two["answers_a_second"] == pytest.approx(2 * one["answers_a_second"], rel=0.05)


def test_a_load_within_what_devices_can_do_is_answered_whole_and_one_beyond_is_refused() -> None:
    full = 32 / TIMES.seconds(32)
    assert open_loop(2, 0.5 * full, TIMES, 3.0)["refused"] == 0
    assert open_loop(2, 4 * full, TIMES, 2.0, Limits(rows=64, share=1.0, budget=32))["refused"] > 0


def test_a_plan_grows_with_the_load_and_with_what_is_asked_of_it() -> None:
    few, more = plan(100, 150, TIMES, most=32, looked_at=1500), plan(400, 150, TIMES, most=32, looked_at=1500)
    strict = plan(400, 120, TIMES, most=32, looked_at=1500)
    assert few["replicas"] < more["replicas"] <= strict["replicas"]
    assert more["p99_ms"] <= 150 and strict["p99_ms"] <= 120


def test_a_plan_that_no_number_of_replicas_keeps_says_so() -> None:
    with pytest.raises(ValueError, match="8 replicas do not keep"):
        plan(10_000, 150, TIMES, most=8, looked_at=1500)
    with pytest.raises(ValueError, match="do not keep"):
        plan(10, 30, TIMES, most=8, looked_at=500)  # a batch of one takes longer


def test_measured_times_are_those_of_the_runs_that_a_batch_is_made_of() -> None:
    times = MeasuredTimes({1: 0.003, 4: 0.010, 16: 0.035})
    assert times.seconds(16) == 0.035
    assert times.seconds(7) == pytest.approx(0.010 + 3 * 0.003)
    assert times.seconds(37) == pytest.approx(2 * 0.035 + 0.010 + 0.003)


def test_batches_take_what_one_of_their_size_took_and_the_tail_is_theirs() -> None:
    slow_now_and_then = SampledTimes({1: [0.04] * 98 + [0.4] * 2, 8: [0.08]})
    assert {slow_now_and_then.seconds(1) for _ in range(1000)} == {0.04, 0.4}
    assert slow_now_and_then.seconds(7) == slow_now_and_then.seconds(30) == 0.08
    told = closed_loop(1, 1, 0.0, slow_now_and_then, 60.0)
    assert told["p50_ms"] == pytest.approx(40) and told["p99_ms"] == pytest.approx(400)
    with pytest.raises(ValueError, match="no batch"):
        SampledTimes({3: []})


def test_a_shared_core_does_one_piece_of_work_after_the_other() -> None:
    one, two = Cores(1, 0.0), Cores(2, 0.0)
    assert [one.done_at(0.0, 0.5), one.done_at(0.1, 0.5), one.done_at(2.0, 0.5)] == [0.5, 1.0, 2.5]
    assert [two.done_at(0.0, 0.5), two.done_at(0.1, 0.5), two.done_at(0.2, 0.5)] == [0.5, 0.6, 1.0]


def test_a_fleet_on_one_core_answers_no_more_than_the_core_can_and_less_soon() -> None:
    apart = closed_loop(3, 24, 0.0, TIMES, 20.0)
    together = closed_loop(3, 24, 0.0, TIMES, 20.0, cores=Cores(1, 0.01))
    roomy = closed_loop(3, 24, 0.0, TIMES, 20.0, cores=Cores(64, 1e-6))
    assert together["answers_a_second"] <= 100.5 < apart["answers_a_second"]
    assert together["p99_ms"] > apart["p99_ms"]
    assert roomy["answers_a_second"] == pytest.approx(apart["answers_a_second"], rel=0.02)


def test_a_lone_caller_waits_for_the_cpu_both_ways() -> None:
    told = closed_loop(1, 1, 0.0, TIMES, 10.0, cores=Cores(1, 0.01))
    assert told["p50_ms"] == told["p99_ms"] == pytest.approx(55)


def test_two_lanes_answer_what_two_replicas_of_one_lane_do() -> None:
    """Up to the line that they share, which only makes it even."""
    one, side_by_side, apart = (
        open_loop(replicas, 40.0, TIMES, 60.0, lanes=lanes) for replicas, lanes in ((1, 1), (1, 2), (2, 1))
    )
    assert side_by_side["p99_ms"] <= apart["p99_ms"] * 1.02
    assert side_by_side["p99_ms"] < one["p99_ms"]
    assert side_by_side["mean_batch_rows"] < one["mean_batch_rows"]
