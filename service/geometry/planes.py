"""Pictures as video decoders give them: brightness, and two planes of colour at half of its size (4:2:0). OpenCV only.

Of a frame of a clip only people are looked at, and they are shrunk: to make all of it red, green and blue first was a
third of what a frame cost beside networks and decoder. Coordinates are pixels of the picture, from its top-left corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def halved(part: Picture, step: int) -> Picture:
    """`part` halved by means of 2x2 until one pixel is `step` old ones wide, a power of two; an odd last row or column
    is halved with itself."""
    while step > 1:
        odd = part.shape[0] % 2, part.shape[1] % 2
        even = cv2.copyMakeBorder(part, 0, odd[0], 0, odd[1], cv2.BORDER_REPLICATE) if any(odd) else part
        half = cv2.resize(even, (even.shape[1] // 2, even.shape[0] // 2), interpolation=cv2.INTER_AREA)
        part, step = half.astype(np.uint8, copy=False), step // 2
    return part


@dataclass(frozen=True, eq=False)
class Colours:
    """What red, green and blue are of y, u, v and 1: `matrix` (3, 4) float32, a decoder's own arithmetic."""

    matrix: NDArray[np.float32]

    @cached_property
    def black(self) -> tuple[float, float, float, float]:
        """y, u, v of black, and 0."""
        y, u, v = np.linalg.solve(self.matrix[:, :3].astype(float), -self.matrix[:, 3].astype(float))
        return float(y), float(u), float(v), 0.0


@dataclass(frozen=True, eq=False)
class Planes:
    """An upright picture in three planes; each of `u` and `v` has one number for a square of four pixels.

    y: (height, width) uint8. u, v: (height / 2, width / 2), rounded up.
    """

    y: Picture
    u: Picture
    v: Picture
    colours: Colours

    @property
    def shape(self) -> tuple[int, int, int]:
        """As the same picture in red, green and blue has it."""
        height, width = self.y.shape
        return height, width, 3

    @property
    def nbytes(self) -> int:
        return self.y.nbytes + self.u.nbytes + self.v.nbytes

    def part(self, top: int, bottom: int, left: int, right: int, step: int = 1) -> Picture:
        """(rows, columns, 4) uint8: y, u, v and anything, of a part that is not empty, `halved` by `step`."""
        y: Picture = halved(self.y[top:bottom, left:right], step)
        rows, columns = slice(top // 2, -(-bottom // 2)), slice(left // 2, -(-right // 2))
        u, v = self.u[rows, columns], self.v[rows, columns]
        if step > 1:
            u, v = halved(u, step // 2), halved(v, step // 2)
        else:
            u, v = (
                cv2.resize(each, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)[top % 2 :, left % 2 :][
                    : y.shape[0], : y.shape[1]
                ].astype(np.uint8, copy=False)
                for each in (u, v)
            )
        # Of views with gaps in memory OpenCV merges in small pieces, which takes ten times as long.
        y, u, v = (np.ascontiguousarray(each) for each in (y, u, v))
        return np.asarray(cv2.merge([y, u, v, v]), np.uint8)

    def rgb(self, part: Picture) -> Picture:
        """(rows, columns, 3) RGB of such a part, warped or not."""
        # OpenCV is twenty times as quick with three channels as with four.
        return np.asarray(cv2.transform(cv2.cvtColor(part, cv2.COLOR_RGBA2RGB), self.colours.matrix), np.uint8)

    def at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Picture:
        """(..., 3) RGB of single pixels."""
        halves = rows // 2, columns // 2
        samples = np.stack([self.y[rows, columns], self.u[halves], self.v[halves]], -1).astype(np.float32)
        colours = samples @ self.colours.matrix[:, :3].T + self.colours.matrix[:, 3]
        rounded: Picture = np.rint(colours).clip(0, 255).astype(np.uint8)
        return rounded

    def whole(self) -> Picture:
        """(height, width, 3) RGB."""
        height, width, _ = self.shape
        return self.rgb(self.part(0, height, 0, width))


AnyPicture = Picture | Planes


def as_array(picture: AnyPicture) -> Picture:
    """(height, width, 3) RGB; of planes made each time."""
    return picture.whole() if isinstance(picture, Planes) else picture
