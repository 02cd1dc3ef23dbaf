"""Boxes of people, and which of them are one person.

Boxes are (n, 4) x, y, width, height unless a name says corners (x1, y1, x2, y2); all in pixels of one picture. Points
are (..., 17, 3) x, y in the same pixels, score 0..1; an unknown joint is (NaN, NaN, 0).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]

# COCO's per-joint spread of human labels, as a share of the person's size (square root of the segment's area).
COCO_SIGMAS: Floats = np.array(
    [.026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107, .087, .087, .089, .089],
    np.float32,
)  # fmt: skip
_SPREADS = np.square(2 * COCO_SIGMAS)
_LEAST_AREA = np.finfo(np.float32).eps
# COCO's OKS divides by the area of the person's segment, and a found person has only a box. 0.53 of the box is what
# OpenMMLab takes where segments are missing; over hand-drawn segments of COCO val we measured 0.52.
SEGMENT_SHARE = 0.53
# Greedy suppression compares pairs: candidates beyond the best 600 cost more than they could ever add.
MOST_CANDIDATES = 600


def corners(boxes: ArrayLike) -> Floats:
    """(n, 4) x, y, width, height to (n, 4) x1, y1, x2, y2."""
    given = np.asarray(boxes, np.float32).reshape(-1, 4)
    return np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], axis=1)


def from_corners(given: ArrayLike) -> Floats:
    """(n, 4) x1, y1, x2, y2 to (n, 4) x, y, width, height."""
    ends = np.asarray(given, np.float32).reshape(-1, 4)
    return np.concatenate([ends[:, :2], ends[:, 2:] - ends[:, :2]], axis=1)


def clip(boxes: ArrayLike, width: float, height: float) -> Floats:
    """The part of each box inside the picture; width or height 0 where nothing is."""
    return from_corners(corners(boxes).clip(0, np.array([width, height, width, height], np.float32)))


def iou(a: ArrayLike, b: ArrayLike) -> Floats:
    """Shared over joint area of each box of `a` (n, 4) with each of `b` (m, 4): (n, m) in 0..1, 0 for empty boxes."""
    first, second = (np.asarray(each, np.float32).reshape(-1, 4) for each in (a, b))
    return _overlap(first, second)


def suppress(boxes: ArrayLike, scores: ArrayLike, iou: float) -> NDArray[np.intp]:
    """Greedy suppression: a box goes if its overlap with a kept one of higher score is over `iou`.

    Args:
        boxes: (n, 4).
        scores: (n,); of equal scores the earlier box comes first.

    Returns:
        (k,) indices of the kept boxes by falling score; only the best MOST_CANDIDATES boxes are looked at.
    """
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")[:MOST_CANDIDATES]
    best = np.asarray(boxes, np.float32).reshape(-1, 4)[order]
    return order[_greedy(_overlap(best, best) > iou)]


def oks(a: ArrayLike, b: ArrayLike, area: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """COCO's object keypoint similarity: 1 for equal poses, towards 0 as joints part.

    The mean over joints of exp(-d² / (2 area (2 sigma)²)); a joint unknown in either pose does not count.

    Args:
        a, b: (..., 17, 3); they may be broadcast.
        area: (...) of the person's segment in square pixels.
        weights: (..., 17) of the joints in the mean; all equal by default.

    Returns:
        (...) 0..1, and 0 where the poses have no known joint in common.
    """
    first, second = np.asarray(a, np.float32), np.asarray(b, np.float32)
    apart = first[..., :2] - second[..., :2]
    apart *= apart
    squares = apart[..., 0] + apart[..., 1]
    known = np.isfinite(squares)
    size = np.maximum(np.asarray(area, np.float32), _LEAST_AREA)[..., None]
    alike = np.exp(-np.where(known, squares, 0) / (2 * size * _SPREADS))
    weight = known * (np.float32(1) if weights is None else np.asarray(weights, np.float32))
    total = weight.sum(axis=-1)
    return _share((weight * alike).sum(axis=-1), total)


def same_people(points: ArrayLike, boxes: ArrayLike, scores: ArrayLike, limit: float = 0.8) -> NDArray[np.intp]:
    """Merges boxes whose poses are the same: greedy suppression by OKS, in one place for photos and clips.

    A finder draws two boxes around one person whose overlap is too small for `suppress`: the whole body, and the part
    that is seen. Their seen joints agree, their hidden ones are guesses and do not; so each joint counts as much as
    the less sure of the two poses is of it. On COCO photos such doubles lie over 0.9, and 0.8 leaves two people as
    two unless the detector gave both of them one and the same pose.

    Args:
        points: (n, 17, 3), COCO-17.
        boxes: (n, 4) around them, which give the size that distances are held against.
        scores: (n,) of the people; the higher one is kept.
        limit: OKS over which two are one.

    Returns:
        (k,) indices of those kept, by falling score.
    """
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    poses = np.asarray(points, np.float32).reshape(-1, 17, 3)[order]
    areas = SEGMENT_SHARE * np.asarray(boxes, np.float32).reshape(-1, 4)[order, 2:].prod(axis=1)
    surer, other = poses[:, None], poses[None]
    weights = np.minimum(surer[..., 2], other[..., 2]).clip(0, None)
    return order[_greedy(oks(surer, other, (areas[:, None] + areas[None]) / 2, weights) > limit)]


def _overlap(a: Floats, b: Floats) -> Floats:
    """`iou` of (n, 4) and (m, 4)."""
    first, second = a.T[:, :, None], b.T[:, None]
    # Plane by plane: with the four numbers of a box innermost it takes five times as long.
    wide = np.minimum(first[0] + first[2], second[0] + second[2]) - np.maximum(first[0], second[0])
    tall = np.minimum(first[1] + first[3], second[1] + second[3]) - np.maximum(first[1], second[1])
    shared = np.maximum(wide, 0) * np.maximum(tall, 0)
    return _share(shared, first[2] * first[3] + second[2] * second[3] - shared)


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _greedy(alike: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Rows of `alike` (n, n), best first, that no kept row before them is like."""
    alive = np.ones(len(alike), bool)
    for i in range(len(alike)):
        if alive[i]:
            alive[i + 1 :] &= ~alike[i, i + 1 :]
    return np.flatnonzero(alive)
