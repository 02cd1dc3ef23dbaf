"""A clip to lines, one a frame, while it is decoded: people found and followed, smoothed, lifted, placed.

A line is final when it is yielded, at most LOOK_AHEAD_S of clip after its own frame. Memory does not grow with the
clip. Pixels are the upright frames'; metres are in the camera's axes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.geometry.cameras import Camera
from service.geometry.skeletons import SKELETONS, mirror_order, to_h36m17
from service.media.videos import Clip, Frame
from service.people import Box, Joints3D, Keypoints, Person, Scale, Track

from .call import Call, check_models, choose_camera
from .lift import LiftPipeline, position_of, stature_factor, unmirrored, unmirrored_camera
from .photo import PhotoOptions, PhotoPipeline, joint_states
from .smoothing import smooth
from .tracking import Tracker

Array = NDArray[np.float32]
Pool = Callable[..., Awaitable[Any]]  # runs a blocking call in the decode pool

BLOCK = 9  # frames that become lines together
CONTEXT = 13  # frames before and after them that smoothing and lifter look at
LOOK_AHEAD_S = 2.0  # of clip: where frames are rare, fewer of them are waited for
FINDER_S = 0.15  # between two looks of the finder; in between the poses carry the boxes
LOST_SCORE = 0.2  # mean score under which a carried person is gone
PROGRESS_S = 5.0  # of clip time between two progress lines


@dataclass(frozen=True)
class ClipOptions:
    """every: take each n-th frame; start, end: seconds of the clip; raw: the unsmoothed keypoints too."""

    photo: PhotoOptions = PhotoOptions()
    every: int = 1
    start: float = 0.0
    end: float | None = None
    smooth: bool = True
    raw: bool = False


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
class ClipPerson:
    person: Person
    track: str
    states: list[str] | None
    swapped: bool
    filled: bool
    raw: Array | None


@dataclass(frozen=True)
class ClipFrame:
    index: int
    time: float
    people: tuple[ClipPerson, ...]


@dataclass(frozen=True)
class ClipProgress:
    frames: int
    time: float


@dataclass(frozen=True)
class ClipEnd:
    """camera_to_world is not estimated yet: `reason` says so."""

    frames: int
    seconds: float
    tracks: tuple[Track, ...]
    merged: dict[int, int]
    camera_to_world: None
    reason: str


@dataclass(frozen=True)
class _Seen:
    """One person in one frame, before smoothing."""

    box: Array
    score: float
    points: Array
    state: str


@dataclass(frozen=True)
class _Moment:
    index: int
    time: float
    people: dict[int, _Seen]


class ClipPipeline:
    """Clips through the photo's queues, frames in order."""

    def __init__(self, photo: PhotoPipeline, lift: LiftPipeline, pool: Pool) -> None:
        self.photo, self.lift, self._pool = photo, lift, pool

    async def run(
        self, clip: Clip, options: ClipOptions, call: Call
    ) -> AsyncGenerator[ClipStart | ClipFrame | ClipProgress | ClipEnd, None]:
        """Yields the start, a line a frame as soon as it is final, progress in between, and the end.

        Raises what the decoder raises where the rest of the clip is broken; all lines before it were yielded.
        """
        check_models(options.photo.models, self.photo.models)
        camera = choose_camera(clip.width, clip.height, options.photo.camera)
        yield ClipStart(clip.width, clip.height, clip.rate, clip.frames, clip.duration, camera, self.photo.models)
        story = _Story(options, camera, (clip.width, clip.height))
        tracker = Tracker()
        found_s, told_s, last_s = -np.inf, 0.0, 0.0
        broken: Exception | None = None
        frames = self._frames(clip, options)
        while True:
            try:
                frame = await anext(frames, None)
            except Exception as error:  # what came before the break is whole, and is answered first
                broken = error
                break
            if frame is None:
                break
            look = frame.time_s - found_s >= FINDER_S - 1e-6
            moment = await self._moment(frame, tracker, options.photo, look, call)
            found_s = frame.time_s if look else found_s
            story.add(moment)
            last_s = frame.time_s
            while story.ready:
                for line in await self._lines(story, call):
                    yield line
            if last_s - told_s >= PROGRESS_S:
                told_s = last_s
                yield ClipProgress(story.frames, last_s)
        story.finish()
        while story.ready:
            for line in await self._lines(story, call):
                yield line
        if broken:
            raise broken
        reason = "no floor is estimated yet: lines and files speak in the camera's frame"
        yield ClipEnd(story.frames, last_s, story.tracks(), {}, None, reason)

    async def _frames(self, clip: Clip, options: ClipOptions) -> AsyncIterator[Frame]:
        """Every n-th frame between start and end, decoded in the pool one at a time: the reader's pace is the pace."""
        decoder: Iterator[Frame] = iter(clip)
        while (frame := await self._pool(next, decoder, None)) is not None:
            if options.end is not None and frame.time_s > options.end:
                return
            if frame.time_s >= options.start and frame.index % options.every == 0:
                yield frame

    async def _moment(self, frame: Frame, tracker: Tracker, options: PhotoOptions, look: bool, call: Call) -> _Moment:
        """The people of one frame, by the finder or by where they were."""
        if look:
            boxes, scores, points = await self.photo.keypoints(frame.pixels, options, call)
        else:
            height, width = frame.pixels.shape[:2]
            recent = [track for track in tracker.tracks if frame.time_s - track.seen_s <= 2 * FINDER_S]
            carried = [_box_of(track.points, track.box, width, height) for track in recent]
            kept = [n for n, box in enumerate(carried) if box is not None]
            boxes = np.array([carried[n] for n in kept], np.float32).reshape(-1, 4)
            scores = np.array([recent[n].score for n in kept], np.float32)
            _, _, points = await self.photo.keypoints(frame.pixels, replace(options, boxes=boxes), call)
            alive = points[..., 2].mean(1) >= LOST_SCORE
            boxes, scores, points = boxes[alive], scores[alive], points[alive]
        people = tracker.update(frame.time_s, boxes, scores, points)
        seen = {track.id: _Seen(track.box, track.score, track.points, track.state) for track in people}
        return _Moment(frame.index, frame.time_s, seen)

    async def _lines(self, story: _Story, call: Call) -> list[ClipFrame]:
        """Smooths and lifts the next block of frames, and takes it out of the story."""
        block, sequences = story.next_block()
        lifted: dict[int, Array] = {}
        if story.options.photo.lift and sequences:
            points = [story.joints(sequence.points) for sequence in sequences.values()]
            times = [sequence.times for sequence in sequences.values()]
            poses = await self.lift.poses(points, times, story.size, False, call)
            lifted = dict(zip(sequences, poses, strict=True))
        return [story.line(moment, sequences, lifted) for moment in block]


@dataclass(frozen=True)
class _Sequence:
    """A person's smoothed points (frames, 17, 3) around a block; row n is the moment `indices[n]`."""

    indices: dict[int, int]
    times: NDArray[np.float64]
    points: Array


class _Story:
    """The frames that are not told yet, and the few told ones that smoothing and lifter still look at."""

    def __init__(self, options: ClipOptions, camera: Camera, size: tuple[int, int]) -> None:
        self.options, self.size = options, size
        self.camera = unmirrored_camera(camera, size[0]) if options.photo.mirrored else camera
        self.frames = 0
        self._told: deque[_Moment] = deque(maxlen=CONTEXT)
        self._ahead: deque[_Moment] = deque()
        self._finished = False
        self._tracks: dict[int, Track] = {}
        self._factors: dict[int, float] = {}
        stature = options.photo.stature
        self._scale = Scale(stature, "given") if stature is not None else Scale()

    @property
    def ready(self) -> bool:
        """Whether a block may be told: enough is known of what follows it, or nothing follows."""
        return bool(self._ahead) and (self._whole_block or self._reach_s(self._ahead[0]) >= LOOK_AHEAD_S)

    @property
    def _whole_block(self) -> bool:
        return self._finished or len(self._ahead) >= BLOCK + CONTEXT

    def _reach_s(self, moment: _Moment) -> float:
        """How much is known of what follows a moment, seconds."""
        return self._ahead[-1].time - moment.time

    def add(self, moment: _Moment) -> None:
        self._ahead.append(moment)
        self.frames += 1
        for person in moment.people:
            old = self._tracks.get(person, Track(person, moment.index, moment.index, 0, self._scale))
            self._tracks[person] = replace(old, last=moment.index, frames=old.frames + 1)

    def finish(self) -> None:
        self._finished = True

    def tracks(self) -> tuple[Track, ...]:
        return tuple(self._tracks.values())

    def next_block(self) -> tuple[list[_Moment], dict[int, _Sequence]]:
        """Takes the next frames, with the sequence of everyone who is in them."""
        settled = [moment for moment in self._ahead if self._whole_block or self._reach_s(moment) >= LOOK_AHEAD_S / 2]
        block = settled[:BLOCK]
        for _ in block:
            self._ahead.popleft()
        around = [*self._told, *block, *list(self._ahead)[:CONTEXT]]
        people = sorted({person for moment in block for person in moment.people})
        sequences = {person: self._sequence(person, around) for person in people}
        self._told.extend(block)
        return block, sequences

    def _sequence(self, person: int, around: list[_Moment]) -> _Sequence:
        present = [n for n, moment in enumerate(around) if person in moment.people]
        moments = around[present[0] : present[-1] + 1]
        unknown = np.full((17, 3), (np.nan, np.nan, 0), np.float32)
        points = np.stack([m.people[person].points if person in m.people else unknown for m in moments])
        times = np.array([moment.time for moment in moments])
        if self.options.smooth:
            points = smooth(points, times)
        return _Sequence({moment.index: n for n, moment in enumerate(moments)}, times, points)

    def line(self, moment: _Moment, sequences: dict[int, _Sequence], lifted: dict[int, Array]) -> ClipFrame:
        people = []
        for person, seen in sorted(moment.people.items()):
            sequence = sequences[person]
            n = sequence.indices[moment.index]
            points = sequence.points[n]
            joints = None
            if person in lifted:
                # One scale a track, told by its first block.
                factor = self._factors.setdefault(person, stature_factor(lifted[person], self._scale.stature))
                pose = lifted[person][n : n + 1] * np.float32(factor)
                position = position_of(pose, self.joints(points[None]), False, self.camera)[0]
                joints = Joints3D(pose[0], position if np.isfinite(position).all() else None, self._scale)
            states = joint_states(self._named(points), *self.size) if self.options.photo.states else None
            box = Box.of(seen.box, seen.score)
            known = Person(person, box, Keypoints(self._named(points)), joints)
            raw = self._named(seen.points) if self.options.raw else None
            people.append(ClipPerson(known, seen.state, states, swapped=False, filled=False, raw=raw))
        return ClipFrame(moment.index, moment.time, tuple(people))

    def joints(self, points: Array) -> Array:
        """The detector's points (frames, 17, 3) as the lifter reads them, of the true scene if the clip is mirrored."""
        joints = to_h36m17(points, "coco17")
        return unmirrored(joints, self.size[0]) if self.options.photo.mirrored else joints

    def _named(self, points: Array) -> Array:
        """The detector's points (17, 3) under the person's own left and right."""
        return points[mirror_order(SKELETONS["coco17"])] if self.options.photo.mirrored else points


def _box_of(points: Array, box: Array, width: int, height: int) -> Array | None:
    """Where a person will be in the next frame: the old box moved with the pose; None once it left the picture."""
    sure = points[points[:, 2] >= LOST_SCORE, :2]
    if len(sure) < 3:
        return box
    low, high = sure.min(0), sure.max(0)
    size = np.maximum(0.5 * box[2:] + 0.5 * 1.2 * (high - low), 8)
    corner = (low + high) / 2 - size / 2
    left = np.maximum(corner, 0)
    right = np.minimum(corner + size, [width, height])
    if (right - left < 2).any():
        return None
    return np.concatenate([left, right - left]).astype(np.float32)
