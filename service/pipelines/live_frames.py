"""A live stream of pictures: people found, followed, and lifted as each frame comes. Knows no sockets.

Pixels of the upright frames, metres in the camera's axes, seconds on the sender's clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import OutOfRange, UnknownKind
from service.geometry.skeletons import SKELETONS, UNKNOWN, mirror_order
from service.media.pictures import PictureLimits, beginning, kind_of, read_picture
from service.media.videos import Frame
from service.people import Box, Joints3D, Keypoints, Person

from .call import Call, CameraOptions
from .following import Follower
from .live import LiveKeypoints, LiveOptions
from .photo import PhotoOptions, PhotoPipeline, joint_states
from .smoothing import OneEuro

Array = NDArray[np.float32]
Pool = Callable[..., Awaitable[Any]]  # runs a blocking call in the decode pool


@dataclass(frozen=True)
class LiveFramesOptions:
    """What a stream's start may say. image_size: what every frame must have; None: what the first one has."""

    image_size: tuple[int, int] | None = None
    fps: float = 30.0
    latency: Literal["low", "full"] = "low"
    smooth: bool = False
    states: bool = False
    lift: bool = True
    stature: float | None = None
    max_people: int = 20
    min_person_score: float = 0.4
    camera: CameraOptions = CameraOptions()
    mirrored: bool = False


@dataclass(frozen=True)
class LivePerson:
    """One person of a frame; track: tentative or confirmed; states: of each keypoint, if asked for."""

    person: Person
    track: str
    states: list[str] | None


@dataclass(frozen=True)
class LiveFrame:
    """seq: the frame that is answered; with `full` latency an earlier one than was sent."""

    seq: int
    time: float
    people: list[LivePerson]


@dataclass
class _Waiting:
    """A frame whose people are known in 2D, and in 3D one after another."""

    seq: int
    time: float
    people: list[LivePerson]
    lifted: dict[int, Joints3D] = field(default_factory=dict)


@dataclass
class _Followed:
    live: LiveKeypoints
    filter: OneEuro


class LiveFrames:
    """One stream."""

    def __init__(
        self,
        photo: PhotoPipeline,
        pool: Pool,
        limits: PictureLimits,
        options: LiveFramesOptions,
    ) -> None:
        self.photo, self.options = photo, options
        self._pool, self._limits = pool, limits
        photo_options = PhotoOptions(max_people=options.max_people, min_person_score=options.min_person_score)
        self._follower = Follower(photo, photo_options)
        self._size = options.image_size
        self._people: dict[int, _Followed] = {}
        self._waiting: deque[_Waiting] = deque()

    @property
    def models(self) -> dict[str, str]:
        return self.photo.models | self.photo.lift.moving.models

    def forget(self) -> None:
        """After a pause: people are followed anew, under new ids."""
        self._follower.forget()
        self._people.clear()
        self._waiting.clear()

    async def add(self, seq: int, time: float, picture: bytes, call: Call) -> list[LiveFrame]:
        """Takes one frame and answers those that are due: with `low` latency this one, with `full` an earlier one.

        Args:
            picture: JPEG bytes.

        Raises:
            UnknownKind, Unreadable, TooLarge: it is no JPEG that is read here.
            OutOfRange: its size is not the stream's.
        """
        pixels = await self._pixels(picture)
        tracked = await self._follower.see(Frame(seq, time, pixels), call)
        people = []
        for track in tracked:
            followed = self._followed(track.id)
            points = followed.filter(track.points, time) if self.options.smooth else track.points
            person = Person(track.id, Box.of(track.box, track.score), Keypoints(points))
            states = joint_states(self._named(points), *self._size) if self.options.states and self._size else None
            people.append(LivePerson(person, track.state, states))
        self._waiting.append(_Waiting(seq, time, people))
        if self.options.lift:
            try:
                await self._lift(seq, time, people, call)
            except Exception:
                self._waiting = deque(each for each in self._waiting if self._may_be_lifted(each))
                raise
        return self._due(everything=not self.options.lift)

    async def add_all(self, frames: Sequence[tuple[int, float, bytes]], call: Call) -> list[LiveFrame]:
        """Several frames, one after another: each one's people tell where to look in the next."""
        return [answer for seq, time, picture in frames for answer in await self.add(seq, time, picture, call)]

    @property
    def pending(self) -> set[int]:
        """seq of the frames that are taken and will be answered."""
        return {each.seq for each in self._waiting}

    def _may_be_lifted(self, frame: _Waiting) -> bool:
        """Whether everybody in it is lifted, or waits to be."""
        people = [one.person.id for one in frame.people if one.person.id not in frame.lifted]
        return all(person in self._people and frame.seq in self._people[person].live.pending for person in people)

    async def rest(self, call: Call) -> list[LiveFrame]:
        """The answers to all frames that had none yet: the stream has ended."""
        await self._finish(list(self._people), call)
        return self._due(everything=True)

    async def _pixels(self, picture: bytes) -> NDArray[np.uint8]:
        if kind_of(picture) != "jpeg":
            message = f"`image` must be the bytes of a JPEG; got {beginning(picture)}"
            raise UnknownKind(message, field="image", limit=["jpeg"])
        pixels: NDArray[np.uint8] = (await self._pool(read_picture, picture, self._limits)).pixels
        size = (pixels.shape[1], pixels.shape[0])
        if self._size is None:
            self._size = size
        if size != self._size:
            message = (
                f"`image` is {size[0]} x {size[1]} pixels; this stream's frames are {self._size[0]} x {self._size[1]}"
            )
            raise OutOfRange(message, field="image", limit=list(self._size))
        return pixels

    def _followed(self, person: int) -> _Followed:
        if person not in self._people:
            options = self.options
            assert self._size is not None
            lifting = LiveOptions(
                "coco17",
                self._size,
                options.fps,
                options.latency,
                stature=options.stature,
                camera=options.camera,
                mirrored=options.mirrored,
            )
            self._people[person] = _Followed(LiveKeypoints(self.photo.lift.moving, lifting), OneEuro())
        return self._people[person]

    async def _lift(self, seq: int, time: float, people: list[LivePerson], call: Call) -> None:
        """Everybody of the frame at once, so that their rows share batches."""
        points = {one.person.id: one.person.keypoints.points for one in people}
        followed = {track.id for track in self._follower.tracker.tracks}
        await self._finish([person for person in self._people if person not in followed | points.keys()], call)
        if self.options.latency == "full":
            # Who is hidden goes on unknown, so that everybody's answers keep step.
            points = {person: points.get(person, np.tile(UNKNOWN, (17, 1))) for person in self._people}
        told = await asyncio.gather(
            *(self._followed(person).live.add(seq, time, [known], call) for person, known in points.items()),
            return_exceptions=True,
        )
        for person, answers in zip(points, told, strict=True):
            if not isinstance(answers, BaseException):
                self._keep(person, answers)
        for failed in told:
            if isinstance(failed, BaseException):
                raise failed

    async def _finish(self, gone: list[int], call: Call) -> None:
        """Answers what still waits for those who will not come again."""
        for person in gone:
            self._keep(person, await self._people.pop(person).live.rest(call))

    def _keep(self, person: int, answers: list[Any]) -> None:
        lifted = {answer.seq: answer.people[0] for answer in answers if answer.people}
        for waiting in self._waiting:
            if waiting.seq in lifted:
                waiting.lifted[person] = lifted[waiting.seq]

    def _due(self, everything: bool) -> list[LiveFrame]:
        """The oldest frames, as far as all their people are lifted."""
        due = []
        while self._waiting:
            first = self._waiting[0]
            there = all(one.person.id in first.lifted for one in first.people)
            early = self.options.latency == "full" and len(self._waiting) <= self._behind
            if not everything and (not there or early):
                break
            self._waiting.popleft()
            people = []
            for one in first.people:
                known = one.person
                scored = self.photo.scored(known.keypoints.points, known.box.xywh)
                keypoints = Keypoints(self._named(scored))
                person = Person(known.id, known.box, keypoints, first.lifted.get(known.id))
                people.append(LivePerson(person, one.track, one.states))
            due.append(LiveFrame(first.seq, first.time, people))
        return due

    def _named(self, points: Array) -> Array:
        """The detector's points (17, 3) under the person's own left and right."""
        return points[mirror_order(SKELETONS["coco17"])] if self.options.mirrored else points

    @property
    def _behind(self) -> int:
        """So many frames an answer of `full` latency has behind it; frames without anybody wait as long."""
        return self.photo.lift.frames // 2
