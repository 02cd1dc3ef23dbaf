"""Joint orders of the data sets that the service does not speak: Human3.6M's 32, MPII's 16, MPI-INF-3DHP's 28 and 17.

Index tables alone; `service.geometry.skeletons` has those that come in by HTTP.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.geometry.skeletons import H36M17, Skeleton, mirror_order, to_h36m17

Floats = NDArray[np.float32]

# Of the 32 joints of a Human3.6M recording, those that move and are counted: the h36m17 order.
HUMAN36M_OF_32 = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)

MPII16 = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax", "upper_neck",
    "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip
# MPII's "thorax" is where Human3.6M has its spine joint, "upper neck" where it has the thorax. There is no joint 9.
_H36M_OF_MPII = {
    0: 6,
    1: 2,
    2: 1,
    3: 0,
    4: 3,
    5: 4,
    6: 5,
    7: 7,
    8: 8,
    10: 9,
    11: 13,
    12: 14,
    13: 15,
    14: 12,
    15: 11,
    16: 10,
}
MPII_PAIRS = ((3, 2), (4, 1), (5, 0), (13, 12), (14, 11), (15, 10))

# MPI-INF-3DHP: the test order of 17 out of the 28 recorded ones; what mirrors; and the h36m17 order out of the 17.
TEST_OF_28 = (7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6)
MIRROR_3DHP: NDArray[np.intp] = np.array([0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 14, 15, 16])
H36M_OF_3DHP = (14, 8, 9, 10, 11, 12, 13, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4)
ROOT_3DHP = 14
# The 14 joints that PCK and AUC count, in the h36m17 order: without pelvis, spine and head.
COUNTED_14 = tuple(H36M_OF_3DHP.index(joint) for joint in range(14))


def mpii_to_h36m17(points: NDArray[np.floating]) -> Floats:
    """(..., 16, 3) x, y, score in MPII's order to (..., 17, 3) in h36m17's.

    Joint 9 is made half way between thorax and head top; it has the lesser of the two scores. Unknown
    joints (NaN) stay unknown.
    """
    given = np.asarray(points, np.float32)
    if given.shape[-2:] != (16, 3):
        raise ValueError(f"MPII's points must end in (16, 3), got {given.shape}")
    out = np.empty((*given.shape[:-2], 17, 3), np.float32)
    for joint, source in _H36M_OF_MPII.items():
        out[..., joint, :] = given[..., source, :]
    out[..., 9, :2] = (out[..., 8, :2] + out[..., 10, :2]) / 2
    out[..., 9, 2] = np.minimum(out[..., 8, 2], out[..., 10, 2])
    return out


def h36m_of_3dhp(joints: NDArray[np.floating]) -> Floats:
    """(..., 17, d) in MPI-INF-3DHP's test order to h36m17's."""
    return np.asarray(joints[..., list(H36M_OF_3DHP), :], np.float32)


def h36m_of_coco(points: NDArray[np.floating]) -> Floats:
    """(..., 17, 3) COCO's to h36m17's, as the service makes them."""
    return to_h36m17(points, "coco17")


def mirror_of(layout: str) -> NDArray[np.intp]:
    """Indices that exchange left and right: of h36m17, coco17, mpii16 or 3dhp17."""
    from service.geometry.skeletons import COCO17

    named: dict[str, Skeleton] = {"h36m17": H36M17, "coco17": COCO17}
    if layout in named:
        return mirror_order(named[layout])
    if layout == "3dhp17":
        return MIRROR_3DHP
    if layout != "mpii16":
        raise ValueError(f"`layout` must be h36m17, coco17, mpii16 or 3dhp17, got {layout!r}")
    order = np.arange(16)
    for left, right in MPII_PAIRS:
        order[[left, right]] = right, left
    return order
