"""Lines, dots, letters and labels on a picture, anti-aliased. It knows no people.

Points are (x, y) in pixels with (0, 0) the first pixel's corner, to a sixteenth; OpenCV counts from pixel centres.
A canvas is (height, width, 3) uint8 RGB, and is drawn upon: the one kind of argument here that is written into.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]
Align = Literal["left", "centre", "right"]

SHIFT = 4  # OpenCV's fixed point: sixteenths of a pixel


def fixed(points: NDArray[np.floating]) -> NDArray[np.int32]:
    """(n, 2) pixels to OpenCV's fixed point; what lies far outside is drawn near outside, and does not overflow."""
    sixteenths = (np.clip(points, -30000, 30000) - 0.5) * (1 << SHIFT)
    return np.asarray(sixteenths.round(), np.int32)


def ends(start: NDArray[np.floating], end: NDArray[np.floating]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Both ends of a stroke in OpenCV's fixed point."""
    (x0, y0), (x1, y1) = fixed(np.array([start[:2], end[:2]], np.float64)).tolist()
    return (x0, y0), (x1, y1)


def line(canvas: Pixels, start: NDArray[np.floating], end: NDArray[np.floating], width: int, colour: Colour) -> None:
    """A stroke with round ends; none where an end is not finite."""
    if np.isfinite(start[:2]).all() and np.isfinite(end[:2]).all():
        cv2.line(canvas, *ends(start, end), colour, max(1, width), cv2.LINE_AA, SHIFT)


def dot(canvas: Pixels, centre: Sequence[float] | NDArray[np.floating], radius: float, colour: Colour) -> None:
    """A filled circle; none where the centre is not finite."""
    if np.isfinite(centre).all():
        x, y = fixed(np.array([centre], np.float64))[0].tolist()
        cv2.circle(canvas, (x, y), round(radius * (1 << SHIFT)), colour, cv2.FILLED, cv2.LINE_AA, SHIFT)


def write(
    canvas: Pixels,
    text: str,
    where: Sequence[float] | NDArray[np.floating],
    size: float,
    colour: Colour,
    align: Align,
) -> None:
    """One line of about `size` pixels; `where` is its left end, centre or right end, at half its height."""
    face, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(size / 12))
    scale = size / 30
    (width, height), _ = cv2.getTextSize(text, face, scale, thickness)
    x = where[0] - {"left": 0.0, "centre": width / 2, "right": width}[align]
    cv2.putText(canvas, text, (round(x), round(where[1] + height / 2)), face, scale, colour, thickness, cv2.LINE_AA)


def label(canvas: Pixels, text: str, foot: Sequence[float], size: float, colour: Colour) -> None:
    """A pill with white letters whose lower edge is at `foot`, kept inside the picture."""
    half = size / 2
    (letters, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.8 * size / 30, 1)
    reach = max(0.0, letters - 0.7 * size) / 2
    x = float(np.clip(foot[0], reach + half, max(reach + half, canvas.shape[1] - reach - half)))
    y = float(np.clip(foot[1] - half, half + 1, max(half + 1, canvas.shape[0] - half - 1)))
    left, right = np.array([x - reach, y]), np.array([x + reach, y])
    for width, ink in ((size + 0.14 * size, (255, 255, 255)), (size, colour)):
        line(canvas, left, right, round(width), ink)
        dot(canvas, left, width / 2, ink)
        dot(canvas, right, width / 2, ink)
    write(canvas, text, (x, y), 0.8 * size, (255, 255, 255), "centre")
