"""What the layers hand each other about people. Frozen; arrays inside are never written to.

Pixels are those of the upright picture, (0, 0) the top-left corner of the first pixel. 3D is in metres in the camera's
axes (x right, y down, z away). An unknown joint is NaN here and null in JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Box:
    """Where a person is, and the chance that one is there."""

    x: float
    y: float
    width: float
    height: float
    score: float = 1.0

    @classmethod
    def of(cls, xywh: Array, score: float = 1.0) -> Box:
        """From (4,) x, y, width, height."""
        x, y, width, height = (float(number) for number in xywh)
        return cls(x, y, width, height, score)

    @property
    def xywh(self) -> Array:
        """(4,) float32: x, y, width, height in pixels."""
        return np.array([self.x, self.y, self.width, self.height], np.float32)


@dataclass(frozen=True)
class Keypoints:
    """The joints of one person in one picture.

    points: (joints, 3) float32, x and y in pixels, score 0..1; an unknown joint is (NaN, NaN, 0).
    """

    points: Array
    skeleton: str = "coco17"


@dataclass(frozen=True)
class Scale:
    """The standing height that the metres are made for, and who said so."""

    stature: float = 1.70
    source: Literal["given", "assumed"] = "assumed"


@dataclass(frozen=True)
class Joints3D:
    """One lifted pose.

    joints: (17, 3) float32 metres relative to joint 0, in the camera's axes.
    position: (3,) float32 metres, joint 0 in the camera's frame, or None where it cannot be told.
    """

    joints: Array
    position: Array | None
    scale: Scale = Scale()
    skeleton: str = "h36m17"


@dataclass(frozen=True)
class Person:
    """One person of one picture, as far as it was asked for."""

    id: int
    box: Box
    keypoints: Keypoints
    lifted: Joints3D | None = None


@dataclass(frozen=True)
class Track:
    """One person over the frames of a clip or stream: `first` and `last` are frame indices, both included.

    factor: what joints and positions of the track's lines are to be multiplied by, now that all of it is known.
    """

    id: int
    first: int
    last: int
    frames: int
    scale: Scale = Scale()
    factor: float = 1.0


@dataclass(frozen=True)
class World:
    """From the camera's axes to a world's: `rotation @ point + translation`.

    rotation: (3, 3) float64; the world's y points up, against gravity, and the camera looks along -z.
    translation: (3,) metres; the floor is y = 0, and the camera stands over x = z = 0.
    """

    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]
