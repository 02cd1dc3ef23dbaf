"""How far lifted joints are from true ones, the best alignment of one pose onto another, and a body's stature.

Joints are (..., joints, 3) in metres; errors come out in metres. Poses are made relative to joint 0 here, which counts
among the joints, as Human3.6M's protocols have it. Knows no data sets: splits and averages over actions are callers'.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

ANKLE_HEIGHT_M = 0.08
# The bones of a standing height: two legs, which count half each, and the trunk with the head.
_BEGINNINGS, _ENDS = [1, 2, 4, 5, 0, 7, 8, 9], [2, 3, 5, 6, 7, 8, 9, 10]
_SHARES = np.array([0.5, 0.5, 0.5, 0.5, 1, 1, 1, 1])
PCK_THRESHOLD_M = 0.150
AUC_THRESHOLDS_M: Floats = np.arange(31, dtype=np.float64) * 0.005  # 0 to 150 mm, MPI-INF-3DHP's


def mpjpe(predicted: ArrayLike, true: ArrayLike) -> float:
    """Mean distance of root-relative joints, over all poses and joints, metres (protocol 1)."""
    return float(_distances(_relative(predicted), _relative(true)).mean())


def p_mpjpe(predicted: ArrayLike, true: ArrayLike) -> float:
    """MPJPE after the best rotation, scale and shift of every pose, metres (protocol 2)."""
    return float(_distances(procrustes(predicted, true), np.asarray(true, np.float64)).mean())


def n_mpjpe(predicted: ArrayLike, true: ArrayLike) -> float:
    """MPJPE after the best scale of every root-relative pose, metres (Rhodin et al., CVPR 2018)."""
    found, wanted = _relative(predicted), _relative(true)
    scale = _ratio((found * wanted).sum(axis=(-1, -2)), (found**2).sum(axis=(-1, -2)))
    return float(_distances(found * scale[..., None, None], wanted).mean())


def mpjve(predicted: ArrayLike, true: ArrayLike) -> float:
    """Mean error of the joints' steps from frame to frame, metres a frame (Pavllo et al., CVPR 2019).

    Args:
        predicted, true: (..., frames, joints, 3) of sequences without cuts.

    Returns:
        NaN for a single frame, which has no steps.
    """
    found, wanted = np.diff(_relative(predicted), axis=-3), np.diff(_relative(true), axis=-3)
    return float(_distances(found, wanted).mean()) if found.size else float("nan")


def pck(
    predicted: ArrayLike, true: ArrayLike, threshold: float = PCK_THRESHOLD_M, joints: Sequence[int] | None = None
) -> float:
    """Share of root-relative joints nearer than `threshold` metres to the true ones.

    Args:
        joints: those that count; all by default (MPI-INF-3DHP counts 14, without pelvis, spine and head).
    """
    return float((_chosen_distances(predicted, true, joints) < threshold).mean())


def auc(predicted: ArrayLike, true: ArrayLike, joints: Sequence[int] | None = None) -> float:
    """Mean of `pck` over AUC_THRESHOLDS_M."""
    distances = _chosen_distances(predicted, true, joints)
    return float(np.mean([(distances < threshold).mean() for threshold in AUC_THRESHOLDS_M]))


def procrustes(predicted: ArrayLike, true: ArrayLike) -> Floats:
    """`predicted` after the rotation, scale and shift that bring each pose nearest to `true`, by least squares.

    Umeyama, 1991. Mirror images are not forgiven. A pose of one point lands on the middle of the true one.

    Args:
        predicted, true: (..., joints, 3), in any frame.
    """
    found, wanted = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    middle = wanted.mean(axis=-2, keepdims=True)
    found, wanted = found - found.mean(axis=-2, keepdims=True), wanted - middle
    left, stretch, right = np.linalg.svd(np.swapaxes(found, -1, -2) @ wanted)
    sign = np.ones_like(stretch)
    sign[..., -1] = np.where(np.linalg.det(left @ right) < 0, -1, 1)
    scale = _ratio((stretch * sign).sum(axis=-1), (found**2).sum(axis=(-1, -2)))
    turned = found @ (left * sign[..., None, :]) @ right
    aligned: Floats = scale[..., None, None] * turned + middle
    return aligned


def stature(joints3d: ArrayLike) -> float:
    """Standing height in metres of one person: the mean of `statures` over the leading dimensions."""
    return float(statures(joints3d).mean())


def statures(joints3d: ArrayLike) -> Floats:
    """Standing height in metres that each pose's bones add up to: legs (mean of both), trunk and head, and 8 cm below
    the ankles.

    Args:
        joints3d: (..., 17, 3) h36m17 in metres, in any pose.
    """
    joints = np.asarray(joints3d, np.float64)
    if joints.shape[-2:] != (17, 3):
        raise ValueError(f"`joints3d` must end in (17, 3), got {joints.shape}")
    bones = joints[..., _ENDS, :] - joints[..., _BEGINNINGS, :]
    heights: Floats = np.sqrt(np.einsum("...i,...i->...", bones, bones)) @ _SHARES + ANKLE_HEIGHT_M
    return heights


def _relative(joints: ArrayLike) -> Floats:
    given = np.asarray(joints, np.float64)
    return given - given[..., :1, :]


def _distances(a: Floats, b: Floats) -> Floats:
    distances: Floats = np.linalg.norm(a - b, axis=-1)
    return distances


def _chosen_distances(predicted: ArrayLike, true: ArrayLike, joints: Sequence[int] | None) -> Floats:
    distances = _distances(_relative(predicted), _relative(true))
    return distances if joints is None else distances[..., list(joints)]


def _ratio(above: Floats, below: Floats) -> Floats:
    """`above / below`, and 0 where a pose has no extent to scale."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
