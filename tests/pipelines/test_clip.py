"""Clips encoded here, through the real decoder and the real queue, to lines."""

from __future__ import annotations

import asyncio
import math
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest

from service.batching import scheduler
from service.batching.policy import Class
from service.engines.framing import Found
from service.errors import Refused, Unknown, Unreadable
from service.geometry.alignment import stature
from service.geometry.boxes import iou
from service.geometry.skeletons import SKELETONS, mirror_order
from service.media.videos import Clip, ClipLimits, Frame, open_clip
from service.people import Scale
from service.pipelines.call import CameraOptions
from service.pipelines.clip import (
    LOOK_AHEAD_S,
    PROGRESS_S,
    TOGETHER,
    ClipEnd,
    ClipFrame,
    ClipOptions,
    ClipPerson,
    ClipPipeline,
    ClipProgress,
    ClipStart,
)
from service.pipelines.following import EMPTY_S, QUIET_S
from service.pipelines.lift import STRIDE as BLOCK
from service.pipelines.photo import PhotoOptions
from service.pipelines.story import SETTLE_S
from service.pipelines.story import Story as _Story

from .fake import (
    BLUE,
    FRAMES,
    GREEN,
    RED,
    FakeEngine,
    Fakes,
    Pixels,
    call,
    detector,
    draw,
    figure,
    finder,
    lifter,
    street,
)

CONTEXT = (FRAMES - BLOCK) // 2
LIMITS = ClipLimits(max_pixels=1_000_000, max_frames=1000, max_seconds=600.0)
Line = ClipStart | ClipFrame | ClipProgress | ClipEnd


def walker(n: float) -> tuple[float, float, float, float]:
    return (20 + 2 * n, 40, 60, 150)


def walking(n: int) -> Pixels:
    return draw(street(), walker(n), RED)


def film(path: Path, frames: int, scene: Callable[[int], Pixels] = walking, stamps_ms: Sequence[int] = ()) -> Path:
    """Writes a clip: `scene` of each frame's number, at 25 a second or at the stamps."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 4_000_000
        stream.codec_context.time_base = Fraction(1, 1000)
        for n in range(frames):
            frame = av.VideoFrame.from_ndarray(scene(n))
            frame.pts, frame.time_base = (stamps_ms[n] if stamps_ms else 40 * n), stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class Shown:
    """Frames from memory in place of a decoder, with their times, counted as they are taken."""

    width, height, rate, duration = 320, 240, 25.0, None

    def __init__(
        self, times: Sequence[float], scene: Callable[[int], Pixels] = walking, error: Exception | None = None
    ):
        self.times, self.scene, self.error = times, scene, error
        self.frames: int | None = None
        self.taken = 0
        self.threads: set[str] = set()

    def __iter__(self) -> Iterator[Frame]:
        for n, time in enumerate(self.times):
            self.taken += 1
            self.threads.add(threading.current_thread().name)
            yield Frame(n, time, self.scene(n))
        if self.error:
            raise self.error


@dataclass
class Told:
    """What came, and how many frames had been taken by then."""

    lines: list[Line]
    taken: list[int]
    error: Exception | None = None

    @property
    def frames(self) -> list[ClipFrame]:
        return [line for line in self.lines if isinstance(line, ClipFrame)]

    @property
    def end(self) -> ClipEnd:
        assert isinstance(self.lines[-1], ClipEnd)
        return self.lines[-1]

    def only(self, n: int) -> ClipPerson:
        """The one person of the n-th frame line."""
        (person,) = self.frames[n].people
        return person


def told(clip: Shown | Clip, options: ClipOptions | None = None, fakes: Fakes | None = None) -> Told:
    story = Told([], [])

    async def main() -> None:
        async with (fakes or Fakes()).photo() as photo:
            pipeline = ClipPipeline(photo, photo.lift, asyncio.to_thread)
            work = pipeline.run(cast(Clip, clip), options or ClipOptions(), call(Class.CLIP, 60))
            try:
                async with aclosing(work):
                    async for line in work:
                        story.lines.append(line)
                        story.taken.append(clip.taken if isinstance(clip, Shown) else 0)
            except Refused as error:
                story.error = error

    asyncio.run(main())
    return story


def evenly(frames: int, fps: float = 25.0) -> list[float]:
    return [n / fps for n in range(frames)]


# ---- Lines


def test_an_mp4_becomes_one_line_a_frame_in_order_with_its_times(tmp_path: Path) -> None:
    stamps = [40 * n + (7 if n % 3 == 0 else 0) for n in range(40)]
    with open_clip(film(tmp_path / "walk.mp4", 40, stamps_ms=stamps), LIMITS) as clip:
        story = told(clip)
    start = story.lines[0]
    assert isinstance(start, ClipStart)
    assert (start.width, start.height, start.frames) == (320, 240, 40)
    assert start.models == {"person": "fake-person@1", "pose": "fake-pose@1", "lift": "fake-lift@1"}
    assert [frame.index for frame in story.frames] == list(range(40))
    assert [frame.time for frame in story.frames] == pytest.approx([(s - stamps[0]) / 1000 for s in stamps], abs=1e-3)
    assert story.end.frames == 40
    assert story.end.seconds == story.frames[-1].time
    assert sum(isinstance(line, ClipStart | ClipEnd) for line in story.lines) == 2
    for n in (0, 20, 39):
        person = story.only(n).person
        assert iou([person.box.xywh], [walker(n)])[0, 0] > 0.8
        np.testing.assert_allclose(person.keypoints.points[:, :2], figure(walker(n))[:, :2], atol=4)


def test_a_clips_windows_are_lifted_with_their_mirror_images() -> None:
    fakes = Fakes()
    told(Shown(evenly(60)), fakes=fakes)
    assert len(fakes.lift.rows) >= 4 and all(row.mirror_test for row in fakes.lift.rows)


AHEAD = 3 * TOGETHER  # frames that may be decoded beyond those that the lines wait for


def test_lines_come_before_the_clip_is_decoded_whole() -> None:
    story = told(Shown(evenly(150)))
    first = next(n for n, line in enumerate(story.lines) if isinstance(line, ClipFrame))
    assert story.taken[0] == 0
    most = BLOCK + max(CONTEXT, round(25 * SETTLE_S)) + AHEAD
    assert BLOCK + CONTEXT <= story.taken[first] <= most
    waits = [
        taken - line.index for line, taken in zip(story.lines, story.taken, strict=True) if isinstance(line, ClipFrame)
    ]
    assert max(waits) <= most


@pytest.mark.parametrize("fps", [1.0, 3.0, 10.0, 60.0])
def test_no_line_waits_for_more_than_two_seconds_of_clip(fps: float) -> None:
    clip = Shown(evenly(60, fps))
    story = told(clip, ClipOptions(PhotoOptions(lift=False)))
    for line, taken in zip(story.lines, story.taken, strict=True):
        if isinstance(line, ClipFrame):
            before = clip.times[max(0, taken - 2 - AHEAD)] if taken < len(clip.times) else line.time
            assert before - line.time < LOOK_AHEAD_S + 1e-9
    assert [frame.index for frame in story.frames] == list(range(60))


def test_frames_are_decoded_off_the_loop() -> None:
    clip = Shown(evenly(3))
    told(clip)
    assert threading.main_thread().name not in clip.threads


def test_memory_does_not_grow_with_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    add = _Story.add

    def counted(story: _Story, moment: Any) -> None:
        add(story, moment)
        held.append(len(story._told) + len(story._ahead))

    monkeypatch.setattr(_Story, "add", counted)
    told(Shown(evenly(200)), ClipOptions(PhotoOptions(lift=False)))
    assert max(held) <= BLOCK + max(CONTEXT, round(25 * SETTLE_S)) + CONTEXT + TOGETHER


@pytest.mark.slow
@pytest.mark.timeout(0)  # a law of memory: it may take as long as the machine is busy
def test_resident_memory_is_flat_over_ten_minutes_of_a_looped_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "STUCK_S", math.inf)  # nor is a batch that waits for a core a lost device
    path = looped(film(tmp_path / "once.mkv", 100), tmp_path / "long.mkv", 150)
    limits = ClipLimits(max_pixels=1_000_000, max_frames=20_000, max_seconds=601.0)
    resident: list[float] = []

    async def main(clip: Clip) -> int:
        frames = 0
        async with Fakes().photo() as photo:
            patient = call(Class.CLIP, math.inf)
            work = ClipPipeline(photo, photo.lift, asyncio.to_thread).run(clip, ClipOptions(), patient)
            async with aclosing(work):
                async for line in work:
                    frames += isinstance(line, ClipFrame)
                    if isinstance(line, ClipProgress):
                        photo.person.engine.batches.clear()  # type: ignore[attr-defined]
                        photo.pose.engine.batches.clear()  # type: ignore[attr-defined]
                        photo.lift.batcher.engine.batches.clear()  # type: ignore[attr-defined]
                        pages = int(Path("/proc/self/statm").read_text().split()[1])
                        resident.append(pages * resource.getpagesize() / 2**20)
        return frames

    with open_clip(path, limits) as clip:
        assert asyncio.run(main(clip)) == 15_000
    settled = resident[len(resident) // 10 :]
    print(f"{settled[0]:.0f} MB after a minute, at most {max(settled):.0f} and at the end {settled[-1]:.0f} MB")
    assert max(settled) - settled[0] < 20


def looped(once: Path, path: Path, times: int) -> Path:
    """The clip so many times over, packet by packet."""
    with av.open(str(path), "w") as container:
        stream = None
        for n in range(times):
            with av.open(str(once)) as source:
                taken = source.streams.video[0]
                stream = stream or container.add_stream_from_template(taken)
                for packet in source.demux(taken):
                    if packet.pts is not None and packet.dts is not None and taken.time_base:
                        late = round(n * 4 / taken.time_base)
                        packet.stream, packet.pts, packet.dts = stream, packet.pts + late, packet.dts + late
                        container.mux(packet)
    return path


@pytest.mark.parametrize("frames", [1, 2, BLOCK, BLOCK + CONTEXT, BLOCK + CONTEXT + 1])
def test_short_clips_are_told_whole(frames: int) -> None:
    story = told(Shown(evenly(frames)))
    assert [frame.index for frame in story.frames] == list(range(frames))
    assert all(len(frame.people) == 1 for frame in story.frames)
    assert story.end.frames == frames


def test_a_clip_without_frames_has_a_start_and_an_end() -> None:
    story = told(Shown([]))
    assert len(story.lines) == 2
    assert (story.end.frames, story.end.seconds, story.end.tracks) == (0, 0.0, ())


def test_progress_is_told_in_between() -> None:
    story = told(Shown(evenly(30, 1.5)), ClipOptions(PhotoOptions(lift=False)))
    progress = [line for line in story.lines if isinstance(line, ClipProgress)]
    assert len(progress) == 19 // int(PROGRESS_S)
    assert [each.frames for each in progress] == sorted(each.frames for each in progress)


def test_the_end_says_why_there_is_no_floor() -> None:
    end = told(Shown(evenly(2))).end
    assert end.camera_to_world is None and end.merged == {}
    assert "stands upright" in end.reason


# ---- What breaks


def test_what_came_before_a_broken_tail_is_told_then_the_error() -> None:
    story = told(Shown(evenly(30), error=Unreadable("`clip` is broken after frame 29", field="clip")))
    assert [frame.index for frame in story.frames] == list(range(30))
    assert isinstance(story.lines[-1], ClipFrame)
    assert isinstance(story.error, Unreadable)


def test_a_file_that_is_cut_off_gives_the_frames_that_it_has(tmp_path: Path) -> None:
    path = film(tmp_path / "walk.mkv", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with open_clip(path, LIMITS) as clip:
        story = told(clip, ClipOptions(PhotoOptions(lift=False)))
    assert isinstance(story.error, Unreadable)
    assert 10 < len(story.frames) < 60
    assert [frame.index for frame in story.frames] == list(range(len(story.frames)))
    assert f"after frame {story.frames[-1].index}" in str(story.error)


def test_an_engine_that_fails_ends_the_clip_with_its_error() -> None:
    fakes = Fakes()
    failed = Unknown("the device is gone")
    fakes.pose = FakeEngine("pose", lambda row: failed if len(fakes.pose.rows) > 5 else detector(row))
    story = told(Shown(evenly(30)), fakes=fakes)
    assert story.error is failed
    assert not isinstance(story.lines[-1], ClipEnd)


def test_whoever_leaves_early_stops_the_decoding() -> None:
    clip = Shown(evenly(500))

    async def main() -> None:
        async with Fakes().photo() as photo:
            work = ClipPipeline(photo, photo.lift, asyncio.to_thread).run(cast(Clip, clip), ClipOptions(), call())
            async with aclosing(work):
                async for line in work:
                    if isinstance(line, ClipFrame):
                        break

    asyncio.run(main())
    assert clip.taken <= BLOCK + max(CONTEXT, round(25 * SETTLE_S)) + AHEAD


# ---- Options


def test_every_nth_frame_between_start_and_end() -> None:
    clip = Shown(evenly(100))
    options = ClipOptions(PhotoOptions(lift=False), every=3, start=1.0, end=2.0)
    story = told(clip, options)
    assert [frame.index for frame in story.frames] == [n for n in range(25, 51) if n % 3 == 0]
    assert story.end.frames == len(story.frames)
    assert clip.taken == 52


def test_raw_keypoints_are_those_before_smoothing() -> None:
    def trembling(n: int) -> Pixels:
        x, y, width, height = walker(0)
        return draw(street(), (x + 6 * (n % 2), y, width, height), RED)

    def places(story: Told, raw: bool) -> np.ndarray:
        people = [story.only(n) for n in range(30)]
        return np.stack([one.raw if raw and one.raw is not None else one.person.keypoints.points for one in people])

    rough = told(Shown(evenly(30), trembling), ClipOptions(raw=True, smooth=False))
    calm = told(Shown(evenly(30), trembling), ClipOptions(raw=True))
    np.testing.assert_array_equal(places(rough, raw=True), places(rough, raw=False))
    np.testing.assert_array_equal(places(calm, raw=True), places(rough, raw=True))
    assert np.ptp(places(calm, raw=False)[5:25, 0, 0]) < 0.5 * np.ptp(places(calm, raw=True)[5:25, 0, 0])
    assert told(Shown(evenly(2))).only(0).raw is None


def test_smoothing_does_not_see_the_seams_between_blocks() -> None:
    story = told(Shown(evenly(60)), ClipOptions(PhotoOptions(lift=False)))
    x = np.array([story.only(n).person.keypoints.points[0, 0] for n in range(60)])
    np.testing.assert_allclose(np.diff(x)[4:-4], 2.0, atol=0.05)


def test_states_and_stature_are_told_for_each_person() -> None:
    photo = PhotoOptions(states=True, stature=1.2, camera=CameraOptions(focal_px=400.0))
    story = told(Shown(evenly(10)), ClipOptions(photo, inferred=True))
    start = story.lines[0]
    assert isinstance(start, ClipStart)
    assert (start.camera.focal_px, start.camera.source) == (400.0, "given")
    for n in range(10):
        person = story.only(n)
        assert person.states is not None and person.states.count("seen") == 16
        lifted = person.person.lifted
        assert lifted is not None and lifted.scale == Scale(1.2, "given")
        assert stature(lifted.joints) == pytest.approx(1.2, abs=0.03)
        assert lifted.position is not None and np.isfinite(lifted.position).all()
    assert story.end.tracks[0].scale == Scale(1.2, "given")


def test_without_lift_no_lifter_is_asked() -> None:
    fakes = Fakes()
    story = told(Shown(evenly(10)), ClipOptions(PhotoOptions(lift=False)), fakes)
    assert story.only(5).person.lifted is None
    assert fakes.lift.batches == []


def test_a_mirrored_clip_names_the_true_left_and_shows_the_true_scene() -> None:
    camera = CameraOptions(focal_px=400.0, center=(150.0, 120.0))
    turned_round = CameraOptions(focal_px=400.0, center=(170.0, 120.0))
    plain = told(Shown(evenly(12)), ClipOptions(PhotoOptions(camera=camera), inferred=True))
    mirrored = told(
        Shown(evenly(12), lambda n: np.ascontiguousarray(walking(n)[:, ::-1])),
        ClipOptions(PhotoOptions(camera=turned_round, mirrored=True), raw=True, inferred=True),
    )
    order = mirror_order(SKELETONS["coco17"])
    for n in range(12):
        here, there = plain.only(n).person, mirrored.only(n).person
        x, y, width, height = walker(n)
        raw = mirrored.only(n).raw
        assert raw is not None
        np.testing.assert_allclose(raw, figure((320 - x - width, y, width, height))[order], atol=1e-3)
        np.testing.assert_array_equal(there.keypoints.points[:, 2], raw[:, 2])
        assert here.lifted and there.lifted
        np.testing.assert_allclose(there.lifted.joints, here.lifted.joints, atol=1e-3)
        assert here.lifted.position is not None and there.lifted.position is not None
        np.testing.assert_allclose(there.lifted.position, here.lifted.position, rtol=0.02, atol=0.02)


def test_a_model_that_is_not_loaded_is_refused_before_the_first_frame() -> None:
    clip = Shown(evenly(5))
    story = told(clip, ClipOptions(PhotoOptions(models={"lift": "lift-243"})))
    assert isinstance(story.error, Unknown)
    assert (story.lines, clip.taken) == ([], 0)


# ---- People over time


def test_between_two_looks_the_poses_carry_the_boxes() -> None:
    fakes = Fakes()
    story = told(Shown(evenly(50)), fakes=fakes)
    assert len(fakes.person.rows) == pytest.approx(50 / 25 / QUIET_S, abs=2)
    assert len(fakes.pose.rows) == 50
    assert max(len(batch) for batch in fakes.pose.batches) == TOGETHER
    assert {person.person.id for frame in story.frames for person in frame.people} == {0}


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


def test_a_joint_that_the_track_never_shows_is_unknown_in_3d_unless_asked_for() -> None:
    story = told(Shown(evenly(30)))
    for n in range(30):
        lifted = story.only(n).person.lifted
        assert lifted is not None
        assert np.flatnonzero(np.isnan(lifted.joints).any(axis=1)).tolist() == [6]  # left ankle, which is HIDDEN
    whole = told(Shown(evenly(30)), ClipOptions(inferred=True)).only(5).person.lifted
    assert whole is not None and np.isfinite(whole.joints).all()


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


def test_options_are_not_written_to() -> None:
    options = ClipOptions(PhotoOptions(states=True), raw=True)
    before = replace(options)
    told(Shown(evenly(3)), options)
    assert options == before
