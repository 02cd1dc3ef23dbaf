"""Bodies that no detector saw, as it would have seen them: its errors are borrowed from people in much the same pose.

A few thousand rendered people are soon learned by heart; bodies of whom only the joints are made come by the hundred
thousand (`training render --kind joints`). What a detector gets wrong depends on the pose more than on the picture, so
each of them borrows, whenever it is drawn, from one of those whose poses are the most alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .lone import LoneFrames, read_lone_frames
from .windows import Dice, Windows

ALIKE = 12  # people of whom one lends
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
        lenders = self.lenders[which, dice.below(self.lenders.shape[1], count)]
        drawn = self.bodies.some(which)
        errors = self.errors[lenders]
        places = drawn.points[..., :2]
        points = torch.cat([places + errors[..., :2] * _extents(places)[:, None, None], errors[..., 2:]], -1)
        return replace(drawn, points=points).varied(dice, turned).windows(frames)


def _extents(places: Tensor) -> Tensor:
    """(n,) root mean square distance of the joints (n, 17, 2) from their middle, a pixel at least."""
    extents: Tensor = (places - places.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt().clamp(min=1)
    return extents


def _most_alike(bodies: Tensor, people: Tensor) -> Tensor:
    """(n, ALIKE) for each body the people whose joints, as their cameras see them, lie nearest to its own."""
    lenders = min(ALIKE, len(people))
    flat = people.flatten(1)
    parts = torch.split(bodies.flatten(1), AT_ONCE)
    return torch.cat([torch.cdist(part, flat).topk(lenders, largest=False).indices for part in parts])


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
