"""A live stream of keypoints: the last window of each person, lifted at every frame. Knows no sockets.

Pixels of the stream's picture in, metres in the camera's axes out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.geometry.skeletons import to_h36m17
from service.people import Joints3D, Scale

from .call import Call, CameraOptions, choose_camera
from .lift import FASTEST, SLOWEST, Laid, LiftPipeline, unmirrored, unmirrored_camera
from .placing import Unplaced
from .smoothing import OneEuro
from .windows import newest_window

Array = NDArray[np.float32]
Times = NDArray[np.float64]
Arrived = tuple[int, float | None, Sequence[Array]]  # seq, seconds or None, points (joints, 3) of each person
Newer = Callable[[], Sequence[Arrived]]


@dataclass(frozen=True)
class LiveOptions:
    """What a stream's start may say. latency: low answers for the newest frame, full for the window's centre."""

    skeleton: str
    image_size: tuple[int, int]
    fps: float = 30.0
    latency: Literal["low", "full"] = "low"
    smooth: bool = False
    stature: float | None = None
    camera: CameraOptions = CameraOptions()
    mirrored: bool = False


@dataclass(frozen=True)
class LivePose:
    """seq: the frame that is answered (with `full` latency an earlier one than was sent); one entry a person.

    Who was not there yet in that frame is told as in the nearest one that has them.
    """

    seq: int
    time: float
    people: list[Joints3D]


@dataclass(frozen=True)
class _Ready:
    """A frame that is not taken yet. people: h36m17 points (17, 3) each, of the true scene."""

    seq: int
    time: float
    people: list[Array]


@dataclass
class _Following:
    times: deque[tuple[int, float]]
    points: deque[Array]
    filter: OneEuro

    def forget(self, now: float, span_s: float) -> None:
        """Drops what lies more than `span_s` seconds back, and everything where the clock went back."""
        while self.times and not (now - span_s <= self.times[0][1] and self.times[-1][1] < now):
            self.times.popleft()
            self.points.popleft()


class LiveKeypoints:
    """One stream. People are told apart by their place in the list that the client sends."""

    def __init__(self, lift: LiftPipeline, options: LiveOptions, newer: Newer = tuple) -> None:
        """newer: gives the frames that have come since those that were added, oldest first. It is asked when the device
        begins with a pass, which answers them as well: while a stream's turn comes, its next frames do, too."""
        self.lift, self.options, self._newer = lift, options, newer
        camera = choose_camera(*options.image_size, options.camera)
        self.camera = unmirrored_camera(camera, options.image_size[0]) if options.mirrored else camera
        self._people: list[_Following] = []
        self._arrived: deque[_Ready] = deque()  # frames that no pass has taken yet
        self._waiting: deque[tuple[int, float]] = deque()  # that one has, without an answer: seq, time
        self._span_s = lift.frames / SLOWEST

    async def add(self, seq: int, time: float | None, people: Sequence[Array], call: Call) -> list[LivePose]:
        """Takes one frame and answers those that are due: with `low` latency this one, with `full` the one that has
        half a window behind it, if there is one yet.

        Args:
            time: seconds; None: seq / fps.
            people: points (joints, 3) of each person, NaN unknown.

        Raises:
            OutOfRange: points of another shape than the stream's skeleton.
        """
        return await self.add_all([(seq, time, people)], call)

    async def add_all(self, frames: Sequence[Arrived], call: Call) -> list[LivePose]:
        """Takes several frames that have come since the last answer, oldest first, and answers what `add` would: by
        one pass of the lifter, from whose window each frame reads its own place.

        Raises:
            OutOfRange: points of another shape than the stream's skeleton; none of the frames is taken then.
        """
        self._arrived += self._ready(frames)
        answers: list[LivePose] = []
        try:
            while self._arrived:
                self._take_arrived()
                answers += await self._answer(self._due(), call)
        finally:
            self._arrived.clear()
        return answers

    def _ready(self, frames: Sequence[Arrived]) -> list[_Ready]:
        return [
            _Ready(seq, seq / self.options.fps if time is None else time, [self._joints(points) for points in people])
            for seq, time, people in frames
        ]

    def _take_arrived(self, *, one_window: bool = False) -> None:
        """Takes what one pass can answer; with `one_window`, by one window a person."""
        while self._arrived:
            new = self._arrived[0]
            went_back = bool(self._waiting) and new.time <= self._waiting[-1][1]
            if went_back:
                return  # it begins anew once those who wait have their answers
            if self.options.latency == "low" and self._waiting:
                # A window ends where its people do, and must still hold the first of the new frames.
                full = len(self._waiting) > self.lift.frames // 2
                if full or len(new.people) != len(self._people):
                    return
                if one_window and not all(self._in_one_window(each, new.time) for each in self._people):
                    return
            self._take(new.seq, new.time, new.people)
            self._arrived.popleft()

    def _due(self) -> int:
        """How many of the waiting frames are answered by the next pass."""
        if self.options.latency == "low" or not self._waiting or self._arrived:
            return len(self._waiting)  # what has arrived and is not taken begins anew
        # Half a window of frames behind it, or where frames are rare, of time.
        now = self._waiting[-1][1]
        late = sum(now - sent >= self._span_s / 2 for _, sent in self._waiting)
        return max(len(self._waiting) - self.lift.frames // 2, late)

    def _joints(self, points: Array) -> Array:
        """h36m17 points of the true scene."""
        joints = to_h36m17(points, self.options.skeleton)
        return unmirrored(joints, self.options.image_size[0]) if self.options.mirrored else joints

    def _take(self, seq: int, at: float, people: Sequence[Array]) -> None:
        """Remembers one frame's h36m17 points."""
        del self._people[len(people) :]
        for n, points in enumerate(people):
            if n == len(self._people):
                frames = self.lift.frames
                self._people.append(_Following(deque(maxlen=frames), deque(maxlen=frames), OneEuro()))
            following = self._people[n]
            following.forget(at, self._span_s)
            following.points.append(following.filter(points, at) if self.options.smooth else points)
            following.times.append((seq, at))
        self._waiting.append((seq, at))

    @property
    def pending(self) -> set[int]:
        """seq of the frames that are taken and will be answered."""
        return {seq for seq, _ in self._waiting}

    async def rest(self, call: Call) -> list[LivePose]:
        """The answers to all frames that had none yet: the stream has ended."""
        return await self._answer(len(self._waiting), call)

    async def _answer(self, due: int, call: Call) -> list[LivePose]:
        """Lifts what is remembered, once, and reads the first `due` of the waiting frames from it; with `low` latency
        those that came until the device began, too."""
        if due <= 0:
            return []
        given, low = self.options.skeleton == "h36m17", self.options.latency == "low"
        size = self.options.image_size
        sequences: list[tuple[Array, Times]] = []

        def newest() -> list[Laid]:
            self._arrived += self._ready(self._newer())
            self._take_arrived(one_window=True)
            sequences.extend(self._sequence(following) for following in self._people)
            return [self.lift.laid_out(points, past) for points, past in sequences]

        try:
            if low and not self.lift.centre and all(self._in_one_window(following) for following in self._people):
                poses = await self.lift.late_poses(len(self._people), newest, size, given, call)
            else:
                sequences.extend(self._sequence(following) for following in self._people)
                points, past = [each for each, _ in sequences], [each for _, each in sequences]
                poses = await self.lift.poses(points, past, size, given, call)
        finally:
            frames = [self._waiting.popleft() for _ in range(len(self._waiting) if low else due)]
        stature = self.options.stature
        scale = Scale(stature, "given") if stature is not None else Scale()
        bodies = [
            Unplaced(
                pose, points, given, self.camera, scale.stature, [int(np.abs(past - at).argmin()) for _, at in frames]
            )
            for pose, (points, past) in zip(poses, sequences, strict=True)
        ]
        placed = await self.lift.place(bodies)
        answers = []
        for n, (seq, at) in enumerate(frames):
            people = [
                Joints3D(each.joints[n], each.position[n] if np.isfinite(each.position[n]).all() else None, scale)
                for each in placed
            ]
            answers.append(LivePose(seq, at, people))
        return answers

    def _sequence(self, following: _Following) -> tuple[Array, Times]:
        """Points (frames, 17, 3) and times of a person, as far back as the next pass sees: one window, unless frames
        are answered that lie before it."""
        past = np.array([seconds for _, seconds in following.times])
        first = min(self._newest(past), self._oldest_waiting(past))
        return np.stack([*following.points][first:]), past[first:]

    def _in_one_window(self, following: _Following, *new: float) -> bool:
        """Whether all frames that wait are read from one window, of two frames or more, when `new` has come, too."""
        past = np.array([*(seconds for _, seconds in following.times), *new])
        newest = self._newest(past)
        return newest <= min(self._oldest_waiting(past), len(past) - 2)

    def _newest(self, past: Times) -> int:
        return newest_window(past, self.lift.frames, SLOWEST, FASTEST)

    def _oldest_waiting(self, past: Times) -> int:
        return int(np.searchsorted(past, self._waiting[0][1]))
