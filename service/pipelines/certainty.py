"""How near a joint's place is likely to be to where a person would have put it, from what the detector's peaks say.

The height of a peak is no chance: an ear's says too much, a hip's too little, and any joint's too much in a pose that
is unsure as a whole, of somebody small, or in a box as wide as high, where somebody is cut or covered. A logistic
model for each kind of joint, whose weights a detector's manifest holds, makes the `score` that is answered; `python
-m training certainty` fits them. Inside, the pipelines and the lifter go by the peaks. Pure; poses are COCO-17, boxes
x, y, width, height.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.geometry.skeletons import SKELETONS

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

# Left and right are one kind, so that a mirrored picture gets the same scores.
_KIND_OF = [name.removeprefix("left_").removeprefix("right_") for name in SKELETONS["coco17"].joints]
KINDS = tuple(dict.fromkeys(_KIND_OF))
KIND_INDEX = np.array([KINDS.index(kind) for kind in _KIND_OF])
LEAST_PEAK = 1e-3  # heights are kept this far from 0 and 1, where a logit ends

# What a joint's score is computed from: its peak's logit, the mean of its pose's, the logarithm of the box's side in
# pixels (root of its area) over SIDE, and the squared logarithm of its width over its height.
FIGURES = ("peak", "pose", "side", "shape")
SIDE = 150.0


def logits(peaks: Array | Floats) -> Floats:
    """Of heights of peaks in 0..1, any shape."""
    kept = np.asarray(peaks, np.float64).clip(LEAST_PEAK, 1 - LEAST_PEAK)
    return np.asarray(np.log(kept / (1 - kept)))


def figures(points: Array | Floats, boxes: Array | Floats) -> Floats:
    """(..., 17, FIGURES) of poses (..., 17, 3) in boxes (..., 4); joints that are not known (NaN) count for nothing."""
    given = np.asarray(points, np.float64)
    peaks = logits(given[..., 2])
    known = np.isfinite(peaks)
    pose = np.where(known, peaks, 0).sum(-1) / np.maximum(known.sum(-1), 1)
    width, height = np.moveaxis(np.asarray(boxes, np.float64)[..., 2:].clip(1, None), -1, 0)
    of_pose = np.stack([pose, np.log(width * height) / 2 - np.log(SIDE), np.square(np.log(width / height))], -1)
    return np.concatenate([peaks[..., None], np.repeat(of_pose[..., None, :], given.shape[-2], -2)], -1)


@dataclass(frozen=True, eq=False)
class Certainty:
    """weights: (KINDS, FIGURES + 1), those of the figures and an offset."""

    weights: Floats

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Certainty | None:
        """From the table `certainty` of a detector's manifest, so many numbers for each kind of joint.

        Returns:
            None where the table is empty: the peaks stay the answer.

        Raises:
            ValueError: a kind lacks, is not known, or has other than so many numbers.
        """
        if not table:
            return None
        count = len(FIGURES) + 1
        rows = [table.get(kind) for kind in KINDS]
        whole = all(isinstance(row, list) and len(row) == count for row in rows) and set(table) == set(KINDS)
        if not whole or not all(isinstance(number, int | float) for row in rows for number in row or ()):
            raise ValueError(
                f"`certainty` must have {count} numbers ({', '.join(FIGURES)}, offset) for each of {', '.join(KINDS)}, "
                f"got {dict(table)}"
            )
        return cls(np.array(rows, np.float64))

    def of(self, points: Array, boxes: Array) -> Array:
        """A copy of points (..., 17, 3) with certainties in the place of their peaks' heights. boxes: (..., 4)."""
        scored = np.array(points, np.float32)
        scored[..., 2] = self.scores(figures(scored, boxes))
        return scored

    def scores(self, known: Floats) -> Floats:
        """(..., 17) of (..., 17, FIGURES), 0 to 1."""
        weights = self.weights[KIND_INDEX]
        scores: Floats = 1 / (1 + np.exp(-((known * weights[:, :-1]).sum(-1) + weights[:, -1])))
        return scores
