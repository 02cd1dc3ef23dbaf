"""What several files share: clips from memory that run through the queue; walkers for the tracker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

import numpy as np

from service.batching.policy import Class
from service.errors import Refused
from service.media.videos import Clip, Frame
from service.pipelines.clip import ClipEnd, ClipFrame, ClipOptions, ClipPerson, ClipPipeline, ClipProgress, ClipStart
from service.pipelines.tracking import Array, Tracked, Tracker

from .fake import RED, Fakes, Pixels, call, draw, street

Line = ClipStart | ClipFrame | ClipProgress | ClipEnd
FPS = 30


# ---- Clips


def walker(n: float) -> tuple[float, float, float, float]:
    return (20 + 2 * n, 40, 60, 150)


def walking(n: int) -> Pixels:
    return draw(street(), walker(n), RED)


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


# ---- People who are tracked


def person(x: float, phase: float = 0.0, facing: int = 1, height: float = 160, y: float = 50) -> Array:
    """(17, 3) somebody who walks across the picture, seen from the side."""
    across = 0.3 * facing * np.array([0, 1, -1, 2, -2, 4, -4, 6, -6, 6, -6, 3, -3, 3, -3, 3, -3])
    down = np.array([0, -1, -1, 0, 0, 5, 5, 11, 11, 16, 16, 17, 17, 26, 26, 34, 34])
    swing = facing * np.sin(phase)
    across[:3] += np.array([2, 1.5, 1.5]) * facing
    for joints, reach in (((7, 8), 2), ((9, 10), 4), ((14, 13), 3), ((16, 15), 6)):
        across[list(joints)] += np.array([reach, -reach]) * swing
    unit = height / 40
    return np.stack([x + unit * across, y + unit * down, np.full(17, 0.9)], axis=1).astype(np.float32)


def box_of(points: Array) -> Array:
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    margin = 0.1 * (high - low)
    return np.concatenate([low - margin, high - low + 2 * margin]).astype(np.float32)


def see(tracker: Tracker, time: float, people: Iterable[Array]) -> list[int]:
    """The ids that the people get."""
    points = np.array(list(people), np.float32).reshape(-1, 17, 3)
    boxes = np.array([box_of(pose) for pose in points], np.float32).reshape(-1, 4)
    return [track.id for track in tracker.update(time, boxes, np.full(len(points), 0.9, np.float32), points)]


def look(
    tracker: Tracker, time: float, people: Iterable[Array], found: Iterable[bool] | None = None, looked: bool = True
) -> list[Tracked]:
    points = np.array(list(people), np.float32).reshape(-1, 17, 3)
    boxes = np.array([box_of(pose) for pose in points], np.float32).reshape(-1, 4)
    mask = None if found is None else np.array(list(found), bool)
    return tracker.update(time, boxes, np.full(len(points), 0.9, np.float32), points, mask, looked)
