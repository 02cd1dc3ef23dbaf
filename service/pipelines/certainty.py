"""How near a joint's place is likely to be to where a person would have put it, from what the detector's peaks say.

The height of a peak is no chance: an ear's says too much, a hip's too little. A logistic model for each kind of joint,
whose weights a detector's manifest holds, makes the `score` that is answered; `python -m training certainty` fits them.
Inside, the pipelines and the lifter go by the peaks. Pure; poses are COCO-17.
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


def logits(peaks: Array | Floats) -> Floats:
    """Of heights of peaks in 0..1, any shape."""
    kept = np.asarray(peaks, np.float64).clip(LEAST_PEAK, 1 - LEAST_PEAK)
    return np.asarray(np.log(kept / (1 - kept)))


@dataclass(frozen=True, eq=False)
class Certainty:
    """weights: (KINDS, 2), of the peak's logit and an offset."""

    weights: Floats

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Certainty | None:
        """From the table `certainty` of a detector's manifest, a pair of numbers for each kind of joint.

        Returns:
            None where the table is empty: the peaks stay the answer.

        Raises:
            ValueError: a kind lacks, is not known, or has no pair of numbers.
        """
        if not table:
            return None
        rows = [table.get(kind) for kind in KINDS]
        whole = all(isinstance(row, list) and len(row) == 2 for row in rows) and set(table) == set(KINDS)
        if not whole or not all(isinstance(number, int | float) for row in rows for number in row or ()):
            raise ValueError(
                f"`certainty` must have a pair of numbers for each of {', '.join(KINDS)}, got {dict(table)}"
            )
        return cls(np.array(rows, np.float64))

    def of(self, points: Array) -> Array:
        """A copy of points (..., 17, 3) with certainties in the place of their peaks' heights."""
        scored = np.array(points, np.float32)
        poses = scored.reshape(-1, 17, 3)
        slope, offset = self.weights[KIND_INDEX].T
        poses[..., 2] = 1 / (1 + np.exp(-(slope * logits(poses[..., 2]) + offset)))
        return scored
