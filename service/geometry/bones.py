"""A person's bones, which keep one length over a whole sequence.

One window of a lifter shows half a second, in which a bone that points at the camera may never lie across the view:
how long it is can only be guessed there. A longer sequence tells it, and the depth along the bone follows from its
length and from what of it is seen, up to a sign that the lifter knows. For poses that stand on the rays of what they
were lifted from, as `networks.fitting` leaves them. Human3.6M's joints, metres.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .skeletons import MADE_JOINTS, SKELETONS, mirror_order

Array = NDArray[np.float32]

_CHILDREN = np.arange(1, 17)
_PARENTS = np.array(SKELETONS["h36m17"].parents)[1:]
_MIRRORED = mirror_order(SKELETONS["h36m17"])[1:] - 1
_CHAIN = np.zeros((16, 17))  # bones to joints: every joint is the sum of the bones on its way from joint 0
for _child, _parent in zip(_CHILDREN, _PARENTS, strict=True):
    _CHAIN[:, _child] = _CHAIN[:, _parent]
    _CHAIN[_child - 1, _child] = 1
# Chosen on 150 windows of held-out motion (docs/training.md): bones that lie across the view tell their length best, by
# this power; how much surer lengths are than depths (ratio of variances); the power of e that a lost score costs.
FLATNESS, STIFFNESS, SLACK = 16, 10.0, 30.0
STEPS = 3  # of Newton's
LEAST_M = 1e-3
GUESS = 0.01  # the share in its length of a bone of which nothing is seen


def surety(points: Array, given: bool) -> Array:
    """(frames, 16) how surely both ends of each bone were seen, 0..1, from points (frames, 17, 3) with their scores."""
    scores = np.where(np.isfinite(points[..., 0]), points[..., 2], 0)
    if not given:
        scores[:, MADE_JOINTS] = 0
    return np.minimum(scores[:, _CHILDREN], scores[:, _PARENTS]).clip(0, 1)


def of_one_length(poses: Array, points: Array, given: bool) -> Array:
    """The poses (frames, 17, 3) of a whole sequence with depths of which each bone has one length; x and y stay.

    points: (frames, 17, 3) that they were lifted from, pixels and score, NaN for unknown; given: whether these came as
    h36m17, not made from others.
    """
    sure = surety(points, given)
    bones = (poses[:, _CHILDREN] - poses[:, _PARENTS]).astype(np.float64)
    squares = np.square(bones)
    across = squares[..., 0] + squares[..., 1]
    whole = (across + squares[..., 2]).clip(LEAST_M**2)
    worth = (across / whole) ** (FLATNESS / 2) * sure + GUESS * (1e-4 + sure)
    told, known = (worth * np.sqrt(whole)).sum(axis=0), worth.sum(axis=0)
    # Left as right: a person's sides are alike, and one of them is often hidden.
    lengths = (told + told[_MIRRORED]) / (known + known[_MIRRORED])
    before = deep = bones[..., 2]
    stiff = STIFFNESS * np.exp(-SLACK * (1 - sure))
    for _ in range(STEPS):
        now = np.sqrt(across + deep * deep).clip(LEAST_M)
        slope = deep / now
        deep = deep - (deep - before + stiff * slope * (now - lengths)) / (1 + stiff * slope * slope)
    kept = poses.copy()
    kept[..., 2] = poses[:, :1, 2] + deep @ _CHAIN
    return kept
