"""Bodies brought to the stature that is wanted, and to their place, those of many callers at once. Knows no network.

Whose poses come out of one batch wake in one turn of the event loop, and NumPy takes as long to begin with one of them
as with thirty. Metres in the camera's axes, pixels of the picture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.geometry.alignment import statures
from service.geometry.cameras import Camera, place, poses_last, stand, undistort
from service.geometry.skeletons import MADE_JOINTS
from service.people import Array

TRAINED_STATURE = 1.70
# Of many more, the numbers no longer stay in a core's own cache: each then costs three times as much.
FRAMES_AT_ONCE = 200


@dataclass(frozen=True, eq=False)
class Unplaced:
    """One person's poses as the network answered them.

    joints: (frames, 17, 3) metres relative to joint 0, of some size; points: (frames, 17, 3) what they were lifted
    from, h36m17 in pixels and score, NaN for unknown; given: whether these came as h36m17, not made from others.
    stature: metres that the person is to stand; shown: which frames are wanted, all by default.
    """

    joints: Array
    points: Array
    given: bool
    camera: Camera
    stature: float
    shown: Sequence[int] | None = None

    def of_shown(self, values: NDArray[Any]) -> NDArray[Any]:
        """Of a value for each frame, those of the shown ones."""
        return values if self.shown is None else values[self.shown]


@dataclass(frozen=True, eq=False)
class Placed:
    """Of the shown frames: joints (frames, 17, 3) metres, and position (frames, 3), NaN where it cannot be told. Joints
    are NaN of who has no known joint in any frame."""

    joints: Array
    position: Array


class Placing:
    """`place_all` for everybody who asks in one turn of the event loop."""

    def __init__(self) -> None:
        self._asked: list[tuple[Sequence[Unplaced], asyncio.Future[list[Placed]]]] = []

    async def __call__(self, bodies: Sequence[Unplaced]) -> list[Placed]:
        """One entry a body, in order."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._answer)
        answer: asyncio.Future[list[Placed]] = loop.create_future()
        self._asked.append((bodies, answer))
        return await answer

    def _answer(self) -> None:
        asked = [(bodies, answer) for bodies, answer in self._asked if not answer.done()]
        self._asked = []
        try:
            placed = iter(place_all([body for bodies, _ in asked for body in bodies]))
        except Exception as error:
            if len(asked) == 1:
                asked[0][1].set_exception(error)
                return
            for one in asked:  # one caller's fault is no other's
                self._asked = [one]
                self._answer()
            return
        for bodies, answer in asked:
            answer.set_result([next(placed) for _ in bodies])


def place_all(bodies: Sequence[Unplaced]) -> list[Placed]:
    """Scales each body by one factor to its stature, by its bones in all of its frames, and places its shown frames."""
    placed: list[Placed] = []
    some: list[Unplaced] = []
    for body in bodies:
        some.append(body)
        if sum(len(each.joints) for each in some) >= FRAMES_AT_ONCE:
            placed += _place(some)
            some = []
    return placed + (_place(some) if some else [])


def _place(bodies: Sequence[Unplaced]) -> list[Placed]:
    counts = [len(body.joints) for body in bodies]
    # Poses last, and seen from behind: NumPy takes joints out of it a third as long.
    heights = statures(poses_last(np.concatenate([body.joints for body in bodies])).T)
    begins = np.cumsum([0, *counts[:-1]])
    factors = height_factor(np.add.reduceat(heights, begins) / counts, np.array([body.stature for body in bodies]))

    shown = [body.of_shown(body.joints) for body in bodies]
    counts = [len(joints) for joints in shown]
    views = [(c.focal_px, *c.center, body.given) for body in bodies for c in (body.camera,)]
    each = np.concatenate([np.array(views, np.float64), factors[:, None]], axis=1)
    focal, x, y, given, factor = np.repeat(each, counts, axis=0).T  # of every pose
    joints = np.concatenate(shown) * factor.astype(np.float32)[:, None, None]
    seen = poses_last(np.concatenate([_undistorted(body) for body in bodies]))
    seen[0] = (seen[0] - x) / focal
    seen[1] = (seen[1] - y) / focal
    if not given.all():
        seen[2, MADE_JOINTS] = np.where(given > 0, seen[2, MADE_JOINTS], 0)
    positions = stand(poses_last(joints), seen).T.astype(np.float32)
    ends = np.cumsum(counts).tolist()
    placed = [Placed(joints[end - n : end], positions[end - n : end]) for n, end in zip(counts, ends, strict=True)]
    return [each if _was_seen(body) else _nowhere(each) for each, body in zip(placed, bodies, strict=True)]


def _was_seen(body: Unplaced) -> bool:
    """Whether any joint is known in any frame."""
    xs = body.points[..., 0]
    return bool(xs[0, 0] == xs[0, 0]) or bool(np.isfinite(xs).any())  # the first number mostly tells


def _nowhere(placed: Placed) -> Placed:
    """What is told of somebody of whom nothing is known: the network made a pose out of nothing."""
    return Placed(np.full_like(placed.joints, np.nan), np.full_like(placed.position, np.nan))


def _undistorted(body: Unplaced) -> Array:
    points = body.of_shown(body.points)
    if body.camera.distortion is None:
        return points
    straight = undistort(points[..., :2], body.camera)
    return np.concatenate([straight, points[..., 2:]], axis=-1).astype(np.float32)


def height_factor(answered: NDArray[np.float64] | float, wanted: NDArray[np.float64] | float) -> Any:
    """What to multiply by where the network's people stand `answered` metres tall, so that they stand `wanted`.

    The network answers for 1.70 m, but where it is unsure its poses come out small; bone lengths tell by how much.
    """
    # A pose collapsed by a lost input must not be blown up: no real answer is off by more than a half.
    return wanted / np.clip(answered, TRAINED_STATURE / 2, TRAINED_STATURE * 2)


def position_of(joints: Array, points: Array, given: bool, camera: Camera) -> Array:
    """(frames, 3) metres: where joint 0 stands, from the joints that mean the same place in 2D and 3D."""
    seen = points
    if not given:
        seen = points.copy()
        seen[..., MADE_JOINTS, :] = np.nan, np.nan, 0
    return place(joints, seen, camera)
