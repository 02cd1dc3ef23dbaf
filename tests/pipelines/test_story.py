"""What is told of a clip's frames, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from service.geometry.cameras import given_camera
from service.geometry.skeletons import SKELETONS
from service.people import Scale
from service.pipelines.story import FILLED_SCORE, LOOK_AHEAD_S, SETTLE_S, ClipFrame, Moment, Seen, Story, Telling
from service.pipelines.tracking import KEPT_S, Array

from .conftest import box_of, evenly, person
from .fake import BODY

SIZE = (640, 480)
BLOCK, CONTEXT = 15, 6
PAIRS = SKELETONS["coco17"].pairs
Scene = Callable[[int], dict[int, Array]]


def telling(**other: Any) -> Telling:
    return Telling(SIZE, given_camera(*SIZE, focal_px=600.0), Scale(), **({"inferred": True} | other))


def seen(pose: Array) -> Seen:
    return Seen(box_of(pose), 0.9, pose, pose, "confirmed")


def here(n: int) -> dict[int, Array]:
    return {0: facing(200 + 2 * n)}


def facing(x: float) -> Array:
    """Somebody who stands facing us."""
    pose = person(x, y=100)
    for n, (left, right) in enumerate(PAIRS):
        pose[left, 0], pose[right, 0] = x + 12 + n, x - 12 - n
    return pose


@dataclass
class Run:
    """lines, with the time of the newest frame that had been added when each was told."""

    lines: list[ClipFrame]
    newest: list[float]
    story: Story


def run(times: Sequence[float], scene: Scene = here, facts: Telling | None = None, lift: bool = False) -> Run:
    story = Story(facts or telling(), BLOCK, CONTEXT)
    told = Run([], [], story)

    def tell(now: float) -> None:
        while story.ready:
            block, stretches = story.next_block()
            poses = {one: np.tile(BODY, (len(each.points), 1, 1)) for one, each in stretches.items()} if lift else {}
            lines = story.lines(block, stretches, poses)
            told.lines += lines
            told.newest += [now] * len(lines)

    for n, time in enumerate(times):
        story.add(Moment(n, time, {one: seen(pose) for one, pose in scene(n).items()}))
        tell(time)
    story.finish()
    tell(np.inf)
    return told


def places(told: Run, one: int = 0) -> Array:
    found = [p.person.keypoints.points for line in told.lines for p in line.people if p.person.id == one]
    return np.stack(found)


# ---- When


@pytest.mark.parametrize("fps", [0.5, 1, 5, 12.5, 30, 60, 120])
@pytest.mark.parametrize("gone", [(10, 20), (20, 90), (3, 4), (200, 200)])
def test_every_frame_is_told_once_in_order_and_in_time(fps: float, gone: tuple[int, int]) -> None:
    times = evenly(100, fps)
    told = run(times, lambda n: {} if gone[0] <= n < gone[1] else here(n))
    assert [line.index for line in told.lines] == list(range(100))
    for line, newest in zip(told.lines, told.newest, strict=True):
        # Told as soon as the frame that is two seconds ahead has come.
        assert newest == np.inf or newest - line.time < LOOK_AHEAD_S + 1 / fps + 1e-9


def test_while_everybody_is_there_lines_wait_for_what_settles_them_and_no_longer() -> None:
    told = run(evenly(200))
    waits = [newest - line.time for line, newest in zip(told.lines, told.newest, strict=True) if newest < np.inf]
    assert min(waits) >= SETTLE_S - 1e-9
    assert max(waits) <= SETTLE_S + BLOCK / 25 + 1e-9


@pytest.mark.parametrize("block", [1, 4, 15, 40])
def test_what_is_told_does_not_depend_on_the_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def scene(n: int) -> dict[int, Array]:
        pose = facing(200 + 2 * n)
        pose[:, :2] += np.random.default_rng(n).normal(0, 1, (17, 2))
        return {} if 30 <= n < 37 else {0: pose}

    monkeypatch.setattr("tests.pipelines.test_story.BLOCK", block)
    told = run(evenly(90), scene)
    monkeypatch.setattr("tests.pipelines.test_story.BLOCK", 15)
    usual = run(evenly(90), scene)
    np.testing.assert_allclose(places(told), places(usual), atol=0.05)  # of the smoothing's far ends


# ---- Gaps


def test_a_gap_is_bridged_on_the_straight_way_and_flagged() -> None:
    told = run(evenly(80), lambda n: {} if 30 <= n < 50 else here(n), telling(states=True, raw=True))
    for n, line in enumerate(told.lines):
        (one,) = line.people
        assert one.filled == (30 <= n < 50)
        # Before the clip and inside a gap there is nobody to smooth with.
        np.testing.assert_allclose(one.person.keypoints.points[:, 0], facing(200 + 2 * n)[:, 0], atol=1.5)
        if one.filled:
            assert one.raw is None
            assert one.states == ["inferred"] * 17
            assert (one.person.keypoints.points[:, 2] <= FILLED_SCORE).all()


@pytest.mark.parametrize("fps", [10.0, 25.0, 60.0])
@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, KEPT_S - 0.1])
def test_a_gap_is_bridged_whole_or_not_at_all(seconds: float, fps: float) -> None:
    first, after = 20, 20 + max(1, int(seconds * fps))
    told = run(evenly(after + 60, fps), lambda n: {} if first <= n < after else {0: facing(300)})
    assert [len(line.people) for line in told.lines] == [1] * (after + 60)


def test_who_is_lost_at_the_border_has_left() -> None:
    told = run(evenly(80), lambda n: {} if 30 <= n < 50 else {0: facing(20)})
    assert [bool(line.people) for line in told.lines] == [not 30 <= n < 50 for n in range(80)]


def test_a_gap_of_one_keeps_nobody_else_waiting_for_their_place() -> None:
    def scene(n: int) -> dict[int, Array]:
        return {1: facing(450)} | ({} if 30 <= n < 40 else here(n))

    told = run(evenly(80), scene)
    assert all([p.person.id for p in line.people] == [0, 1] for line in told.lines)
    assert {p.filled for line in told.lines for p in line.people if p.person.id == 1} == {False}


# ---- Sides


@pytest.mark.parametrize("first", range(28, 44, 3))
@pytest.mark.parametrize("length", [1, 4, 10])
def test_exchanged_sides_are_put_right_across_the_seams_of_blocks(first: int, length: int) -> None:
    order = np.arange(17)
    for left, right in PAIRS[4:]:
        order[[left, right]] = right, left

    def scene(n: int) -> dict[int, Array]:
        pose = here(n)[0]
        return {0: pose[order] if first <= n < first + length else pose}

    told = run(evenly(90), scene, telling(raw=True))
    for n, line in enumerate(told.lines):
        (one,) = line.people
        assert one.swapped == (first <= n < first + length)
        np.testing.assert_allclose(one.person.keypoints.points[:, :2], here(n)[0][:, :2], atol=1.2)
        assert one.raw is not None
        np.testing.assert_array_equal(one.raw, scene(n)[0])


def test_without_smoothing_points_are_the_detectors() -> None:
    def scene(n: int) -> dict[int, Array]:
        pose = facing(200 + 2 * n)
        pose[9, 0] += 60 * (n == 40)
        return {0: pose}

    told = run(evenly(80), scene, telling(smooth=False))
    np.testing.assert_array_equal(places(told), np.stack([scene(n)[0] for n in range(80)]))
    calm = run(evenly(80), scene)
    np.testing.assert_allclose(places(calm)[40, 9, :2], facing(280)[9, :2], atol=1)


# ---- People


def test_nobody_is_told_who_turned_out_to_be_nobody() -> None:
    story = Story(telling(), BLOCK, CONTEXT)
    for n in range(60):
        people = {0: seen(facing(200))} | ({7: seen(facing(450))} if n < 5 else {})
        story.add(Moment(n, n / 25, people, frozenset({7}) if n == 8 else frozenset()))
    block, stretches = story.next_block()
    assert {one for moment in block for one in moment.people} == {0} == set(stretches)


def test_numbers_are_given_in_the_order_of_telling() -> None:
    told = run(evenly(80), lambda n: {12: facing(200)} | ({5: facing(450)} if n >= 30 else {}))
    assert [track.id for track in told.story.tracks()] == [0, 1]
    assert [p.person.id for p in told.lines[50].people] == [0, 1]


def test_the_end_tells_of_each_track_and_of_who_came_back_after_long() -> None:
    told = run(evenly(200), lambda n: {0: facing(300)} if n < 50 else {1: facing(310)} if n >= 120 else {})
    first, second = told.story.tracks()
    assert (first.first, first.last, first.frames) == (0, 49, 50)
    assert (second.first, second.last, second.frames) == (120, 199, 80)
    assert told.story.merged() == {1: 0}


# ---- 3D


def test_feet_that_stand_are_down_and_the_scale_is_the_tracks() -> None:
    told = run(evenly(60), lambda n: {0: facing(300)}, lift=True)
    for line in told.lines:
        (one,) = line.people
        assert one.feet == ("down", "down")
        assert one.person.lifted is not None
    (track,) = told.story.tracks()
    assert track.factor == pytest.approx(1.0)


def test_a_hidden_joint_is_unknown_until_it_was_seen() -> None:
    def scene(n: int) -> dict[int, Array]:
        pose = facing(300)
        pose[15, 2] = 0.9 if n == 50 else 0.05  # left ankle
        return {0: pose}

    told = run(evenly(120), scene, telling(inferred=False), lift=True)
    poses = [line.people[0].person.lifted for line in told.lines]
    known = [pose is not None and bool(np.isfinite(pose.joints[6]).all()) for pose in poses]
    first = known.index(True)
    assert 0 < first <= 50 and all(known[first:])


def test_frames_of_nobody_are_empty_lines() -> None:
    told = run(evenly(50), lambda n: {})
    assert [line.people for line in told.lines] == [()] * 50
    assert told.story.tracks() == () and told.story.merged() == {}
