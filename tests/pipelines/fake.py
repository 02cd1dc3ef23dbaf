"""Engines that answer by plain rules, behind the real queue: people are coloured rectangles on grey.

A person's pose is a standing figure in its rectangle; the lifter answers BODY, turned by where the hip is, frame by
frame, so that its answer never depends on the window.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from service.batching.batcher import Batcher
from service.batching.policy import Class
from service.batching.scheduler import Scheduler
from service.engines.device import Device
from service.engines.engine import Engine, Prepared
from service.engines.framing import CropRow, Found, PictureRow, WindowRow
from service.geometry.boxes import iou
from service.geometry.planes import as_array
from service.metrics import Metrics
from service.pipelines.call import Call
from service.pipelines.lift import LiftPipeline
from service.pipelines.photo import PhotoPipeline

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

FRAMES = 27
RED, GREEN, BLUE = (220, 20, 20), (20, 220, 20), (20, 20, 220)
SCORES = (0.9, 0.8, 0.7)  # the finder's, of red, green and blue
HIDDEN = 15  # left_ankle, which the detector always guesses

_ACROSS = np.array([0, 1, -1, 2, -2, 4, -4, 6, -6, 6, -6, 3, -3, 3, -3, 3, -3]) / 14 + 0.5
_DOWN = np.array([2, 1, 1, 2, 2, 7, 7, 13, 13, 18, 18, 19, 19, 28, 28, 36, 36]) / 38

# Metres, camera axes; faces the camera, so that its right is at negative x. 1.60 m tall by `stature`.
BODY = np.array(
    [
        [0, 0, 0], [-0.12, 0, 0], [-0.12, 0.42, 0], [-0.12, 0.82, 0], [0.12, 0, 0], [0.12, 0.42, 0], [0.12, 0.82, 0],
        [0, -0.25, 0], [0, -0.48, 0], [0, -0.60, 0], [0, -0.70, 0],
        [0.18, -0.46, 0], [0.22, -0.20, 0], [0.24, 0.05, 0], [-0.18, -0.46, 0], [-0.22, -0.20, 0], [-0.24, 0.05, 0],
    ],
    np.float32,
)  # fmt: skip


class _NoFraming:
    """Fake engines frame nothing; but windows are looked at, by whoever frames them, as by the real ones."""

    def inputs(self, rows: Sequence[Any]) -> NDArray[Any]:
        for row in rows:
            getattr(row, "points", None)
        return np.zeros(len(rows))

    def answers(self, outputs: Sequence[NDArray[Any]], rows: Sequence[Any]) -> list[Any]:
        return list(rows)

    def example(self) -> NDArray[Any]:
        return np.zeros(1)


class FakeEngine(Engine):
    """Answers each row by a rule, and remembers the batches that it ran."""

    def __init__(self, role: str, answer: Callable[[Any], Any], budget: int = 32) -> None:
        super().__init__(
            f"fake-{role}@1",
            role,
            _NoFraming(),
            lambda inputs: [inputs],
            sizes=(1,),
            budget=budget,
            pads=False,
            runtime="fake",
            precision="f32",
        )
        self.answer = answer
        self.light = role == "lift"
        self.batches: list[tuple[Any, ...]] = []

    @property
    def rows(self) -> list[Any]:
        return [row for batch in self.batches for row in batch]

    def run(self, prepared: Prepared) -> list[Any]:
        self.batches.append(prepared.rows)
        return [self.answer(row) for row in prepared.rows]


@asynccontextmanager
async def running(*engines: Engine, queue_rows: int = 256) -> AsyncIterator[list[Batcher]]:
    """Queues before the engines, served by a real scheduler on a thread of its own."""
    scheduler = Scheduler(Device("cpu"), Metrics(CollectorRegistry()), queue_rows, 1.0)
    batchers = [scheduler.add(engine) for engine in engines]
    scheduler.start()
    try:
        yield batchers
    finally:
        await scheduler.close()


def call(klass: Class = Class.PHOTO, seconds: float = 20.0) -> Call:
    return Call("someone", klass, asyncio.get_running_loop().time() + seconds)


class Fakes:
    """The three engines, and pipelines over them."""

    def __init__(self) -> None:
        self.person = FakeEngine("person", finder, budget=1)
        self.pose = FakeEngine("pose", detector)
        self.lift = FakeEngine("lift", lifter)

    @asynccontextmanager
    async def photo(self, queue_rows: int = 256) -> AsyncIterator[PhotoPipeline]:
        async with running(self.person, self.pose, self.lift, queue_rows=queue_rows) as (person, pose, lift):
            yield PhotoPipeline(person, pose, LiftPipeline(lift, FRAMES))


# ---- Pictures, and what the engines see in them


def street(width: int = 320, height: int = 240) -> Pixels:
    return np.full((height, width, 3), 60, np.uint8)


def draw(picture: Pixels, box: Sequence[float], colour: tuple[int, int, int]) -> Pixels:
    """The picture with one more person in it."""
    x, y, width, height = (round(number) for number in box)
    drawn = picture.copy()
    drawn[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = colour
    return drawn


def blobs(picture: Pixels) -> list[tuple[Array, float]]:
    """Boxes of the coloured rectangles, and the finder's scores."""
    found = []
    for channel, score in enumerate(SCORES):
        others = np.delete(picture, channel, axis=2).max(2)
        rows, columns = np.nonzero((picture[..., channel] > 150) & (others < 110))
        if len(rows) > 20:
            x, y = columns.min(), rows.min()
            found.append((np.array([x, y, columns.max() + 1 - x, rows.max() + 1 - y], np.float32), score))
    return found


def finder(row: PictureRow) -> Found:
    found = blobs(as_array(row.picture))
    boxes = np.array([box for box, _ in found], np.float32).reshape(-1, 4)
    return Found(boxes, np.array([score for _, score in found], np.float32))


def figure(box: Sequence[float] | Array, score: float = 0.9) -> Array:
    """(17, 3) COCO-17: a person standing in the box."""
    x, y, width, height = box
    points = np.stack([x + width * _ACROSS, y + height * _DOWN, np.full(17, score)], axis=1).astype(np.float32)
    points[HIDDEN, 2] = 0.1
    return points


def detector(row: CropRow) -> Array:
    """The pose of whoever stands in the box; a guess of no score where nobody does."""
    there = [box for box, _ in blobs(as_array(row.picture))]
    if there:
        overlaps = iou([row.box], there)[0]
        if overlaps.max() > 0.1:
            return figure(there[int(overlaps.argmax())])
    return figure(row.box, score=0.05)


def lifter(row: WindowRow) -> Array:
    """(frames, 17, 3): BODY turned about the vertical by one radian for each 100 pixels of the hip."""
    return np.stack([turned(frame[0, 0]) for frame in row.points])


def turned(hip_x: float) -> Array:
    angle = 0.0 if np.isnan(hip_x) else float(hip_x) / 100
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]], np.float32)
    return (BODY @ turn.T).astype(np.float32)
