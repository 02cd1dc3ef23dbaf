"""The five skeletons that come in or go out, and the one way from each of them to COCO-17 and the lifter's 17 joints.

Points are (..., joints, 3): x and y in any one plane frame (pixels, crop pixels), score 0..1. An unknown joint is
(NaN, NaN, 0). Knows no pictures and no networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.errors import OutOfRange

Points = NDArray[np.float32]

UNKNOWN: Points = np.array([np.nan, np.nan, 0.0], np.float32)

# An ear under this score counts as unseen. It is the score from which the COCO evaluation code of HRNet counts a
# keypoint; the detector answers all 17 joints, so a hidden ear does come with a position, and often a wild one.
LEAST_EAR_SCORE = 0.2


@dataclass(frozen=True)
class Skeleton:
    """A layout of joints.

    joints: their names; left and right are the person's own.
    edges: the bones to draw, as pairs of indices.
    pairs: (left, right) indices of the joints that a mirror swaps.
    parents: index of the joint above each, -1 where there is none; every (parent, joint) is an edge.
    """

    name: str
    joints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    pairs: tuple[tuple[int, int], ...]
    parents: tuple[int, ...]


def _grow(name: str, bones: str, extra_edges: str = "") -> Skeleton:
    """Builds a skeleton from "joint<parent" words, in the owner's order of joints; a word without parent is a root."""
    words = [bone.partition("<")[::2] for bone in bones.split()]
    joints = tuple(joint for joint, _ in words)
    index = {joint: i for i, joint in enumerate(joints)}
    parents = tuple(index[parent] if parent else -1 for _, parent in words)
    bone_edges = [(parent, joint) for joint, parent in enumerate(parents) if parent >= 0]
    more = [(index[a], index[b]) for a, b in (edge.split("-") for edge in extra_edges.split())]
    pairs = tuple((i, index[f"right_{joint[5:]}"]) for i, joint in enumerate(joints) if joint.startswith("left_"))
    return Skeleton(name, joints, tuple(bone_edges + more), pairs, parents)


COCO17 = _grow(
    "coco17",
    "nose left_eye<nose right_eye<nose left_ear<left_eye right_ear<right_eye left_shoulder<left_ear "
    "right_shoulder<right_ear left_elbow<left_shoulder right_elbow<right_shoulder left_wrist<left_elbow "
    "right_wrist<right_elbow left_hip<left_shoulder right_hip<right_shoulder left_knee<left_hip right_knee<right_hip "
    "left_ankle<left_knee right_ankle<right_knee",
    "left_eye-right_eye left_shoulder-right_shoulder left_hip-right_hip",
)
# Joint 9 ("head") is the point half way from the neck to the head's top, without forward shift.
H36M17 = _grow(
    "h36m17",
    "pelvis right_hip<pelvis right_knee<right_hip right_ankle<right_knee left_hip<pelvis left_knee<left_hip "
    "left_ankle<left_knee spine<pelvis thorax<spine head<thorax head_top<head left_shoulder<thorax "
    "left_elbow<left_shoulder left_wrist<left_elbow right_shoulder<thorax right_elbow<right_shoulder "
    "right_wrist<right_elbow",
)
HALPE26 = _grow(
    "halpe26",
    "nose<neck left_eye<nose right_eye<nose left_ear<left_eye right_ear<right_eye left_shoulder<neck "
    "right_shoulder<neck left_elbow<left_shoulder right_elbow<right_shoulder left_wrist<left_elbow "
    "right_wrist<right_elbow left_hip<hip right_hip<hip left_knee<left_hip right_knee<right_hip left_ankle<left_knee "
    "right_ankle<right_knee head<neck neck<hip hip left_big_toe<left_ankle right_big_toe<right_ankle "
    "left_small_toe<left_ankle right_small_toe<right_ankle left_heel<left_ankle right_heel<right_ankle",
)
BODY25 = _grow(
    "body25",
    "nose<neck neck<mid_hip right_shoulder<neck right_elbow<right_shoulder right_wrist<right_elbow left_shoulder<neck "
    "left_elbow<left_shoulder left_wrist<left_elbow mid_hip right_hip<mid_hip right_knee<right_hip "
    "right_ankle<right_knee left_hip<mid_hip left_knee<left_hip left_ankle<left_knee right_eye<nose left_eye<nose "
    "right_ear<right_eye left_ear<left_eye left_big_toe<left_ankle left_small_toe<left_big_toe left_heel<left_ankle "
    "right_big_toe<right_ankle right_small_toe<right_big_toe right_heel<right_ankle",
)
MEDIAPIPE33 = _grow(
    "mediapipe33",
    "nose left_eye_inner<nose left_eye<left_eye_inner left_eye_outer<left_eye right_eye_inner<nose "
    "right_eye<right_eye_inner right_eye_outer<right_eye left_ear<left_eye_outer right_ear<right_eye_outer "
    "left_mouth right_mouth left_shoulder right_shoulder left_elbow<left_shoulder right_elbow<right_shoulder "
    "left_wrist<left_elbow right_wrist<right_elbow left_pinky<left_wrist right_pinky<right_wrist "
    "left_index<left_wrist right_index<right_wrist left_thumb<left_wrist right_thumb<right_wrist "
    "left_hip<left_shoulder right_hip<right_shoulder left_knee<left_hip right_knee<right_hip left_ankle<left_knee "
    "right_ankle<right_knee left_heel<left_ankle right_heel<right_ankle left_foot_index<left_heel "
    "right_foot_index<right_heel",
    "left_mouth-right_mouth left_shoulder-right_shoulder left_hip-right_hip left_pinky-left_index "
    "right_pinky-right_index left_ankle-left_foot_index right_ankle-right_foot_index",
)
SKELETONS: dict[str, Skeleton] = {each.name: each for each in (COCO17, H36M17, HALPE26, BODY25, MEDIAPIPE33)}


def skeleton_named(name: str) -> Skeleton:
    """The skeleton of that name; OutOfRange names those that there are."""
    if name not in SKELETONS:
        known = list(SKELETONS)
        raise OutOfRange(f"`skeleton` must be one of {', '.join(known)}; got {name!r}", field="skeleton", limit=known)
    return SKELETONS[name]


def mirror_order(skeleton: Skeleton) -> NDArray[np.intp]:
    """(joints,) indices: `points[..., order, :]` has left and right swapped. Twice is the identity."""
    order = np.arange(len(skeleton.joints))
    for left, right in skeleton.pairs:
        order[[left, right]] = right, left
    return order


def mirror_points(points: Points, skeleton: Skeleton, width: float) -> Points:
    """Points (..., joints, 3) as the mirror image of a picture of that width shows them, left and right exchanged.

    Twice is the identity. Unknown joints stay unknown.
    """
    exchanged = points[..., mirror_order(skeleton), :]
    return np.concatenate([width - exchanged[..., :1], exchanged[..., 1:]], axis=-1).astype(np.float32, copy=False)


def to_coco17(points: ArrayLike, skeleton_name: str) -> Points:
    """The 17 joints of COCO, by name; those that the skeleton lacks (h36m17 has no face) are unknown.

    Args:
        points: (..., joints, 3), x, y and score, in the order of `skeleton_name`.

    Returns:
        (..., 17, 3) float32, a new array.
    """
    skeleton, given = _known(points, skeleton_name)
    if skeleton is COCO17:
        return given
    to, source = _SHARED[skeleton_name]
    joints = np.full((*given.shape[:-2], 17, 3), UNKNOWN)
    joints[..., to, :] = given[..., source, :]
    return joints


# Of those that `to_h36m17` makes, the ones that do not lie where Human3.6M's own do: spine, head, head top.
MADE_JOINTS = (7, 9, 10)
_PELVIS, _SPINE, _THORAX, _HEAD, _HEAD_TOP = map(H36M17.joints.index, ("pelvis", *H36M17.joints[7:11]))


def to_h36m17(points: ArrayLike, skeleton_name: str) -> Points:
    """The 17 joints that the lifter reads. Every skeleton goes through COCO-17, but h36m17, which passes as given.

    Limbs and hips are taken as they are. Pelvis: middle of the hips; thorax: of the shoulders; spine: of these two;
    head: of the ears, or the one that is seen; head top: as far beyond the head as the thorax lies before it. A made
    joint has the least score of its sources, and is unknown where one of them is.

    Args:
        points: (..., joints, 3), x, y and score, in the order of `skeleton_name`.

    Returns:
        (..., 17, 3) float32, a new array.
    """
    if skeleton_name == H36M17.name:
        return _known(points, skeleton_name)[1]
    coco = to_coco17(points, skeleton_name)
    joints = np.empty_like(coco)
    to, source = _LIMBS
    joints[..., to, :] = coco[..., source, :]
    left, right = coco[..., _LEFT, :], coco[..., _RIGHT, :]
    middles = _middle(left, right)
    pelvis, thorax, head = (middles[..., n, :] for n in range(3))
    sees_left, sees_right = left[..., 2, 2:] >= LEAST_EAR_SCORE, right[..., 2, 2:] >= LEAST_EAR_SCORE
    if not (both := sees_left & sees_right).all():
        alone = np.where(sees_left, left[..., 2, :], np.where(sees_right, right[..., 2, :], UNKNOWN))
        head = np.where(both, head, alone)
    joints[..., _PELVIS, :], joints[..., _THORAX, :], joints[..., _HEAD, :] = pelvis, thorax, head
    joints[..., _SPINE, :] = _middle(pelvis, thorax)
    joints[..., _HEAD_TOP, :2] = 2 * head[..., :2] - thorax[..., :2]
    joints[..., _HEAD_TOP, 2] = np.minimum(head[..., 2], thorax[..., 2])
    return _forget_unknown(joints)


def _shared(to: Skeleton, source: Skeleton) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where the joints that both know lie, in the one and in the other."""
    here = [(i, source.joints.index(joint)) for i, joint in enumerate(to.joints) if joint in source.joints]
    places = np.array(here, np.intp).reshape(-1, 2)
    return places[:, 0], places[:, 1]


_SHARED = {name: _shared(COCO17, skeleton) for name, skeleton in SKELETONS.items()}
_LIMBS = _shared(H36M17, COCO17)
_LEFT, _RIGHT = (
    [COCO17.joints.index(f"{side}_{part}") for part in ("hip", "shoulder", "ear")] for side in ("left", "right")
)


def _known(points: ArrayLike, skeleton_name: str) -> tuple[Skeleton, Points]:
    """The skeleton, and the points as an array of its own."""
    skeleton = skeleton_named(skeleton_name)
    given = np.asarray(points, np.float32)
    wanted = (len(skeleton.joints), 3)
    if given.shape[-2:] != wanted:
        raise OutOfRange(
            f"`keypoints` must end in {wanted} (joints of {skeleton_name}; x, y, score), got the shape {given.shape}",
            field="keypoints",
            limit=list(wanted),
        )
    return skeleton, _forget_unknown(given)


def _forget_unknown(points: Points) -> Points:
    """A copy in which a joint with any number missing is (NaN, NaN, 0)."""
    finite = np.isfinite(points)
    return points.copy() if finite.all() else np.where(finite.all(axis=-1, keepdims=True), points, UNKNOWN)


def _middle(a: Points, b: Points) -> Points:
    middle: Points = a + b
    middle *= 0.5
    np.minimum(a[..., 2], b[..., 2], out=middle[..., 2])
    return middle
