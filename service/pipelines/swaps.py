"""Left and right exchanged for some frames by the detector: found in a person's sequence, and put right. Pure.

A pair of joints is taken as exchanged from one frame to another where it jumps onto its own opposite, and back within
LONGEST_S; a single jump tells nothing about which side was right, and is left. Legs that really cross are carried over
the crossing by their speed, so they do not jump. Pixels and seconds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.geometry.skeletons import SKELETONS

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

LONGEST_S = 0.6
LEAST_GAIN = 0.1  # of the person's size: how much nearer the joints must lie if they were exchanged
LEAST_SHARE = 0.5  # of the way jumped that an exchange must save


def repair(points: Array, times: NDArray[np.float64], size: float) -> tuple[Array, NDArray[np.bool_]]:
    """Puts exchanged pairs back.

    Args:
        points: (frames, 17, 3) coco17 pixels and score; unknown joints are NaN.
        times: (frames,) seconds, rising.
        size: of the person in pixels, the square root of the box's area.

    Returns:
        The points, a new array, and (frames,) whether a pair of that frame was exchanged.
    """
    pairs = np.array(SKELETONS["coco17"].pairs)
    repaired, swapped = points.copy(), np.zeros(len(points), bool)
    if len(points) < 3:
        return repaired, swapped
    jumps = _gain(points[:, pairs[:, 0], :2], points[:, pairs[:, 1], :2]) > LEAST_GAIN * size
    for pair in np.flatnonzero(jumps.sum(axis=0) >= 2):
        left, right = pairs[pair]
        at = np.flatnonzero(jumps[:, pair])
        first = 0
        while first + 1 < len(at):
            start, after = at[first], at[first + 1]
            if times[after] - times[start] > LONGEST_S:
                first += 1
                continue
            repaired[start:after, [left, right]] = points[start:after, [right, left]]
            swapped[start:after] = True
            first += 2
    return repaired, swapped


def _gain(given_left: Array, given_right: Array) -> Floats:
    """(frames, pairs): how much less both joints move into the frame if they are exchanged there; 0 where they jump
    anyway, or where their speed explains the way."""
    left: Floats = np.asarray(given_left, np.float64)
    right: Floats = np.asarray(given_right, np.float64)
    stay, exchanged = np.zeros((2, *left.shape[:2]))
    stay[1:] = _way(left[1:], left[:-1]) + _way(right[1:], right[:-1])
    exchanged[1:] = _way(left[1:], right[:-1]) + _way(right[1:], left[:-1])
    # With the speed before the frame, and with that behind it: a real crossing goes on on either side.
    explained = np.full_like(stay, np.inf)
    explained[2:] = sum(_way(side[2:], 2 * side[1:-1] - side[:-2]) for side in (left, right))
    back = sum(_way(side[:-2], 2 * side[1:-1] - side[2:]) for side in (left, right))
    explained[1:-1] = np.minimum(explained[1:-1], back)
    gain = np.minimum(stay, explained) - exchanged
    return np.where((exchanged < (1 - LEAST_SHARE) * stay) & np.isfinite(gain), gain, 0)


def _way(a: Floats, b: Floats) -> Floats:
    out: Floats = np.linalg.norm(a - b, axis=-1)
    return out
