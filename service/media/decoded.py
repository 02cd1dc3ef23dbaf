"""A decoded frame as the planes it came in, where they are of the usual kind, and else nothing. No conversion.

What red, green and blue are of the planes' numbers is not looked up but asked: the converter itself is shown patches.
"""

from __future__ import annotations

import itertools

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from service.geometry.planes import Colours, Picture, Planes

from .pictures import upright

FORMATS = ("yuv420p", "yuvj420p")
PATCH_PX = 8
LIGHT, TINT = range(70, 185, 6), range(104, 153, 6)  # y, and u and v: nothing of it is cut off at 0 or 255
MOST_ERROR = 2.0  # levels by which the converter may differ from sums of the planes: it rounds down, by tables


class PlanesOf:
    """Makes `Planes` of one stream's frames, which share their size."""

    def __init__(self, reformatter: VideoReformatter) -> None:
        self._reformatter = reformatter
        self._colours: dict[tuple[str, int, int], Colours | None] = {}

    def __call__(self, frame: av.VideoFrame, orientation: int) -> Planes | None:
        """The frame upright (EXIF's number), in the decoder's own memory where it stands so; None for other kinds."""
        even = frame.width % 2 == frame.height % 2 == 0
        # Squares of four pixels, turned about an odd side, would be other squares.
        if frame.format.name not in FORMATS or not (orientation == 1 or even):
            return None
        if any(plane.line_size < plane.width for plane in frame.planes):  # lies upside down
            return None
        kind = (frame.format.name, int(frame.colorspace), int(frame.color_range))
        if kind not in self._colours:
            self._colours[kind] = _asked(frame, self._reformatter)
        colours = self._colours[kind]
        if colours is None:
            return None
        y, u, v = (upright(_rows(plane), orientation) for plane in frame.planes)
        return Planes(y, u, v, colours)


def _rows(plane: av.video.plane.VideoPlane) -> Picture:
    rows: Picture = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def _asked(like: av.VideoFrame, reformatter: VideoReformatter) -> Colours | None:
    """What red, green and blue are of y, u and v in frames like this one; None where they are no such sums."""
    patches = np.array(list(itertools.product(LIGHT, TINT, TINT)), np.uint8)
    shown = av.VideoFrame(len(patches) * PATCH_PX, PATCH_PX, like.format.name)
    shown.colorspace, shown.color_range, shown.color_trc = like.colorspace, like.color_range, like.color_trc
    for plane, values in zip(shown.planes, patches.T, strict=True):
        line = np.repeat(values, plane.width // len(patches))
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = line
        plane.update(rows.tobytes())
    rgb = reformatter.reformat(shown, format="rgb24", threads=1).to_ndarray()
    answers = rgb[PATCH_PX // 2, PATCH_PX // 2 :: PATCH_PX].astype(float)
    given = np.column_stack([patches, np.ones(len(patches))])
    colours = np.linalg.lstsq(given, answers, rcond=None)[0]
    if np.abs(given @ colours - answers).max() > MOST_ERROR:
        return None
    return Colours(colours.T.astype(np.float32))
