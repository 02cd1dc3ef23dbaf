"""The detector's framing for a device that cuts by itself: parts of photos go there, keypoints come back.

What is sent is the part of the photo that a crop is made of, halved as geometry/crops.py halves it, as bytes: at most a
crop's pixels over LEAST_SCALE squared. Frames as in torch_framing.py, which does the rest. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.geometry.crops import LEAST_SCALE, cut, part_for

from .framing import CropPose, CropRow, PoseFraming, TensorCropRow
from .torch_framing import BEGIN, LINE, PART_SIZE, PARTNER, TO_PART, TO_PICTURE

Pixels = NDArray[np.uint8]
Allocate = Callable[[int], Pixels]  # bytes to memory for so many


@dataclass(frozen=True, eq=False)
class Parts:
    """pixels: (bytes,) uint8, the parts one after the other; lines: (n, LINE) float64, one a crop.

    heatmaps: whether anybody wants them.
    """

    pixels: Pixels
    lines: NDArray[np.float64]
    heatmaps: bool

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, some: slice) -> Parts:
        """The crops of `some`, consecutive ones."""
        lines = self.lines[some].copy()
        if not len(lines):
            return Parts(self.pixels[:3], lines, self.heatmaps)
        first = int(lines[:, BEGIN].min())
        last = int((lines[:, BEGIN] + 3 * lines[:, PART_SIZE].prod(axis=1)).max())
        lines[:, BEGIN] -= first
        return Parts(self.pixels[first : max(last, first + 3)], lines, self.heatmaps)


def _plain(count: int) -> Pixels:
    return np.empty(count, np.uint8)


class PartsFraming(PoseFraming):
    """`PoseFraming` whose inputs are `Parts` and whose outputs are points.

    slot_bytes: the most that one crop's part has; what is larger, of a long thin picture, is cut here.
    """

    def __init__(self, preset: Mapping[str, Any], allocate: Allocate = _plain) -> None:
        """allocate: where the device likes its bytes."""
        super().__init__(preset)
        self._allocate = allocate
        sides = (math.ceil(side / LEAST_SCALE) + 8 for side in (self.width, self.height))
        self.slot_bytes = 3 * math.prod(sides)

    def inputs(self, rows: Sequence[CropRow | TensorCropRow]) -> Parts:  # type: ignore[override]
        parts: list[Pixels] = []
        of_part: list[NDArray[np.float64]] = []  # (2, 3) from the part's pixels to the crop's, from centres
        of_crop: list[NDArray[np.float64]] = []  # (2, 3) from the picture's pixels to the crop's, from the corner
        half: list[float] = []
        for row in rows:
            if isinstance(row, TensorCropRow):
                part, matrix, way, more = row.crop, np.eye(2, 3), np.eye(2, 3), 0.0
            else:
                crop = self.crop(row)
                part, matrix = part_for(row.picture, crop)
                if part.size > self.slot_bytes:
                    part, matrix = cut(row.picture, crop), np.eye(2, 3)
                way, more = crop.matrix, crop.half
            parts.append(part)
            of_part.append(matrix)
            of_crop.append(way)
            half.append(more)
        lines = np.zeros((len(rows), LINE))
        lines[:, TO_PART] = _inverse(of_part).reshape(-1, 6)
        back = _inverse(of_crop)
        back[:, :, 2] -= np.array(half)[:, None]
        lines[:, TO_PICTURE] = back.reshape(-1, 6)
        lines[:, PART_SIZE] = np.array([(part.shape[1], part.shape[0]) for part in parts]).reshape(-1, 2)
        ends = np.cumsum([0, *(part.size for part in parts)])
        lines[:, BEGIN] = ends[:-1]
        pixels = self._allocate(int(ends[-1]) + 3)  # one pixel more: a crop beside the picture reads one, times 0
        for part, begin, end in zip(parts, ends[:-1], ends[1:], strict=True):
            pixels[begin:end].reshape(part.shape)[...] = part
        heatmaps = any(isinstance(row, TensorCropRow) and row.heatmaps for row in rows)
        return Parts(pixels, self._with_mirrors(lines, rows), heatmaps)

    def _with_mirrors(self, lines: NDArray[np.float64], rows: Sequence[CropRow | TensorCropRow]) -> NDArray[np.float64]:
        """After the line of each crop that is tested by its mirror image, the image's own: columns counted back."""
        tested = np.array([row.cost == 2 for row in rows], bool)
        if not tested.any():
            return lines
        every = np.repeat(lines, 1 + tested, axis=0)
        second = np.flatnonzero(np.repeat(tested, 1 + tested))[1::2]
        every[second - 1, PARTNER] = 1
        across = every[second][:, [0, 3]]
        every[second[:, None], [2, 5]] += (self.width - 1) * across
        every[second[:, None], [0, 3]] = -across
        return every

    def answers(self, outputs: Sequence[NDArray[Any]], rows: Sequence[CropRow | TensorCropRow]) -> list[Any]:
        """As `PoseFraming` answers; outputs: points (n, 17, 3), and heatmaps (n, 17, h, w) if asked for."""
        first = np.cumsum([0, *(row.cost for row in rows)])[:-1]
        # Copies: a view would keep the whole batch's memory for as long as one caller's answer.
        points = outputs[0][first].copy()
        answers: list[Any] = []
        for n, row in enumerate(rows):
            if isinstance(row, TensorCropRow):
                answers.append(CropPose(points[n], outputs[1][first[n]].copy() if row.heatmaps else None))
            else:
                answers.append(points[n])
        return answers


def _inverse(matrices: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(n, 2, 3) affine maps backwards."""
    if not len(matrices):
        return np.zeros((0, 2, 3))
    given = np.stack(matrices)
    turn = np.linalg.inv(given[:, :, :2])
    return np.concatenate([turn, -(turn @ given[:, :, 2:])], axis=2)
