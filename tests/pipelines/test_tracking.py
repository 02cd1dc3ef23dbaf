"""Who is who from frame to frame, by poses and by colours, and who was nobody."""

from __future__ import annotations

import numpy as np
import pytest

from service.pipelines.tracking import CONFIRMED_AFTER, KEPT_S, Array, Tracker

from .conftest import FPS, box_of, look, person, see


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


def test_somebody_seen_twice_gets_no_second_id() -> None:
    tracker = Tracker()
    for n in range(3):
        see(tracker, n / FPS, [person(100)])
    arm_apart = person(102)
    arm_apart[[7, 9], :2] += 60
    assert see(tracker, 0.1, [person(100), arm_apart]) == [0]
    assert see(tracker, 0.1 + 1 / FPS, [person(100)]) == [0]
    assert len(tracker.tracks) == 1


def test_who_stands_in_front_seen_twice_is_not_the_one_behind_who_comes_back() -> None:
    tracker = Tracker()
    for n in range(6):
        assert see(tracker, n / FPS, [person(125), person(100)]) == [0, 1]
    for n in range(6, 12):
        assert see(tracker, n / FPS, [person(100)]) == [1]
    arm_apart = person(105)
    arm_apart[[7, 9], :2] += 60
    assert see(tracker, 12 / FPS, [arm_apart, person(100)]) == [1]
    assert see(tracker, 13 / FPS, [person(125), person(100)]) == [0, 1]


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


def test_of_two_poses_that_fit_one_person_the_surer_is_theirs() -> None:
    for scores in ((0.9, 0.3), (0.3, 0.9)):
        tracker = Tracker()
        for n in range(4):
            see(tracker, n / FPS, [person(100)])
        left, right = person(87), person(113)
        left[:, 2], right[:, 2] = scores
        assert see(tracker, 4 / FPS, [left, right]) == ([0, 1] if scores[0] > scores[1] else [1, 0])


def test_who_was_seen_well_is_not_in_a_box_with_next_to_no_joint() -> None:
    tracker = Tracker()
    for n in range(4):
        see(tracker, n / FPS, [person(100)])
    thing = person(114)
    thing[:, 2] = 0.1
    assert see(tracker, 4 / FPS, [thing]) == [1]
    assert see(tracker, 5 / FPS, [thing, person(100)]) == [1, 0]


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


def test_answers_are_of_their_frame_and_not_of_later_ones() -> None:
    tracker = Tracker()
    (first,) = look(tracker, 0, [person(100)])
    look(tracker, 0.1, [person(110)])
    assert first.seen_s == 0 and first.frames == 1


# ---- Colours

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


def test_a_pose_without_colours_takes_nobody_from_a_pose_in_other_light() -> None:
    tracker, unknown = Tracker(), WHITE * np.float32(np.nan)
    for n in range(4):
        dressed(tracker, n / FPS, {100: WHITE, 400: BLACK})
    assert dressed(tracker, 4 / FPS, {100: WHITE - 60, 108: unknown, 400: BLACK}) == {100: 0, 108: 2, 400: 1}


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
