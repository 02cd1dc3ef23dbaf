"""Takes: what a lifter's data set is made of, whichever it is, and windows cut from them for training and evaluation.

A take is one person before one camera: 2D points in pixels as a detector (or the projection) has them, and 3D joints in
the camera's axes in metres, relative to joint 0. Windows are edge-padded. Knows no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .joint_orders import mirror_of

Array = NDArray[np.float32]
Number = TypeVar("Number", bound=np.number[Any])


@dataclass(frozen=True, eq=False)
class Take:
    """points (frames, joints, 2) pixels, in `layout`; joints (frames, 17, 3) metres, joint 0 at nought; size (w, h).

    group: the action or scene that it is scored with. name: for messages. valid: frames that are scored.
    target_layout: the order of `joints`.
    """

    name: str
    group: str
    points: Array
    joints: Array
    size: tuple[int, int]
    layout: str = "h36m17"
    target_layout: str = "h36m17"
    valid: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if len(self.points) != len(self.joints):
            raise ValueError(f"{self.name}: {len(self.points)} frames of 2D for {len(self.joints)} of 3D")

    @property
    def scored(self) -> NDArray[np.intp]:
        """Indices of the frames that count."""
        return np.arange(len(self.joints)) if self.valid is None else np.flatnonzero(self.valid)


class TakeBatch(NamedTuple):
    """inputs (n, frames, joints, 2) normalised by width; targets (n, frames, 17, 3) metres, root-relative."""

    inputs: Array
    targets: Array


def normalised(points: NDArray[np.floating], size: tuple[int, int]) -> Array:
    """Pixels (..., 2) by VideoPose3D's rule: u = 2x / w - 1, v = 2y / w - h / w."""
    width, height = size
    moved: Array = (np.asarray(points, np.float64) * (2 / width) - np.array([1, height / width])).astype(np.float32)
    return moved


def denormalised(points: NDArray[np.floating], size: tuple[int, int]) -> Array:
    """The inverse of `normalised`."""
    width, height = size
    moved: Array = ((np.asarray(points, np.float64) + np.array([1, height / width])) * (width / 2)).astype(np.float32)
    return moved


def mirrored(inputs: Array, layout: str) -> Array:
    """Points or joints (..., joints, 2 or 3) around a vertical axis through nought: x turns, left and right change."""
    out: Array = inputs[..., mirror_of(layout), :].copy()
    out[..., 0] *= -1
    return out


def window(values: NDArray[Number], centre: int, frames: int) -> NDArray[Number]:
    """`frames` of `values` around one, ends repeated."""
    reach = frames // 2
    chosen: NDArray[Number] = values[np.arange(centre - reach, centre + reach + 1).clip(0, len(values) - 1)]
    return chosen


class TakeMaker:
    """Batches by number: every frame of every take, plain and mirrored, once an epoch, in an order of that epoch's.

    The order follows from the seed and the epoch, so a run that goes on from any step gets the batches it would have
    had. The last, short batch of an epoch is filled from its beginning.
    """

    def __init__(self, takes: Sequence[Take], frames: int, batch: int, seed: int) -> None:
        if not takes:
            raise ValueError("there is no take to train on")
        self.takes, self.frames, self.batch, self.seed = takes, frames, batch, seed
        scored = [take.scored for take in takes]
        of_take = np.repeat(np.arange(len(takes)), [len(frames) for frames in scored])
        self._rows = np.column_stack([of_take, np.concatenate(scored)])  # a take's number, a frame's
        self._inputs = [normalised(take.points, take.size) for take in takes]
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    @property
    def steps_per_epoch(self) -> int:
        return -(-2 * len(self._rows) // self.batch)

    def __call__(self, number: int) -> TakeBatch:
        epoch, step = divmod(number, self.steps_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self._epoch, self._order = epoch, rng.permutation(2 * len(self._rows))
        chosen = self._order.take(np.arange(step * self.batch, (step + 1) * self.batch), mode="wrap")
        inputs, targets = [], []
        for index in chosen:
            mirror, row = divmod(int(index), len(self._rows))
            number_of_take, frame = self._rows[row]
            take = self.takes[number_of_take]
            points = window(self._inputs[number_of_take], frame, self.frames)
            joints = window(take.joints, frame, self.frames)
            inputs.append(mirrored(points, take.layout) if mirror else points)
            targets.append(mirrored(joints, take.target_layout) if mirror else joints)
        return TakeBatch(np.stack(inputs), np.stack(targets))
