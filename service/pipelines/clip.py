"""A clip to lines, one a frame, while it is decoded: people found and followed, settled, lifted, placed.

A line is final when it is yielded, at most LOOK_AHEAD_S of clip after its own frame. Memory does not grow with the
clip. Pixels are the upright frames'; metres are in the camera's axes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import OutOfRange
from service.geometry.cameras import Camera
from service.media.videos import Clip, Frame
from service.people import Scale, Track, World

from .call import Call, check_models, choose_camera
from .following import Follower
from .lift import STRIDE, LiftPipeline, unmirrored_camera
from .photo import PhotoOptions, PhotoPipeline
from .story import LOOK_AHEAD_S, ClipFrame, ClipPerson, Moment, Seen, Story, Telling
from .tracking import Tracked, reachable

__all__ = [
    "LOOK_AHEAD_S",
    "ClipEnd",
    "ClipFrame",
    "ClipOptions",
    "ClipPerson",
    "ClipPipeline",
    "ClipProgress",
    "ClipStart",
    "Item",
]

Array = NDArray[np.float32]
Pool = Callable[..., Awaitable[Any]]  # runs a blocking call in the decode pool

TOGETHER = 4  # frames that are decoded at once, and whose carried people share a batch: a CPU's is 4 crops
PIXELS_AT_ONCE = 12_000_000  # of the frames decoded at once: three of 4K, made RGB, would be 75 megabytes
PROGRESS_S = 5.0  # of clip time between two progress lines


@dataclass(frozen=True)
class ClipOptions:
    """every: take each n-th frame; start, end: seconds of the clip; raw: the unsmoothed keypoints too.

    inferred: 3D also of joints that the track has never shown (else unknown).
    """

    photo: PhotoOptions = PhotoOptions()
    every: int = 1
    start: float = 0.0
    end: float | None = None
    smooth: bool = True
    raw: bool = False
    inferred: bool = False


@dataclass(frozen=True)
class ClipStart:
    width: int
    height: int
    rate: float
    frames: int | None
    duration: float | None
    camera: Camera
    models: dict[str, str]


@dataclass(frozen=True)
class ClipProgress:
    frames: int
    time: float


@dataclass(frozen=True)
class ClipEnd:
    """camera_to_world: what only the whole clip tells, or None and the `reason`. merged: later id to the earliest.

    timings_ms: the clip's milliseconds by stage, as `Call.spent_ms` has them. Stages run beside each other.
    """

    frames: int
    seconds: float
    tracks: tuple[Track, ...]
    merged: dict[int, int]
    camera_to_world: World | None
    reason: str
    timings_ms: Mapping[str, float] = field(default_factory=dict)


Item = ClipStart | ClipFrame | ClipProgress | ClipEnd


class ClipPipeline:
    """Clips through the photo's queues, frames in order."""

    def __init__(self, photo: PhotoPipeline, lift: LiftPipeline, pool: Pool) -> None:
        self.photo, self.lift, self._pool = photo, lift, pool

    async def run(self, clip: Clip, options: ClipOptions, call: Call) -> AsyncGenerator[Item, None]:
        """Yields the start, a line a frame as soon as it is final, progress in between, and the end.

        Raises what the decoder raises where the rest of the clip is broken; all lines before it were yielded.
        """
        async with aclosing(self.blocks(clip, options, call)) as blocks:
            async for block in blocks:
                for item in block:
                    yield item

    async def blocks(self, clip: Clip, options: ClipOptions, call: Call) -> AsyncGenerator[list[Item], None]:
        """As `run`, with what is known at the same time told together."""
        models = self.photo.models | self.lift.models  # of the lifters, the one for what moves
        check_models(options.photo.models, models)
        camera = choose_camera(clip.width, clip.height, options.photo.camera)
        yield [ClipStart(clip.width, clip.height, clip.rate, clip.frames, clip.duration, camera, models)]
        frames, context = STRIDE, self.lift.context
        story = Story(self._telling(options, camera, (clip.width, clip.height)), frames, context)
        told_s, last_s = 0.0, 0.0
        watch = _Watch(self.photo, self._pool, clip, options, call)
        try:
            while moments := await watch.next():
                for moment in moments:
                    story.add(moment)
                last_s = moments[-1].time
                while story.ready:
                    yield await self._lines(story, options, call)
                if last_s - told_s >= PROGRESS_S:
                    told_s = last_s
                    yield [ClipProgress(story.frames, last_s)]
        finally:
            await watch.close()
        if not (story.frames or watch.broken) and (options.start or options.end is not None):
            raise _no_frame(clip, options)
        story.finish()
        while story.ready:
            yield await self._lines(story, options, call)
        if watch.broken:  # what came before the break is whole, and was answered first
            raise watch.broken
        if options.photo.lift:
            world, reason = await self._pool(story.world)
        else:
            world, reason = None, "there is no 3D: `lift` is false"
        yield [ClipEnd(story.frames, last_s, story.tracks(), story.merged(), world, reason, dict(call.spent_ms))]

    async def _lines(self, story: Story, options: ClipOptions, call: Call) -> list[Item]:
        """Settles and lifts the next block of frames, and takes it out of the story. The loop only waits."""
        block, stretches = await self._pool(story.next_block)
        poses: dict[int, Array] = {}
        if options.photo.lift and stretches:
            points = [story.joints(stretch.points) for stretch in stretches.values()]
            times = [stretch.times for stretch in stretches.values()]
            # Of a clip's work the windows are a small part, but where every frame has one of its own.
            twice = options.photo.flip_test or not self.lift.centre
            answers = await self.lift.poses(points, times, story.telling.size, False, call, twice)
            poses = dict(zip(stretches, answers, strict=True))
        lines: list[Item] = await self._pool(story.lines, block, stretches, poses)
        return lines

    def _telling(self, options: ClipOptions, camera: Camera, size: tuple[int, int]) -> Telling:
        photo = options.photo
        return Telling(
            size,
            unmirrored_camera(camera, size[0]) if photo.mirrored else camera,
            Scale(photo.stature, "given") if photo.stature is not None else Scale(),
            smooth=options.smooth,
            raw=options.raw,
            states=photo.states,
            mirrored=photo.mirrored,
            inferred=options.inferred,
            certainty=self.photo.certainty,
        )


def _no_frame(clip: Clip, options: ClipOptions) -> OutOfRange:
    whole = "" if clip.duration is None else f", and the clip lasts {clip.duration:.2f} s"
    end = "on" if options.end is None else f"to `end` {options.end:g} s"
    message = f"no frame is answered from `start` {options.start:g} s {end}{whole}"
    return OutOfRange(message, field="start", limit=clip.duration)


class _Watch:
    """Decodes a clip and follows its people: the finder now and then, and the poses carry the boxes in between.

    The next frames are decoded, and their people detected, while the caller makes lines of the last ones: that much
    ahead and no more, so that a slow reader holds the decoder.
    """

    def __init__(self, photo: PhotoPipeline, pool: Pool, clip: Clip, options: ClipOptions, call: Call) -> None:
        self.broken: Exception | None = None
        self._pool, self._call = pool, call
        self._follower = Follower(photo, options.photo)
        self._clip, self._frames = clip, _wanted(clip, options)
        self._together = max(1, min(TOGETHER, PIXELS_AT_ONCE // max(clip.width * clip.height, 1)))
        self._decoding: asyncio.Future[Any] | None = None
        self._working: asyncio.Future[list[Moment]] | None = None

    async def next(self) -> list[Moment]:
        """The next frames' people, at most TOGETHER frames; none at the end."""
        moments = await (self._working or self._moments())
        self._working = asyncio.ensure_future(self._moments()) if moments else None
        return moments

    async def close(self) -> None:
        """Ends what runs ahead."""
        for task in (self._working, self._decoding):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def _moments(self) -> list[Moment]:
        frames, self.broken = await (self._decoding or self._decode())
        self._decoding = asyncio.ensure_future(self._decode()) if frames and not self.broken else None
        moments: list[Moment] = []
        follower, call = self._follower, self._call
        while frames:
            if follower.look_due(frames[0].time_s):
                moments.append(self._moment(frames[0], await follower.look(frames[0], call)))
                frames = frames[1:]
                continue
            carried = follower.tracker.carried(frames[0].time_s)
            look_s = follower.next_look_s()
            due = [n for n, frame in enumerate(frames) if frame.time_s >= look_s]
            near = reachable(carried, [frame.time_s for frame in frames])
            count = max(1, min([len(frames), near, *due]))
            people = await follower.carry(frames[:count], carried, call)
            moments += [self._moment(*each) for each in zip(frames[:count], people, strict=True)]
            frames = frames[count:]
        return moments

    async def _decode(self) -> tuple[list[Frame], Exception | None]:
        """The next wanted frames, decoded in the pool; with what broke after them."""
        if self.broken:
            return [], self.broken
        started = time.perf_counter()
        taken: tuple[list[Frame], Exception | None] = await self._pool(_take, self._frames, self._together)
        self._call.spent_ms["decode"] += 1000 * (time.perf_counter() - started)
        return taken

    def _moment(self, frame: Frame, people: Sequence[Tracked]) -> Moment:
        seen = {t.id: Seen(t.box, t.score, t.points, t.points, t.state) for t in people}
        return Moment(frame.index, frame.time_s, seen, frozenset(self._follower.tracker.doubted))


def _wanted(clip: Clip, options: ClipOptions) -> Iterator[Frame]:
    """Every n-th frame between start and end."""
    for frame in clip:
        if options.end is not None and frame.time_s > options.end:
            return
        if frame.time_s >= options.start and frame.index % options.every == 0:
            yield frame
        del frame


def _take(frames: Iterator[Frame], count: int) -> tuple[list[Frame], Exception | None]:
    taken: list[Frame] = []
    try:
        for frame in islice(frames, count):
            taken.append(frame)
    except Exception as error:
        return taken, error
    return taken, None
