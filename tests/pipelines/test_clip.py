"""A clip's lines through the real decoder and the real queue: their order, when they come, and what breaks."""

from __future__ import annotations

import asyncio
import math
import resource
import threading
from collections.abc import Callable, Sequence
from contextlib import aclosing
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest

from service.batching import scheduler
from service.batching.policy import Class
from service.errors import Unknown, Unreadable
from service.geometry.boxes import iou
from service.media.videos import Clip, ClipLimits, open_clip
from service.pipelines.clip import (
    LOOK_AHEAD_S,
    PROGRESS_S,
    TOGETHER,
    ClipEnd,
    ClipFrame,
    ClipOptions,
    ClipPipeline,
    ClipProgress,
    ClipStart,
)
from service.pipelines.lift import STRIDE as BLOCK
from service.pipelines.photo import PhotoOptions
from service.pipelines.story import SETTLE_S
from service.pipelines.story import Story as _Story

from .conftest import Shown, evenly, told, walker, walking
from .fake import FRAMES, FakeEngine, Fakes, Pixels, call, detector, figure

CONTEXT = (FRAMES - BLOCK) // 2
LIMITS = ClipLimits(max_pixels=1_000_000, max_frames=1000, max_seconds=600.0)
AHEAD = 3 * TOGETHER  # frames that may be decoded beyond those that the lines wait for


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
    count = max(60, round(4 * LOOK_AHEAD_S * fps))
    clip = Shown(evenly(count, fps))
    story = told(clip, ClipOptions(PhotoOptions(lift=False)))
    for line, taken in zip(story.lines, story.taken, strict=True):
        if isinstance(line, ClipFrame):
            before = clip.times[max(0, taken - 2 - AHEAD)] if taken < len(clip.times) else line.time
            assert before - line.time < LOOK_AHEAD_S + 1e-9
    assert [frame.index for frame in story.frames] == list(range(count))


def test_frames_are_decoded_off_the_loop() -> None:
    clip = Shown(evenly(3))
    told(clip)
    assert clip.threads and threading.main_thread().name not in clip.threads


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


def test_the_end_tells_the_milliseconds_of_each_stage() -> None:
    assert set(told(Shown(evenly(20))).end.timings_ms) == {"decode", "person", "pose", "lift", "queue"}
    flat = told(Shown(evenly(20)), ClipOptions(PhotoOptions(lift=False))).end.timings_ms
    assert set(flat) == {"decode", "person", "pose", "queue"}
    assert all(spent >= 0 for spent in flat.values())


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
