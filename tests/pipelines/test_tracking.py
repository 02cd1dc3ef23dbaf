"""Who is who from frame to frame."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from service.pipelines.tracking import CONFIRMED_AFTER, KEPT_S, Array, Tracker

FPS = 30


def person(x: float, phase: float = 0.0, facing: int = 1, height: float = 160, y: float = 50) -> Array:
    """(17, 3) somebody who walks across the picture, seen from the side."""
    across = 0.3 * facing * np.array([0, 1, -1, 2, -2, 4, -4, 6, -6, 6, -6, 3, -3, 3, -3, 3, -3])
    down = np.array([0, -1, -1, 0, 0, 5, 5, 11, 11, 16, 16, 17, 17, 26, 26, 34, 34])
    swing = facing * np.sin(phase)
    across[:3] += np.array([2, 1.5, 1.5]) * facing
    for joints, reach in (((7, 8), 2), ((9, 10), 4), ((14, 13), 3), ((16, 15), 6)):
        across[list(joints)] += np.array([reach, -reach]) * swing
    unit = height / 40
    return np.stack([x + unit * across, y + unit * down, np.full(17, 0.9)], axis=1).astype(np.float32)


def box_of(points: Array) -> Array:
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    margin = 0.1 * (high - low)
    return np.concatenate([low - margin, high - low + 2 * margin]).astype(np.float32)


def see(tracker: Tracker, time: float, people: Iterable[Array]) -> list[int]:
    """The ids that the people get."""
    points = np.array(list(people), np.float32).reshape(-1, 17, 3)
    boxes = np.array([box_of(pose) for pose in points], np.float32).reshape(-1, 4)
    return [track.id for track in tracker.update(time, boxes, np.full(len(points), 0.9, np.float32), points)]


def test_nobody_in_nobody_out() -> None:
    tracker = Tracker()
    assert see(tracker, 0, []) == []
    assert see(tracker, 0.1, [person(100)]) == [0]
    assert see(tracker, 0.2, []) == []


def test_a_walker_keeps_the_id() -> None:
    tracker = Tracker()
    seen = {see(tracker, n / FPS, [person(50 + 4 * n, n / 5)])[0] for n in range(90)}
    assert seen == {0}


def test_ids_do_not_depend_on_the_order_in_a_frame() -> None:
    tracker = Tracker()
    here, there = person(60), person(400)
    assert see(tracker, 0, [here, there]) == [0, 1]
    assert see(tracker, 0.03, [there, here]) == [1, 0]


@pytest.mark.parametrize("fps", [15, 30, 60])
@pytest.mark.parametrize("phase", [0.0, 1.0, 2.0, 3.0])
def test_two_who_cross_keep_their_ids(fps: int, phase: float) -> None:
    tracker, steps = Tracker(), np.random.default_rng(0)
    right: set[int] = set()
    left: set[int] = set()
    for n in range(3 * fps):
        time = n / fps
        first = person(60 + 110 * time, 6 * time, 1)
        second = person(390 - 110 * time, phase + 6 * time, -1, height=150, y=55)
        flip = bool(steps.integers(2))
        ids = see(tracker, time, [second, first] if flip else [first, second])
        right.add(ids[1 if flip else 0])
        left.add(ids[0 if flip else 1])
    assert right == {0} or right == {1}
    assert left == {0, 1} - right


def test_somebody_gone_for_a_moment_is_the_same() -> None:
    tracker = Tracker()
    see(tracker, 0, [person(100)])
    see(tracker, KEPT_S / 2, [])
    assert see(tracker, KEPT_S - 0.01, [person(104)]) == [0]


def test_somebody_gone_for_longer_is_somebody_new() -> None:
    tracker = Tracker()
    see(tracker, 0, [person(100)])
    assert see(tracker, KEPT_S + 0.01, [person(100)]) == [1]


def test_who_appears_elsewhere_is_somebody_new() -> None:
    tracker = Tracker()
    see(tracker, 0, [person(100)])
    assert see(tracker, 0.03, [person(400)]) == [1]
    assert see(tracker, 0.06, [person(101), person(401)]) == [0, 1]


def test_no_id_is_used_twice() -> None:
    tracker, random = Tracker(), np.random.default_rng(1)
    ever: set[int] = set()
    alive: dict[int, float] = {}
    for n in range(300):
        time = n * 0.2
        ids = see(tracker, time, [person(float(random.uniform(0, 2000))) for _ in range(random.integers(0, 4))])
        assert len(set(ids)) == len(ids)
        for each in ids:
            assert each not in ever or time - alive[each] <= KEPT_S + 1e-9
            ever.add(each)
            alive[each] = time
    assert len(ever) > 50


def test_tracks_that_are_over_take_no_memory() -> None:
    tracker = Tracker()
    for n in range(200):
        see(tracker, 2.0 * n, [person(100)])
    assert len(tracker.tracks) == 1


def test_a_track_is_tentative_until_it_was_seen_often_enough() -> None:
    tracker, states = Tracker(), []
    for n in range(CONFIRMED_AFTER + 1):
        pose = person(100 + n)
        states.append(tracker.update(n / FPS, box_of(pose)[None], np.ones(1, np.float32), pose[None])[0].state)
    assert states == ["tentative"] * (CONFIRMED_AFTER - 1) + ["confirmed"] * 2


def test_the_last_box_score_and_pose_are_told() -> None:
    tracker = Tracker()
    see(tracker, 0, [person(100)])
    pose = person(103)
    track = tracker.update(0.1, box_of(pose)[None], np.array([0.6], np.float32), pose[None])[0]
    np.testing.assert_array_equal(track.points, pose)
    np.testing.assert_array_equal(track.box, box_of(pose))
    assert (track.seen_s, track.frames) == (0.1, 2)
    assert track.score == pytest.approx(0.6)
