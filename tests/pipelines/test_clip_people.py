"""A clip's people over time: when the finder looks, who is who, and who is bridged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.engines.framing import Found
from service.geometry.alignment import stature
from service.geometry.boxes import iou
from service.pipelines.clip import TOGETHER, ClipOptions
from service.pipelines.following import EMPTY_S, QUIET_S
from service.pipelines.photo import PhotoOptions

from .conftest import Shown, evenly, told, walker, walking
from .fake import BLUE, GREEN, RED, FakeEngine, Fakes, Pixels, draw, figure, finder, lifter, street

# ---- When the finder looks


def test_between_two_looks_the_poses_carry_the_boxes() -> None:
    fakes = Fakes()
    story = told(Shown(evenly(50)), fakes=fakes)
    assert len(fakes.person.rows) == pytest.approx(50 / 25 / QUIET_S, abs=2)
    assert len(fakes.pose.rows) == 50
    assert max(len(batch) for batch in fakes.pose.batches) == TOGETHER
    assert {person.person.id for frame in story.frames for person in frame.people} == {0}


def test_the_finder_looks_more_often_while_somebody_hurries() -> None:
    calm, hurried = Fakes(), Fakes()
    told(Shown(evenly(50), lambda n: walking(0)), ClipOptions(PhotoOptions(lift=False)), calm)
    dash = ClipOptions(PhotoOptions(lift=False))
    story = told(Shown(evenly(50), lambda n: walking(4 * (n if n < 25 else 50 - n))), dash, hurried)
    assert len(hurried.person.rows) > 1.5 * len(calm.person.rows)
    assert {person.person.id for frame in story.frames for person in frame.people} == {0}


def test_an_empty_clip_is_looked_at_now_and_then() -> None:
    fakes = Fakes()
    story = told(Shown(evenly(50), lambda n: street()), ClipOptions(), fakes)
    assert not any(frame.people for frame in story.frames)
    assert len(fakes.person.rows) == pytest.approx(2 / EMPTY_S, abs=2)
    assert fakes.pose.rows == []


def test_a_slow_clip_looks_at_every_frame() -> None:
    fakes = Fakes()
    fakes.person = FakeEngine("person", finder, budget=1)
    told(Shown(evenly(10, 3)), ClipOptions(PhotoOptions(lift=False)), fakes)
    assert len(fakes.person.rows) == 10


# ---- Who is who


def two_crossing(n: int) -> Pixels:
    picture = draw(street(), (20 + 4 * n, 30, 60, 190), GREEN)
    return draw(picture, (230 - 4 * n, 60, 50, 120), RED)


def test_two_who_cross_keep_their_ids() -> None:
    story = told(Shown(evenly(50), two_crossing), ClipOptions(PhotoOptions(lift=False), smooth=False))
    red_is = {}
    for frame in (story.frames[0], story.frames[-1]):
        for one in frame.people:
            red_is[frame.index, one.person.box.height < 150] = one.person.id
    assert red_is[0, True] == red_is[49, True] != red_is[0, False] == red_is[49, False]


def test_the_end_tells_each_track() -> None:
    def coming_and_going(n: int) -> Pixels:
        picture = walking(0) if n < 20 else street()
        return draw(picture, (220, 30, 60, 190), BLUE) if n >= 10 else picture

    story = told(Shown(evenly(80), coming_and_going), ClipOptions(PhotoOptions(lift=False)))
    first, second = story.end.tracks
    assert (first.id, first.first, first.last, first.frames) == (0, 0, 19, 20)
    assert second.id == 1 and second.last == 79
    assert 10 <= second.first <= 14  # until the finder looks again
    assert second.frames == 80 - second.first
    states = [one.track for frame in story.frames for one in frame.people if one.person.id == 0]
    assert states[:3] == ["tentative", "tentative", "confirmed"]


def test_one_track_has_one_scale() -> None:
    def breathing(row: Any) -> np.ndarray:
        return lifter(row) * np.float32(1 + 0.1 * np.sin(row.points[:, 0, 0].mean() / 20))

    fakes = Fakes()
    fakes.lift = FakeEngine("lift", breathing)
    story = told(Shown(evenly(60)), ClipOptions(inferred=True), fakes)
    asked = np.array([stature(row) for row in map(breathing, fakes.lift.rows)])
    heights = []
    for n in range(60):
        lifted = story.only(n).person.lifted
        assert lifted is not None
        heights.append(stature(lifted.joints))
    assert np.ptp(asked) > 0.1
    assert heights[0] == pytest.approx(1.70, abs=0.02)
    assert max(heights) > 1.02 * min(heights)  # the network's own changes are left in, not hidden by a new scale


def test_someone_unseen_for_a_moment_is_the_same_person_and_bridged() -> None:
    story = told(
        Shown(evenly(60), lambda n: street() if 20 <= n < 30 else walking(n)),
        ClipOptions(PhotoOptions(states=True), raw=True),
    )
    assert [track.id for track in story.end.tracks] == [0]
    assert [len(frame.people) for frame in story.frames] == [1] * 60
    filled = [story.only(n).filled for n in range(60)]
    assert all(filled[20:30]) and not any(filled[:20]) and not any(filled[34:])
    for n in range(20, 30):
        person = story.only(n)
        assert person.raw is None and set(person.states or []) == {"inferred"}
        assert iou([person.person.box.xywh], [walker(n)])[0, 0] > 0.7
        np.testing.assert_allclose(person.person.keypoints.points[:, :2], figure(walker(n))[:, :2], atol=8)


def test_who_leaves_for_longer_than_the_look_ahead_is_not_bridged() -> None:
    story = told(
        Shown(evenly(120), lambda n: street() if 20 <= n < 90 else walking(0)), ClipOptions(PhotoOptions(lift=False))
    )
    assert not any(one.filled for frame in story.frames for one in frame.people)
    assert not any(frame.people for frame in story.frames[20:90])
    assert all(frame.people for frame in story.frames[5:20])


def test_what_one_look_alone_shows_was_nobody() -> None:
    fakes = Fakes()
    seen = 0

    def once(row: Any) -> Any:
        nonlocal seen
        found = finder(row)
        seen += 1
        ghost = np.array([[230, 40, 60, 150]], np.float32)
        return Found(np.r_[found.boxes, ghost], np.r_[found.scores, [0.5]].astype(np.float32)) if seen == 3 else found

    fakes.person = FakeEngine("person", once, budget=1)
    story = told(Shown(evenly(60)), ClipOptions(PhotoOptions(lift=False)), fakes)
    assert [track.id for track in story.end.tracks] == [0]
    assert all(len(frame.people) == 1 for frame in story.frames)
