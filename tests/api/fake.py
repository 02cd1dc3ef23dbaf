"""A Service whose pipelines answer at once, wait for a gate, or fail, as a test says. It has no networks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from prometheus_client import CollectorRegistry

from service.errors import Busy, QueueFull, Unreadable
from service.geometry.cameras import assumed_camera
from service.media.pictures import Picture, PictureLimits
from service.media.videos import Clip
from service.metrics import Metrics
from service.people import Array, Box, Joints3D, Keypoints, Person, Scale
from service.pipelines.call import Call
from service.pipelines.clip import ClipEnd, ClipFrame, ClipOptions, ClipPerson, ClipStart
from service.pipelines.lift import Lifted, LiftOptions, sequence_times
from service.pipelines.live import LiveOptions, LivePose, Newer
from service.pipelines.live_frames import LiveFrame, LiveFramesOptions, LivePerson
from service.pipelines.photo import PhotoAnswer, PhotoOptions
from service.settings import Settings
from service.tracing import OFF, Tracing

if TYPE_CHECKING:  # it would bring torch
    from service.assembly import Service

BROKEN = b"a broken picture"
MODELS = {"person": "finder@1", "pose": "detector@1", "lift": "lifter@1"}


class Work:
    """What the next calls do: wait until `gate` is set, then raise `error` if there is one."""

    def __init__(self) -> None:
        self.gate: threading.Event | None = None
        self.error: Exception | None = None
        self.pending: set[int] = set()  # frames of a stream that will be answered later
        self.older = 0  # how many more poses a stream's pass answers
        self.begun = 0
        self.cancelled = 0

    async def pass_through(self, call: Call) -> None:
        await self.wait()
        self.end(call)

    async def wait(self) -> None:
        self.begun += 1
        try:
            while self.gate is not None and not self.gate.is_set():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def end(self, call: Call) -> None:
        if self.error is not None:
            raise self.error
        call.spent_ms["pose"] += 1.5


def person(box: Array) -> Person:
    """Someone whose nose and pelvis-relative head are not known."""
    points = np.full((17, 3), (10.123, 20.456, 0.98768), np.float32)
    points[0] = np.nan, np.nan, 0
    joints = np.full((17, 3), 0.123456, np.float32)
    joints[10] = np.nan
    x, y, width, height = map(float, box)
    return Person(0, Box(x, y, width, height, 0.9), Keypoints(points), Joints3D(joints, None, Scale()))


class FakePhoto:
    models: ClassVar = MODELS

    def __init__(self, work: Work) -> None:
        self.work = work
        self.options: PhotoOptions | None = None
        self.busy: Busy | None = None

    def knock(self, options: PhotoOptions, call: Call) -> None:
        if self.busy:
            raise self.busy

    async def find_people(self, picture: Picture, options: PhotoOptions, call: Call) -> PhotoAnswer:
        self.options = options
        await self.work.pass_through(call)
        height, width = picture.pixels.shape[:2]
        boxes = np.array([[1, 2, 30, 40]], np.float32) if options.boxes is None else options.boxes
        people = tuple(person(box) for box in boxes)
        states = [["seen"] * 17 for _ in people] if options.states else None
        return PhotoAnswer(width, height, assumed_camera(width, height), people, MODELS, states)


class FakeLift:
    models: ClassVar = {"lift": "lifter@1"}

    def __init__(self, work: Work) -> None:
        self.work = work
        self.options: LiftOptions | None = None
        self.points: list[Array] = []
        self.busy: Busy | None = None

    def knock(self, call: Call) -> None:
        if self.busy:
            raise self.busy

    async def lift_people(self, people: Sequence[Array], options: LiftOptions, call: Call) -> list[Lifted]:
        self.options, self.points = options, list(people)
        await self.work.pass_through(call)
        answers = []
        for points in people:
            joints = np.zeros((len(points), 17, 3), np.float32) + np.float32(0.25)
            position = np.full((len(points), 3), 1.5, np.float32)
            position[-1] = np.nan
            answers.append(Lifted(joints, position, Scale(), sequence_times(len(points), options), self.models))
        return answers


class FakeClip:
    """Tells a line for each frame that it decodes; waits at the gate from the second one on."""

    def __init__(self, work: Work, pool: Callable[..., Any]) -> None:
        self.work, self._pool = work, pool
        self.path_seen: list[str] = []

    async def run(self, clip: Clip, options: ClipOptions, call: Call) -> AsyncIterator[Any]:
        async for block in self.blocks(clip, options, call):
            for item in block:
                yield item

    async def blocks(self, clip: Clip, options: ClipOptions, call: Call) -> AsyncIterator[list[Any]]:
        camera = assumed_camera(clip.width, clip.height)
        yield [ClipStart(clip.width, clip.height, clip.rate, clip.frames, clip.duration, camera, MODELS)]
        frames = iter(clip)
        count = 0
        while (frame := await self._pool(next, frames, None)) is not None:
            if count:
                await self.work.pass_through(call)
            count += 1
            someone = person(np.array([1, 2, 30, 40], np.float32))
            raw = someone.keypoints.points if options.raw else None
            one = ClipPerson(someone, "confirmed", None, False, False, raw)
            yield [ClipFrame(frame.index, frame.time_s, (one,))]
        yield [ClipEnd(count, 1.0, (), {}, None, "no floor", dict(call.spent_ms))]


class FakeLive:
    """Answers what has come by when its work is done."""

    def __init__(self, lift: FakeLift, work: Work, options: LiveOptions, newer: Newer) -> None:
        self.lift, self.work, self.options, self.newer = lift, work, options, newer

    async def add_all(self, frames: Sequence[tuple[int, float, Sequence[Array]]], call: Call) -> list[LivePose]:
        await self.work.wait()
        came = [*self.newer()]
        self.work.end(call)
        someone = Joints3D(np.zeros((17, 3), np.float32), np.ones(3, np.float32), Scale())
        older = [LivePose(-n, 0.0, [someone]) for n in range(self.work.older, 0, -1)]
        return older + [LivePose(seq, time or 0.0, [someone] * len(people)) for seq, time, people in [*frames, *came]]

    async def rest(self, call: Call) -> list[LivePose]:
        return []

    @property
    def pending(self) -> set[int]:
        return self.work.pending


class FakeLiveFrames:
    """Finds one person in each picture."""

    models = MODELS

    def __init__(self, work: Work, options: LiveFramesOptions) -> None:
        self.work, self.options = work, options
        self.forgot = 0

    async def add_all(self, frames: Sequence[tuple[int, float, bytes]], call: Call) -> list[LiveFrame]:
        await self.work.pass_through(call)
        if any(picture == BROKEN for *_, picture in frames):
            raise Unreadable("`image` is broken", field="image")
        someone = LivePerson(person(np.array([1, 2, 30, 40], np.float32)), "confirmed", ["seen"] * 17)
        return [LiveFrame(seq, time, [someone]) for seq, time, _ in frames]

    async def rest(self, call: Call) -> list[LiveFrame]:
        return []

    @property
    def pending(self) -> set[int]:
        return self.work.pending

    def forget(self) -> None:
        self.forgot += 1


class FakeService:
    """See the module."""

    version = "0.0"

    def __init__(self, state: str = "ready", **settings: Any) -> None:
        self.settings = Settings(**{"drain_delay_s": 0.0, "drain_grace_s": 5.0, "port": 0} | settings)
        self.metrics = Metrics(CollectorRegistry())
        self.tracing: Tracing = OFF
        self.state, self.reason = state, "" if state == "ready" else "the models are being loaded"
        self.work = Work()
        self.photo, self.lift = FakePhoto(self.work), FakeLift(self.work)
        self._pool = ThreadPoolExecutor(2)
        self.clip = FakeClip(self.work, self.in_decode_pool)
        self.streams = 0
        self.drained = self.closed = False
        self.loading: threading.Event | None = None
        self.start_error: Exception | None = None

    async def start(self) -> None:
        while self.loading is not None and not self.loading.is_set():
            await asyncio.sleep(0.005)
        if self.start_error is not None:
            raise self.start_error
        if self.state == "starting":
            self.state, self.reason = "ready", ""

    async def in_decode_pool(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)

    def live(self, options: LiveOptions, newer: Newer = tuple) -> FakeLive:
        return FakeLive(self.lift, self.work, options, newer)

    def live_frames(self, options: LiveFramesOptions, limits: PictureLimits) -> FakeLiveFrames:
        self.frames = FakeLiveFrames(self.work, options)
        return self.frames

    def open_stream(self) -> None:
        if self.streams >= self.settings.live_streams:
            raise QueueFull(f"all {self.settings.live_streams} live streams are taken", retry_after_s=5.0)
        self.streams += 1

    def close_stream(self) -> None:
        self.streams -= 1

    def models(self) -> list[dict[str, Any]]:
        return [{"name": "lifter", "version": 1, "role": "lift"}]

    def engines_in_use(self) -> dict[str, dict[str, str]]:
        return {"lift": {"model": "lifter@1", "runtime": "none", "device": "cpu", "precision": "f32"}}

    async def drain(self, grace_s: float) -> None:
        self.drained = True

    async def close(self) -> None:
        self.closed = True
        self._pool.shutdown(wait=False)

    @property
    def as_service(self) -> Service:
        return cast("Service", self)
