"""The chance that a found person is there, from the finder's score and from what the pose says of the box.

A logistic model whose weights a finder's manifest holds; `python -m training calibrate` fits them. Pure; training reads
its figures by the same function. Pixels of one picture; poses are COCO-17.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.geometry.boxes import iou

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

# What the chance is computed from: the finder's logit, the joints' mean score, and how well the joints that are seen
# fill the box (0..1).
FIGURES = ("finder", "joints", "extent")

SURE_SCORE = 0.3  # of a joint that the detector sees
LEAST_SURE = 3  # joints that span a box
# Of the finder's boxes one in ten has a pose whose joints' mean score is higher, and one in ten a pose that fills it
# better; both at once, at a low score of the finder, are rare.
SURE_POSE = 0.6
# The least chance that a caller can ask for, who then gets every box: no chance is less, and their order is kept.
FLOOR = 0.01


def figures(boxes: Array, scores: Array, points: Array) -> Floats:
    """(n, FIGURES) of the people in boxes (n, 4), with the finder's scores (n,) in 0..1 and poses (n, 17, 3)."""
    chance = np.asarray(scores, np.float64).clip(1e-4, 1 - 1e-4)
    joints = np.asarray(points, np.float64)[..., 2].reshape(-1, 17)
    return np.column_stack([np.log(chance / (1 - chance)), joints.mean(1), _extents(boxes, points)])


def _extents(boxes: Array, points: Array) -> Floats:
    """(n,) overlap of each box with the one around the joints that are seen; 0 where these are too few."""
    given = np.asarray(points, np.float64).reshape(-1, 17, 3)
    seen = (given[..., 2] > SURE_SCORE)[..., None]
    low = np.where(seen, given[..., :2], np.inf).min(1)
    high = np.where(seen, given[..., :2], -np.inf).max(1)
    enough = seen[..., 0].sum(1) >= LEAST_SURE
    spans = np.zeros((len(given), 4))
    spans[enough] = np.concatenate([low, high - low], 1)[enough]
    overlap = [iou(box[None], span[None])[0, 0] for box, span in zip(boxes, spans, strict=True)]
    return np.array(overlap, np.float64)


@dataclass(frozen=True)
class Presence:
    """The logistic model over FLOOR. weights: by the names of FIGURES; offset: of the logit."""

    weights: Mapping[str, float]
    offset: float

    @classmethod
    def read(cls, tables: Mapping[str, Any], pose: str) -> Presence | None:
        """What was fitted for the detector `pose` (name@version), from the table `presence` of a finder's manifest.

        Returns:
            None where nothing was: the finder's own score stays the answer.

        Raises:
            ValueError: it lacks `offset` or a weight, or has one that is not known.
        """
        if pose not in tables:
            return None
        weights = tables[pose].get("weights", {})
        if "offset" not in tables[pose] or set(weights) != set(FIGURES):
            wanted = f"`offset` and `weights` of {', '.join(FIGURES)}"
            raise ValueError(f"`presence` of {pose} must have {wanted}, got {tables[pose]}")
        return cls({name: float(weights[name]) for name in FIGURES}, float(tables[pose]["offset"]))

    def of(self, known: Floats) -> Floats:
        """(n,) chances, FLOOR to 1, of (n, FIGURES)."""
        logits = known @ np.array([self.weights[name] for name in FIGURES]) + self.offset
        chances: Floats = FLOOR + (1 - FLOOR) / (1 + np.exp(-logits))
        return chances

    def chances(self, boxes: Array, scores: Array, points: Array) -> Array:
        """(n,) chances in 0..1; arguments as `figures` takes them."""
        return self.of(figures(boxes, scores, points)).astype(np.float32)

    def least_score(self, chance: float) -> float:
        """The finder's score under which not even a sure pose makes that chance, so that none is computed."""
        best = SURE_POSE * sum(max(self.weights[name], 0.0) for name in FIGURES[1:])
        wanted = np.clip((chance - FLOOR) / (1 - FLOOR), 1e-9, 1 - 1e-9)
        logit = (np.log(wanted / (1 - wanted)) - self.offset - best) / max(self.weights["finder"], 1e-9)
        return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))
