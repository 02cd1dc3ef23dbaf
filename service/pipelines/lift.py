"""Sequences of keypoints to 3D joints: conversion, windows, resampling; scale and place are `placing`'s.

Pixels of the picture that the keypoints were found in; metres in the camera's axes, relative to joint 0.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.batching.batcher import Batcher
from service.engines.framing import LateWindowRow, WindowRow
from service.geometry.bones import of_one_length
from service.geometry.cameras import Camera
from service.geometry.skeletons import SKELETONS, mirror_points, to_h36m17
from service.people import Scale

from .call import Call, CameraOptions, check_models, choose_camera, run_rows
from .placing import Placed, Placing, Unplaced, place_all
from .smoothing import smooth
from .windows import Plan, plan_centres, plan_windows, resample, uniform_times

Array = NDArray[np.float32]
T = TypeVar("T")
Pool = Callable[..., Awaitable[Any]]  # runs a call with its arguments off the loop

SLOWEST, FASTEST = 10.0, 60.0  # frames a second that the lifters have learned
STRIDE = 15  # of windows of 27 frames over a long sequence: within 0.1 mm of a window a frame (docs/clips.md)
ON_LOOP_FRAMES = 300  # whose arithmetic is done at once: about a millisecond
CHUNK = 64  # windows queued at once: a long sequence must not fill the queue


@dataclass(frozen=True)
class LiftOptions:
    """What a sequence's request may say. times: (frames,) seconds, else the frames are 1 / fps apart.

    flip_test: average with what the mirror image gives; lone frames always are.
    """

    skeleton: str
    image_size: tuple[int, int]
    fps: float = 30.0
    times: NDArray[np.float64] | None = None
    centre: bool = False
    smooth: bool = False
    mirrored: bool = False
    flip_test: bool = False
    stature: float | None = None
    camera: CameraOptions = CameraOptions()
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lifted:
    """joints (frames, 17, 3) metres; position (frames, 3), NaN where it cannot be told; times (frames,) seconds."""

    joints: Array
    position: Array
    scale: Scale
    times: NDArray[np.float64]
    models: dict[str, str]


@dataclass(frozen=True)
class Laid:
    """A sequence laid out in windows.

    even: (frames, 17, 3) as the windows see it; times: (frames,) seconds of the sequence itself, grid: those of `even`
    where it was resampled.
    """

    even: Array
    plan: Plan
    times: NDArray[np.float64]
    grid: NDArray[np.float64] | None

    @property
    def count(self) -> int:
        """Of windows."""
        return len(self.plan.indices)

    def window(self, number: int) -> Array:
        """The frames of a window, which may be the sequence itself."""
        indices, sequence = self.plan.indices[number], self.even
        whole = len(sequence) == len(indices) and indices[0] == 0 and indices[-1] == len(sequence) - 1
        return sequence if whole else sequence[indices]

    def pose(self, answers: Sequence[Array]) -> Array:
        """(frames, 17, 3) of the sequence, from those of its windows."""
        pose = self.plan.joined(answers)
        return pose if self.grid is None else resample(pose, self.grid, self.times)


class LiftPipeline:
    """Lifts through one engine's queue."""

    def __init__(
        self,
        batcher: Batcher,
        frames: int,
        centre: bool = False,
        pool: Pool | None = None,
        long: LiftPipeline | None = None,
        fitted: bool = False,
    ) -> None:
        """frames: of a window; centre: the network answers only its middle one (published lifters); fitted: it fits its
        poses to its points and to bones of one length in a window, which sequences of several then keep, too.

        pool: where arithmetic over long sequences runs; without one, on the loop. long: of another network, which lifts
        what is longer than this one's window; if its own is no longer, whatever moves, and this one lone frames.
        """
        self.batcher, self.frames, self.centre, self.long, self.fitted = batcher, frames, centre, long, fitted
        self._most = 1 if long is not None and long.frames <= frames else frames
        self._pool = pool
        self._placing = Placing()

    @property
    def models(self) -> dict[str, str]:
        return {"lift": self.batcher.engine.label}

    @property
    def moving(self) -> LiftPipeline:
        """The pipeline for windows of what moves, as clips and streams lift them."""
        return self.long if self.long is not None and self._most == 1 else self

    @property
    def context(self) -> int:
        """Frames before and behind the STRIDE frames in its middle that a window sees; enough for smoothing, too."""
        return self.frames // 2 if self.centre else max((self.frames - STRIDE) // 2, 4)

    def knock(self, call: Call) -> None:
        """Raises Busy where any sequence would be refused once it is read: see `Batcher.knock`."""
        if self.long is None or self.long.batcher.line.full:
            self.batcher.knock(call.caller)

    async def lift(self, points: Array, options: LiftOptions, call: Call) -> Lifted:
        """One person's sequence.

        Args:
            points: (frames, joints, 3) pixels and score in the order of `options.skeleton`; unknown joints are NaN.

        Raises:
            OutOfRange: an unknown skeleton, or points of another shape.
        """
        return (await self.lift_people([points], options, call))[0]

    async def lift_people(self, people: Sequence[Array], options: LiftOptions, call: Call) -> list[Lifted]:
        """Several people's sequences of the same frames; their windows share batches."""
        asked = {role: model for role, model in options.models.items() if role == "lift"}
        if self.long is not None and self._wants_long(people, asked):
            return await self.long.lift_people(people, options, call)
        check_models(asked, self.models)
        width, height = options.image_size
        camera = choose_camera(width, height, options.camera)
        camera = unmirrored_camera(camera, width) if options.mirrored else camera
        times = [sequence_times(len(points), options) for points in people]

        def before() -> list[Array]:
            sequences = []
            for points, at in zip(people, times, strict=True):
                joints = to_h36m17(smooth(points, at) if options.smooth else points, options.skeleton)
                sequences.append(unmirrored(joints, width) if options.mirrored else joints)
            return sequences

        given = options.skeleton == "h36m17"
        scale = Scale(options.stature, "given") if options.stature is not None else Scale()
        sequences = await self._reckon(sum(map(len, people)), before)
        poses = await self.poses(sequences, times, options.image_size, given, call, options.flip_test)
        longer = [len(points) > self.frames for points in sequences]
        if self.fitted and any(longer):
            poses = await self._reckon(sum(map(len, people)), _of_one_length, poses, sequences, longer, given)
        bodies = []
        for joints, points in zip(poses, sequences, strict=True):
            shown = [len(points) // 2] if options.centre else None
            bodies.append(Unplaced(joints, points, given, camera, scale.stature, shown))
        return [
            Lifted(each.joints, each.position, scale, body.of_shown(at), self.models)
            for each, body, at in zip(await self.place(bodies), bodies, times, strict=True)
        ]

    async def place(self, bodies: Sequence[Unplaced]) -> list[Placed]:
        """Each body at its size and place, together with those of whoever else asks just now."""
        if sum(len(body.joints) for body in bodies) <= ON_LOOP_FRAMES or self._pool is None:
            return await self._placing(bodies)
        placed: list[Placed] = await self._pool(place_all, bodies)
        return placed

    def _wants_long(self, people: Sequence[Array], asked: Mapping[str, str]) -> bool:
        assert self.long is not None
        if name := asked.get("lift"):
            label = self.long.models["lift"]
            return name in (label, label.split("@")[0])
        return max(map(len, people), default=0) > self._most

    async def _reckon(self, frames: int, work: Callable[..., T], *arguments: Any) -> T:
        """Arithmetic over so many frames: of many, in the pool."""
        if self._pool is None or frames <= ON_LOOP_FRAMES:
            return work(*arguments)
        done: T = await self._pool(work, *arguments)
        return done

    async def poses(
        self,
        sequences: Sequence[Array],
        times: Sequence[NDArray[np.float64]],
        size: tuple[int, int],
        given: bool,
        call: Call,
        flip_test: bool = False,
    ) -> list[Array]:
        """Root-relative poses, one array (frames, 17, 3) a sequence of h36m17 points, for a person of 1.70 m.

        flip_test: lift every window's mirror image too, twice the work.
        """
        frames = sum(map(len, sequences))

        def before() -> list[Laid]:
            return [self.laid_out(sequence, at) for sequence, at in zip(sequences, times, strict=True)]

        def after(answers: list[Array]) -> list[Array]:
            poses, first = [], 0
            for one in laid:
                poses.append(one.pose(answers[first : first + one.count]))
                first += one.count
            return poses

        laid = await self._reckon(frames, before)
        windows = [(one, number) for one in laid for number in range(one.count)]
        answers: list[Array] = []
        for first in range(0, len(windows), CHUNK):
            # A lone frame has nothing but its mirror image to be compared with: 1.8 mm better with it.
            rows = [
                WindowRow(one.window(number), size, given, flip_test or (len(one.even) == 1 and not self.centre))
                for one, number in windows[first : first + CHUNK]
            ]
            answers += await run_rows(self.batcher, rows, call)
        return await self._reckon(frames, after, answers)

    async def late_poses(
        self, people: int, seen: Callable[[], Sequence[Laid]], size: tuple[int, int], given: bool, call: Call
    ) -> list[Array]:
        """The same of one window a person, which `seen` gives when the device begins with the first of them."""
        laid: list[Laid] = []

        def window(person: int) -> Array:
            if not laid:
                laid.extend(seen())
            return laid[person].window(0)

        rows = [LateWindowRow(partial(window, person), self.frames, size, given) for person in range(people)]
        answers = await run_rows(self.batcher, rows, call)
        return [one.pose([answer]) for one, answer in zip(laid, answers, strict=True)]

    def laid_out(self, points: Array, times: NDArray[np.float64]) -> Laid:
        """A sequence (frames, 17, 3) at `times` as windows of this lifter."""
        grid = uniform_times(times, SLOWEST, FASTEST)
        even = points if grid is None else resample(points, times, grid)
        if self.centre:
            return Laid(even, plan_centres(len(even), self.frames), times, grid)
        # Longer windows stride further, so that a frame costs the same.
        stride = max(STRIDE, self.frames * STRIDE // 27)
        return Laid(even, plan_windows(len(even), self.frames, stride), times, grid)


def _of_one_length(
    poses: Sequence[Array], sequences: Sequence[Array], which: Sequence[bool], given: bool
) -> list[Array]:
    return [
        of_one_length(pose, points, given) if wanted else pose
        for pose, points, wanted in zip(poses, sequences, which, strict=True)
    ]


def sequence_times(count: int, options: LiftOptions) -> NDArray[np.float64]:
    """(count,) seconds of the frames, from 0 where the request gives only a rate; nobody may write into them."""
    return _even_times(count, options.fps) if options.times is None else options.times


@lru_cache(maxsize=64)  # most callers send sequences of one and the same length
def _even_times(count: int, fps: float) -> NDArray[np.float64]:
    times = np.arange(count) / fps
    times.flags.writeable = False
    return times


def unmirrored(points: Array, width: int) -> Array:
    """h36m17 points of a mirrored picture as the true scene has them."""
    return mirror_points(points, SKELETONS["h36m17"], width)


def unmirrored_camera(camera: Camera, width: int) -> Camera:
    """The camera that saw the true scene, from the one that describes its mirrored picture of that width."""
    lens = camera.distortion
    if lens is not None:
        lens = (*lens[:3], -lens[3], *lens[4:])  # p2, the tangential part along x
    return replace(camera, center=(width - camera.center[0], camera.center[1]), distortion=lens)
