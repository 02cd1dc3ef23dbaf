"""Who is who from frame to frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from service.pipelines.tracking import (
    CARRIED_S,
    CONFIRMED_AFTER,
    KEPT_S,
    LONGEST_ABSENCE_S,
    Array,
    Fragment,
    Tracked,
    Tracker,
    carried_box,
    merges,
    reachable,
    told_apart,
)

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


WHITE, BLACK = np.full((2, 3), 200, np.float32), np.full((2, 3), 20, np.float32)


def dressed(tracker: Tracker, time: float, people: dict[float, Array], looked: bool = True) -> dict[float, int]:
    """Where people stand and what they wear, to the ids that they get."""
    points = np.stack([person(x) for x in people])
    boxes = np.stack([box_of(pose) for pose in points])
    colours = np.stack(list(people.values()))
    scores = np.full(len(points), 0.9, np.float32)
    told = tracker.update(time, boxes, scores, points, looked=looked, colours=colours)
    return dict(zip(people, (track.id for track in told), strict=True))


def test_two_in_one_place_are_told_apart_by_their_colours() -> None:
    tracker, colourless = Tracker(), Tracker()
    unknown = WHITE * np.float32(np.nan)
    for n in range(10):
        dressed(tracker, n / FPS, {150 + 5 * n: WHITE, 250 - 4 * n: BLACK})
        dressed(colourless, n / FPS, {150 + 5 * n: unknown, 250 - 4 * n: unknown})
    for n in range(10, 15):
        dressed(tracker, n / FPS, {198: WHITE, 212: BLACK})
        dressed(colourless, n / FPS, {198: unknown, 212: unknown})
    assert dressed(tracker, 15 / FPS, {203: BLACK, 207: WHITE}) == {203: 1, 207: 0}
    assert dressed(colourless, 15 / FPS, {203: unknown, 207: unknown}) == {203: 0, 207: 1}


def test_new_colours_alone_make_nobody_new() -> None:
    tracker = Tracker()
    dressed(tracker, 0, {100: WHITE, 400: BLACK})
    assert dressed(tracker, 1 / FPS, {100: BLACK, 400: BLACK}) == {100: 0, 400: 1}


def test_colours_are_learned_from_people_who_are_clear_of_others() -> None:
    tracker = Tracker()
    dressed(tracker, 0, {100: WHITE, 400: BLACK})
    dressed(tracker, 1 / FPS, {100: BLACK, 112: WHITE, 400: BLACK})
    np.testing.assert_array_equal(tracker.tracks[0].colours, WHITE)
    assert np.isnan(tracker.tracks[2].colours).all()
    dressed(tracker, 2 / FPS, {100: WHITE + 8}, looked=False)
    np.testing.assert_array_equal(tracker.tracks[0].colours, WHITE)
    dressed(tracker, 3 / FPS, {100: WHITE + 8})
    np.testing.assert_array_equal(tracker.tracks[0].colours, WHITE + 2)


@pytest.mark.parametrize(
    ("x", "colours", "number"),
    [(170, WHITE + 5, 0), (170, BLACK, 2), (330, WHITE, 2), (170, WHITE * np.float32(np.nan), 2)],
)
def test_who_comes_out_where_nobody_is_expected_is_known_by_the_colours_nearby(
    x: float, colours: Array, number: int
) -> None:
    tracker = Tracker()
    for n in range(3):
        dressed(tracker, n / FPS, {100: WHITE, 500: BLACK})
    for n in range(3, 20):
        dressed(tracker, n / FPS, {500: BLACK})
    assert dressed(tracker, 20 / FPS, {x: colours, 500: BLACK}) == {x: number, 500: 1}


def test_a_box_around_next_to_nobody_keeps_no_colours_from_being_learned() -> None:
    known = person(100)
    for unsure, learned in ((0.0, False), (0.5, True)):
        around = known.copy()
        around[:, 2] -= unsure
        boxes = np.stack([box_of(known), box_of(known) + np.array([-40, -40, 80, 80], np.float32)])
        tracker = Tracker()
        poses = np.stack([known, around])
        tracker.update(0.0, boxes, np.full(2, 0.9, np.float32), poses, colours=np.stack([WHITE, BLACK]))
        assert np.isfinite(tracker.tracks[0].colours).all() == learned


def test_somebody_seen_twice_gets_no_second_id() -> None:
    tracker = Tracker()
    for n in range(3):
        see(tracker, n / FPS, [person(100)])
    arm_apart = person(102)
    arm_apart[[7, 9], :2] += 60
    assert see(tracker, 0.1, [person(100), arm_apart]) == [0]
    assert see(tracker, 0.1 + 1 / FPS, [person(100)]) == [0]
    assert len(tracker.tracks) == 1


def test_somebody_new_close_beside_another_gets_an_id() -> None:
    tracker = Tracker()
    see(tracker, 0, [person(100)])
    assert see(tracker, 0.03, [person(100), person(130)]) == [0, 1]


def test_of_two_who_fit_the_longer_known_has_the_person() -> None:
    tracker = Tracker()
    for n in range(4):
        see(tracker, n / FPS, [person(100)])
    assert see(tracker, 4 / FPS, [person(100), person(124)]) == [0, 1]
    nearer_to_the_newcomer = person(112.5)
    assert see(tracker, 5 / FPS, [nearer_to_the_newcomer]) == [0]


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


# ---- Motion


def look(
    tracker: Tracker, time: float, people: Iterable[Array], found: Iterable[bool] | None = None, looked: bool = True
) -> list[Tracked]:
    points = np.array(list(people), np.float32).reshape(-1, 17, 3)
    boxes = np.array([box_of(pose) for pose in points], np.float32).reshape(-1, 4)
    mask = None if found is None else np.array(list(found), bool)
    return tracker.update(time, boxes, np.full(len(points), 0.9, np.float32), points, mask, looked)


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


def test_answers_are_of_their_frame_and_not_of_later_ones() -> None:
    tracker = Tracker()
    (first,) = look(tracker, 0, [person(100)])
    look(tracker, 0.1, [person(110)])
    assert first.seen_s == 0 and first.frames == 1


# ---- Who was nobody


def test_whom_the_next_two_looks_do_not_find_was_nobody() -> None:
    tracker = Tracker()
    see(tracker, 0, [person(100), person(400)])
    see(tracker, 0.1, [person(101)])
    assert tracker.doubted == set()
    see(tracker, 0.2, [person(102)])
    assert tracker.doubted == {1}
    assert [track.id for track in tracker.tracks] == [0]


def test_who_was_found_often_is_only_hidden() -> None:
    tracker = Tracker()
    for n in range(CONFIRMED_AFTER):
        see(tracker, 0.1 * n, [person(100)])
    for n in range(5):
        see(tracker, 0.1 * (CONFIRMED_AFTER + n), [])
        assert tracker.doubted == set()


def test_rare_looks_doubt_nobody() -> None:
    tracker = Tracker()
    see(tracker, 0, [person(100)])
    for n in range(1, 4):
        see(tracker, 0.5 * n, [])
        assert tracker.doubted == set()


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


# ---- Carrying


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
