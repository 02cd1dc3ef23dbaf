"""Sequences as windows of the lifter: which frames each window sees, and which of them it answers. Pure.

A sequence of up to F frames is one window, its ends repeated; a longer one is windows at a stride, and every frame is
answered by all windows that hold it, most of all by the one in which it lies most central.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """indices: (windows, F) frame of the sequence at each place; owner, place: (frames,) where each lies most central.

    overlap: whether a frame is answered by all windows that hold it, not by its owner alone.
    """

    indices: NDArray[np.intp]
    owner: NDArray[np.intp]
    place: NDArray[np.intp]
    overlap: bool = False

    def joined(self, answers: Sequence[Array]) -> Array:
        """Each frame's answer (frames, ...) out of those of the windows (F, ...).

        Of several the mean, weighted by how central the frame lies: the same windows at no cost give 0.2 mm less, and a
        motion that does not jump where one window hands over to the next (an eighth less MPJVE; docs/training.md).
        """
        if len(answers) == 1 and len(self.owner) == len(answers[0]):
            return answers[0]
        if not self.overlap:
            return np.stack(answers)[self.owner, self.place]
        frames = len(answers[0])
        weights = np.asarray(frames // 2 + 1 - np.abs(np.arange(frames) - frames // 2), np.float32)
        total: Array = np.zeros((len(self.owner), *answers[0].shape[1:]), np.float32)
        weight: Array = np.zeros(len(self.owner), np.float32)
        of_each = weights.reshape(-1, *[1] * (total.ndim - 1))
        for (first, *_), answer in zip(self.indices.tolist(), answers, strict=True):
            total[first : first + frames] += of_each * answer
            weight[first : first + frames] += weights
        total /= weight.reshape(-1, *[1] * (total.ndim - 1))
        return total


@lru_cache(maxsize=64)  # most callers send sequences of one and the same length
def plan_windows(count: int, frames: int, stride: int) -> Plan:
    """How a sequence of `count` frames meets a lifter of `frames` (odd), a new window every `stride` or sooner."""
    every = np.arange(count)
    if count <= frames:
        before = (frames - count) // 2
        indices = np.clip(np.arange(frames) - before, 0, count - 1)[None]
        return Plan(indices, np.zeros(count, np.intp), every + before)
    starts = np.append(np.arange(0, count - frames, min(stride, frames)), count - frames)
    centres = starts + frames // 2
    owner = np.searchsorted((centres[:-1] + centres[1:]) / 2, every)
    return Plan(starts[:, None] + np.arange(frames), owner, every - starts[owner], overlap=True)


def plan_centres(count: int, frames: int) -> Plan:
    """A window a frame, ends repeated: for a lifter that answers only the centre of its `frames` (odd)."""
    every = np.arange(count)
    indices = np.clip(every[:, None] + np.arange(frames) - frames // 2, 0, count - 1)
    return Plan(indices, every, np.full(count, frames // 2))


def uniform_times(times: NDArray[np.float64], slowest: float, fastest: float) -> NDArray[np.float64] | None:
    """The times to resample to, or None where the sequence may stay as it is.

    The lifter has learned rates between `slowest` and `fastest` frames a second. Other rates, and frames that do not
    come evenly (by more than a third of their distance), are put on an even grid within that range.
    """
    if len(times) < 2:
        return None
    steps = np.sort(times[1:] - times[:-1]).tolist()
    least, most = steps[0], steps[-1]
    step = (steps[(len(steps) - 1) // 2] + steps[len(steps) // 2]) / 2  # their median
    even = max(most - step, step - least) <= step / 3
    # A thousandth over: 60 a second in floating point is now and then a little more.
    if even and slowest <= 1.001 / step and 0.999 / step <= fastest:
        return None
    wanted = float(np.clip(step, 1 / fastest, 1 / slowest))
    count = max(2, round((times[-1] - times[0]) / wanted) + 1)
    return np.linspace(times[0], times[-1], count)


def newest_window(times: NDArray[np.float64], frames: int, slowest: float, fastest: float) -> int:
    """From where on a sequence is one window of `frames`: of frames that came unevenly, fewer than `frames` of them.

    What was dropped leaves gaps, which the even grid fills: more windows, so more work, just where there is too much.
    """
    first = max(0, len(times) - frames)
    while (grid := uniform_times(times[first:], slowest, fastest)) is not None and len(grid) > frames:
        reach = times[-1] - (frames - 1) * (grid[1] - grid[0])
        # A thousandth less: the window's first frame itself is one of it.
        first = max(first + 1, int(np.searchsorted(times, reach - 0.001 * (grid[1] - grid[0]))))
    return first


def resample(values: NDArray[np.floating], times: NDArray[np.float64], wanted: NDArray[np.float64]) -> Array:
    """Values (frames, ...) at `times`, linearly at `wanted`; a number that is NaN at either neighbour stays NaN."""
    after = np.clip(np.searchsorted(times, wanted, side="left"), 1, len(times) - 1)
    before = after - 1
    part = ((wanted - times[before]) / (times[after] - times[before])).clip(0, 1)
    part = part.reshape(-1, *[1] * (values.ndim - 1))
    low, high = values[before], values[after]
    # On a neighbour itself, or within rounding of it, only that one counts, known or not.
    mixed = np.where(part < 1e-6, low, np.where(part > 1 - 1e-6, high, low * (1 - part) + high * part))
    return mixed.astype(np.float32)
