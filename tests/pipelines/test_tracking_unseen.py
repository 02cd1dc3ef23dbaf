"""People whom no look shows for a while: where they are expected, poses that carry, fragments that are one person."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.pipelines.tracking import (
    CARRIED_S,
    LONGEST_ABSENCE_S,
    Fragment,
    Tracked,
    Tracker,
    carried_box,
    merges,
    reachable,
    told_apart,
)

from .conftest import FPS, box_of, look, person, see

# ---- Motion


def test_a_hidden_walker_is_known_again_where_the_walk_leads() -> None:
    tracker = Tracker()
    for n in range(30):
        see(tracker, n / FPS, [person(50 + 4 * n, n / 5)])
    # Half a second behind a pillar: 60 pixels on, more than a body's width.
    assert see(tracker, 45 / FPS, [person(50 + 4 * 45, 9.0)]) == [0]


def test_speed_is_that_of_the_walk() -> None:
    tracker = Tracker()
    for n in range(30):
        (track,) = look(tracker, n / FPS, [person(50 + 4 * n)])
    np.testing.assert_allclose(track.velocity, [4 * FPS, 0], atol=1)
    np.testing.assert_allclose(track.predicted(32 / FPS)[:, 0], person(50 + 4 * 32)[:, 0], atol=2)


# ---- Carrying


def test_a_carried_pose_that_fits_nobody_begins_no_track() -> None:
    tracker = Tracker()
    see(tracker, 0, [person(100)])
    assert [t.id for t in look(tracker, 0.03, [person(101), person(500)], [False, False])] == [0]
    assert len(tracker.tracks) == 1


def test_poses_carry_for_a_while_and_then_the_finder_must_have_found_them() -> None:
    tracker = Tracker()
    see(tracker, 0, [person(100)])
    for n in range(1, 60):
        look(tracker, n / FPS, [person(100)], [False], looked=False)
        assert bool(tracker.carried((n + 1) / FPS)) == ((n + 1) / FPS <= CARRIED_S)


def test_of_two_who_end_on_one_pose_the_expected_one_keeps_it() -> None:
    tracker = Tracker()
    for n in range(10):
        tracks = look(tracker, n / FPS, [person(100 + 4 * n), person(190 - 4 * n)])
    now = 10 / FPS
    here = person(140)
    points = np.stack([here, here + np.array([1, 0, 0], np.float32)])
    boxes = np.stack([box_of(pose) for pose in points])
    assert told_apart(tracks, now, boxes, points).tolist() == [0]
    assert told_apart(tracks[::-1], now, boxes, points).tolist() == [1]
    apart = np.stack([person(140), person(260)])
    assert told_apart(tracks, now, np.stack([box_of(pose) for pose in apart]), apart).tolist() == [0, 1]
    assert told_apart([], now, boxes[:0], points[:0]).tolist() == []


def test_a_carried_box_moves_with_the_person_and_ends_outside() -> None:
    tracker = Tracker()
    for n in range(10):
        (track,) = look(tracker, n / FPS, [person(100 + 4 * n)])
    here, there = (carried_box(track, (9 + n) / FPS, 640, 480) for n in (0, 3))
    assert here is not None and there is not None
    np.testing.assert_allclose(there - here, [12, 0, 0, 0], atol=1.5)
    gone = Tracked(
        0, track.box + np.array([900, 0, 0, 0], np.float32), 0.9, track.points + np.array([900, 0, 0], np.float32), 0.3
    )
    assert carried_box(gone, 0.3, 640, 480) is None


def test_the_faster_somebody_is_the_fewer_frames_are_carried_at_once() -> None:
    times = [0.04 * n for n in range(1, 9)]
    reaches = []
    for speed in (0, 200, 1000, 5000):
        track = Tracked(0, np.array([0, 0, 100, 100], np.float32), 0.9, person(50), 0.0)
        track.velocity = np.array([speed, 0], np.float32)
        reaches.append(reachable([track], times))
    assert reaches[0] == 8 and reaches[-1] == 1
    assert reaches == sorted(reaches, reverse=True)
    assert reachable([], times) == 8


# ---- Fragments


def fragment(number: int, start: float, end: float, x: float, **other: Any) -> Fragment:
    """Somebody 60 wide and 150 tall who stands at x."""
    box = np.array([x, 60, 60, 150], np.float32)
    facts: dict[str, Any] = {"first": box, "last": box, "velocity": np.zeros(2, np.float32)}
    return Fragment(number, start, end, **(facts | other))


def test_who_vanishes_inside_the_picture_and_appears_there_is_the_same() -> None:
    assert merges([fragment(0, 0, 5, 200), fragment(1, 9, 12, 230)], 640, 480) == {1: 0}
    assert merges([], 640, 480) == {}


def test_three_fragments_are_one_person_by_the_earliest_id() -> None:
    parts = [fragment(0, 0, 5, 200), fragment(1, 9, 12, 220), fragment(2, 15, 18, 210)]
    assert merges(parts, 640, 480) == {1: 0, 2: 0}
    assert merges(parts[::-1], 640, 480) == {1: 0, 2: 0}


@pytest.mark.parametrize(
    "after",
    [
        fragment(1, 9, 12, 500),  # elsewhere
        fragment(1, 4, 12, 200),  # both at once
        fragment(1, 5 + LONGEST_ABSENCE_S + 1, 30, 200),  # too long ago
        fragment(1, 9, 12, 200, first=np.array([190, 60, 100, 250], np.float32)),  # of another size
        fragment(1, 9, 12, 200, first=np.array([0, 60, 60, 150], np.float32)),  # came in over the border
    ],
    ids=["elsewhere", "at once", "long ago", "larger", "from the border"],
)
def test_without_the_evidence_fragments_stay_two(after: Fragment) -> None:
    assert merges([fragment(0, 0, 5, 200), after], 640, 480) == {}


def test_who_left_over_the_border_may_be_anybody_who_comes_back() -> None:
    left = fragment(0, 0, 5, 200, last=np.array([580, 60, 60, 150], np.float32))
    assert merges([left, fragment(1, 6, 9, 560)], 640, 480) == {}


def test_two_candidates_are_none() -> None:
    here, there = fragment(1, 8, 12, 190), fragment(2, 8.5, 12, 215)
    assert merges([fragment(0, 0, 5, 200), here, there], 640, 480) == {}
    assert merges([fragment(0, 0, 5, 200), fragment(3, 0, 5, 220), here], 640, 480) == {}
