"""A second look at people who lie or stand on their head: which of them, how their crops turn, and which pose stays.

The detector learned from people who stand, so a person is shown to it as one who stands. Pure; pixels of one picture,
poses are COCO-17, angles in degrees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.engines.framing import CropRow

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

# Figures of docs/training.md, "A second look".
MOST_LEAN_DEG = 45.0  # of a trunk that still stands; COCO's people lean less but for one in thirty
UNSURE = 0.3  # mean score of the joints of somebody who may stand on their head though the pose says upright
# Times the first mean score, of those that are answered: as sure as another pose must be.
SURER, MUCH_SURER = 1.2, 1.6  # than one of a leaning trunk; than an upright one, which it contradicts

_SHOULDERS, _HIPS = [5, 6], [11, 12]


def lean(points: Array) -> Floats:
    """How far each trunk of (n, 17, 3) leans to the picture's right of upright, -180..180; on the head is 180."""
    up = points[:, _SHOULDERS, :2].mean(1) - points[:, _HIPS, :2].mean(1)
    angles: Floats = np.degrees(np.arctan2(up[:, 0], -up[:, 1])).astype(np.float64)
    return angles


def turns(points: Array) -> list[tuple[float, ...]]:
    """The angles by which each person's crop is turned for another look; none for most people.

    A trunk that leans is set upright, and upside down: a pose on the head often has its head where the feet are.
    """
    unsure = points[..., 2].mean(1) < UNSURE
    return [
        (float(angle), 180.0) if abs(angle) > MOST_LEAN_DEG else (180.0,) if doubt else ()
        for angle, doubt in zip(lean(points), unsure, strict=True)
    ]


def turned_row(row: CropRow, angle: float) -> CropRow:
    """The row for another look: the picture turned left by `angle` about the middle of the box, all of it inside."""
    x, y, width, height = (float(number) for number in row.box)
    cosine, sine = abs(np.cos(np.radians(angle))), abs(np.sin(np.radians(angle)))
    wide, tall = width * cosine + height * sine, width * sine + height * cosine
    box = np.array([x + (width - wide) / 2, y + (height - tall) / 2, wide, tall], np.float32)
    return CropRow(row.picture, box, row.flip_test, angle)


def surest(first: Array, looks: Sequence[Array], scored: Callable[[Array], Array] = lambda points: points) -> Array:
    """The surest of the other looks at a pose (17, 3), where it is SURER than the first, or MUCH_SURER; else that.

    scored: the points with the scores that are answered, for a detector whose peaks mean less.
    """
    means = [float(scored(pose)[:, 2].mean()) for pose in (first, *looks)]
    upright = abs(float(lean(first[None])[0])) <= MOST_LEAN_DEG
    best = int(np.argmax(means))
    return (first, *looks)[best] if means[best] > means[0] * (MUCH_SURER if upright else SURER) else first
