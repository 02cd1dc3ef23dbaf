"""3D figures by the data sets' protocols: Human3.6M by action, MPI-INF-3DHP by scene. Metres in, millimetres out.

The errors themselves are `service.geometry.alignment`'s; here stands what is averaged over what.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.geometry.alignment import auc, mpjpe, mpjve, n_mpjpe, p_mpjpe, pck

Array = NDArray[np.floating]

HUMAN36M_FIGURES = ("p1", "p2", "n", "velocity")
PCK_JOINTS = tuple(range(14))  # of MPI-INF-3DHP's test order, which ends with pelvis, spine and head
PELVIS_3DHP = 14


@dataclass(frozen=True, eq=False)
class Lifted:
    """One sequence: predicted and true (frames, joints, 3) metres, the root first; group: its action or scene."""

    group: str
    predicted: Array
    true: Array


def figures_by_action(sequences: Iterable[Lifted]) -> dict[str, dict[str, float]]:
    """MPJPE (`p1`), P-MPJPE (`p2`), N-MPJPE (`n`) in mm and MPJVE (`velocity`) in mm a frame, of every action.

    Every frame counts alike within an action, whichever sequence it is of; steps are within one sequence.
    """
    by_action: dict[str, list[Lifted]] = defaultdict(list)
    for sequence in sequences:
        if sequence.predicted.shape != sequence.true.shape:
            shapes = f"{sequence.predicted.shape} and {sequence.true.shape}"
            raise ValueError(f"`{sequence.group}`: predicted and true must have one shape, got {shapes}")
        by_action[sequence.group].append(sequence)
    figures = {}
    for action, parts in by_action.items():
        predicted = np.concatenate([part.predicted for part in parts])
        true = np.concatenate([part.true for part in parts])
        moving = [part for part in parts if len(part.true) > 1]
        steps = [len(part.true) - 1 for part in moving]
        speeds = [mpjve(part.predicted, part.true) for part in moving]
        velocity = float(np.average(speeds, weights=steps)) if steps else float("nan")
        errors = {"p1": mpjpe(predicted, true), "p2": p_mpjpe(predicted, true), "n": n_mpjpe(predicted, true)}
        figures[action] = {name: 1000 * value for name, value in {**errors, "velocity": velocity}.items()}
    return figures


def mean_of_actions(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The plain mean over actions, long or short: Human3.6M's one number of each figure."""
    return {name: float(np.mean([each[name] for each in figures.values()])) for name in HUMAN36M_FIGURES}


def figures_3dhp(sequences: Sequence[Lifted]) -> dict[str, float]:
    """PCK at 150 mm and AUC in percent over 14 joints, MPJPE in mm over all 17; every frame counts alike.

    Joints are in MPI-INF-3DHP's test order and made relative to its pelvis here, which comes 15th.
    """
    predicted = _around_pelvis(np.concatenate([sequence.predicted for sequence in sequences]))
    true = _around_pelvis(np.concatenate([sequence.true for sequence in sequences]))
    # alignment takes joint 0 off; the pelvis is put there, and the 14 others come behind it.
    joints = [1 + joint for joint in PCK_JOINTS]
    return {
        "pck": 100 * pck(predicted, true, joints=joints),
        "auc": 100 * auc(predicted, true, joints=joints),
        "mpjpe": 1000 * float(np.linalg.norm(predicted[:, 1:] - true[:, 1:], axis=-1).mean()),
    }


def _around_pelvis(joints: Array) -> Array:
    """(frames, 18, 3): a zero pelvis, then the 17 joints relative to the pelvis."""
    relative = joints - joints[:, PELVIS_3DHP : PELVIS_3DHP + 1]
    return np.concatenate([np.zeros_like(relative[:, :1]), relative], axis=1)
