"""Bodies that no detector saw, as it would have seen them: its errors are borrowed from people in much the same pose.

A few thousand rendered people are soon learned by heart; bodies of whom only the joints are made come by the hundred
thousand (`training render --kind joints`). What a detector gets wrong depends on the pose more than on the picture, so
each of them borrows, whenever it is drawn, from those whose poses are much alike. Whoever lends must not be known
again by errors and scores, for then the lender's pose tells that of the borrower: there are hundreds of them, limbs may
have lenders of their own, and all is shaken a little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .lone import LoneFrames, read_lone_frames
from .windows import Dice, Windows

ALIKE = 0.02  # of all who may lend to a body
LIMBS = ((1, 2, 3), (4, 5, 6), (11, 12, 13), (14, 15, 16), (0, 7, 8, 9, 10))
OF_LIMBS = 0.5  # of the bodies borrow limb by limb
SHAKEN, SHAKEN_LOGIT = 0.25, 0.4  # spreads: of an error's size (its logarithm), of a score
AT_ONCE = 2048  # bodies that are compared with all of them


@dataclass(frozen=True, eq=False)
class Seen:
    """people: as a detector saw them. truths: (n, 17, 2) pixels, where their joints are."""

    people: LoneFrames
    truths: Tensor

    def with_mirrored(self) -> Seen:
        """All of them, and all of them in a mirror."""
        other = replace(self.people, points=torch.cat([self.truths, self.truths[..., :1]], -1)).mirrored()
        return Seen(self.people.joined(self.people.mirrored()), torch.cat([self.truths, other.points[..., :2]]))

    def errors(self) -> Tensor:
        """(n, 17, 3) x, y and score: how far off each joint is, in sizes of the person, and what it was given."""
        off = (self.people.points[..., :2] - self.truths) / _extents(self.truths)[:, None, None]
        return torch.cat([off, self.people.points[..., 2:]], -1)


class Borrowed:
    """bodies: their points are exact."""

    def __init__(self, bodies: LoneFrames, seen: Seen) -> None:
        both = seen.with_mirrored()
        known = both.truths.isfinite().flatten(1).all(1)
        self.bodies, self.errors = bodies, both.errors()[known]
        self.lenders = _most_alike(bodies.joints, both.people.joints[known])

    def __len__(self) -> int:
        return len(self.bodies)

    def draw(self, count: int, frames: int, seed: int, turned: float = 0.5) -> Windows:
        """Each a window of one frame repeated, as `LoneFrames.draw` makes them."""
        dice = Dice(seed, torch.device("cpu"))
        which = dice.below(len(self), count)
        drawn, errors = self.bodies.some(which), self._borrow(which, dice)
        places = drawn.points[..., :2]
        points = torch.cat([places + errors[..., :2] * _extents(places)[:, None, None], errors[..., 2:]], -1)
        return replace(drawn, points=points).varied(dice, turned).windows(frames)

    def _borrow(self, which: Tensor, dice: Dice) -> Tensor:
        """(k, 17, 3) errors and scores for these bodies (k,)."""
        count, many = len(which), self.lenders.shape[1]
        alone = dice.chance(OF_LIMBS, count)
        one = self.lenders[which, dice.below(many, count)]
        errors = self.errors[one]
        for limb in LIMBS:
            other = self.lenders[which, dice.below(many, count)]
            joints = torch.tensor(limb)
            errors[:, joints] = self.errors[torch.where(alone, other, one)][:, joints]
        errors[..., :2] *= torch.exp(SHAKEN * dice.normal(count, 17, 1))
        scores = errors[..., 2].clamp(0.01, 0.99).logit() + SHAKEN_LOGIT * dice.normal(count, 17)
        known = errors[..., 0].isfinite()
        errors[..., 2] = torch.where(known, scores.sigmoid(), 0.0)
        return errors


def _extents(places: Tensor) -> Tensor:
    """(n,) root mean square distance of the joints (n, 17, 2) from their middle, a pixel at least."""
    extents: Tensor = (places - places.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt().clamp(min=1)
    return extents


def _most_alike(bodies: Tensor, people: Tensor) -> Tensor:
    """For each body the people whose joints, as their cameras see them, lie nearest to its own: (n, ALIKE of them)."""
    lenders = math.ceil(ALIKE * len(people))
    flat = people.flatten(1)
    parts = torch.split(bodies.flatten(1), AT_ONCE)
    return torch.cat([torch.cdist(part, flat).topk(lenders, largest=False).indices.int() for part in parts])


def read_seen(file: Path) -> Seen:
    """What `training detect photos` wrote, with the truth beside it.

    Raises:
        ValueError: it is no such file, or an older one, without the truth.
    """
    people = read_lone_frames(file)
    with np.load(file, allow_pickle=False) as arrays:
        if "truths" not in arrays.files:
            raise ValueError(f"{file} lacks truths: an earlier `training detect photos` wrote it")
        return Seen(people, torch.from_numpy(arrays["truths"].astype(np.float32)))
