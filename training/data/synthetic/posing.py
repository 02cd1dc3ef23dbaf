"""Puts a body into a pose: rotations of its bones from 17 joints of motion capture, and skinning. numpy only.

World axes: metres, z up. Joints are h36m17. Limbs take the directions of the joints and keep the body's own lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

SPINE = {"spine05": 0.15, "spine04": 0.35, "spine03": 0.6, "spine02": 0.85, "spine01": 1.0}  # pelvis to thorax
NECK = {"neck01": 0.4, "neck02": 0.7, "neck03": 0.9}  # thorax to head
# Side, its hip, knee and ankle, its shoulder, elbow and wrist.
SIDES = ((".L", (4, 5, 6), (11, 12, 13)), (".R", (1, 2, 3), (14, 15, 16)))
SHOULDER_FOLLOWS = 0.2  # how much of the upper arm's turn the shoulder girdle shares
ANKLE_HEIGHT_M = 0.08  # of the packs' standing people
HINGE_FROM, HINGE_TO = 0.1, 0.4  # sine of a bend under which it tells nothing of the limb's twist, over which all


@dataclass(frozen=True)
class Manner:
    """What 17 joints leave open. Radians, but for curl (0 a flat hand, 1 a fist); pairs are left and right.

    yaw, nod: of the head against the trunk. turn, bend: of the hands about the forearm and at the wrist.
    """

    yaw: float = 0.0
    nod: float = 0.0
    turn: tuple[float, float] = (0.0, 0.0)
    bend: tuple[float, float] = (0.0, 0.0)
    curl: tuple[float, float] = (0.3, 0.3)


@dataclass(frozen=True, eq=False)
class Posed:
    """rotations (bones, 3, 3) from rest to world, places (bones, 3) of the bones' beginnings in the world."""

    rotations: Floats
    places: Floats


def pose(
    bones: Sequence[str], parents: Sequence[int], heads: ArrayLike, joints: ArrayLike, manner: Manner | None = None
) -> Posed:
    """Turns every bone so that the limbs point where the joints do; the middle of the hips lies on joint 0.

    bones, parents, heads (bones, 3): a body at rest, as bodies.py has it. joints: (17, 3) h36m17, world.
    """
    manner = manner or Manner()
    at = {name: index for index, name in enumerate(bones)}
    rest, target = np.asarray(heads, np.float64), np.asarray(joints, np.float64)

    def from_to(a: str, b: str) -> Floats:
        return np.asarray(rest[at[b]] - rest[at[a]])

    across_hips = from_to("upperleg01.R", "upperleg01.L")
    across_shoulders = from_to("upperarm01.R", "upperarm01.L")
    hips = (rest[at["upperleg01.L"]] + rest[at["upperleg01.R"]]) / 2
    pelvis = _frame(target[4] - target[1], target[7] - target[0]) @ _frame(across_hips, rest[at["spine02"]] - hips).T
    width = target[11] - target[14]
    trunk = _frame(width, target[8] - target[7]) @ _frame(across_shoulders, from_to("spine02", "neck01")).T
    crown = rest[at["head"]] + np.array([0, 0.03, 0.15])
    head = _frame(width, target[10] - target[8]) @ _frame(across_shoulders, crown - rest[at["neck01"]]).T
    head = head @ rotation((0, 0, 1), manner.yaw) @ rotation((1, 0, 0), manner.nod)

    turns: dict[str, Floats] = {"root": pelvis, "head": head}
    turns |= {name: _between(pelvis, trunk, share) for name, share in SPINE.items()}
    turns |= {name: _between(trunk, head, share) for name, share in NECK.items()}
    for number, (side, leg, arm) in enumerate(SIDES):
        upper, lower = _limb(
            pelvis,
            from_to("upperleg01" + side, "lowerleg01" + side),
            from_to("lowerleg01" + side, "foot" + side),
            np.array([1.0, 0, 0]),
            target[list(leg)],
        )
        turns |= {"pelvis" + side: pelvis, "upperleg01" + side: upper, "upperleg02" + side: upper}
        turns |= {"lowerleg01" + side: lower, "lowerleg02" + side: lower}
        turns["foot" + side] = _foot(lower, float(target[leg[2], 2]))
        rest_arm = from_to("upperarm01" + side, "lowerarm01" + side), from_to("lowerarm01" + side, "wrist" + side)
        upper, lower = _limb(trunk, *rest_arm, np.cross(*rest_arm), target[list(arm)])
        turns |= {"clavicle" + side: trunk, "shoulder01" + side: _between(trunk, upper, SHOULDER_FOLLOWS)}
        turns |= {"upperarm01" + side: upper, "upperarm02" + side: upper, "lowerarm01" + side: lower}
        mirrored = 1 if side == ".L" else -1
        hand = lower @ rotation(rest_arm[1], mirrored * manner.turn[number])
        hand = hand @ rotation(np.cross(*rest_arm), manner.bend[number])
        turns["lowerarm02" + side] = _between(lower, hand, 0.5)
        turns["wrist" + side] = hand
        turns |= _fingers(side, at, rest, hand, manner.curl[number])

    rotations, places = np.zeros((len(bones), 3, 3)), np.zeros((len(bones), 3))
    for index, name in enumerate(bones):
        parent = parents[index]
        rotations[index] = turns.get(name, rotations[parent] if parent >= 0 else pelvis)
        if parent >= 0:
            places[index] = places[parent] + rotations[parent] @ (rest[index] - rest[parent])
    middle = (places[at["upperleg01.L"]] + places[at["upperleg01.R"]]) / 2
    return Posed(rotations, places + (target[0] - middle))


def skin(vertices: ArrayLike, weights: ArrayLike, heads: ArrayLike, posed: Posed) -> NDArray[np.float32]:
    """(n, 3) world places of vertices (n, 3) at rest, by linear blends of the bones with weights (n, bones)."""
    moved = posed.places - np.einsum("bij,bj->bi", posed.rotations, np.asarray(heads, np.float64))
    maps = np.concatenate([posed.rotations, moved[..., None]], 2).reshape(-1, 12).astype(np.float32)
    blended = (np.asarray(weights, np.float32) @ maps).reshape(-1, 3, 4)
    at_rest = np.asarray(vertices, np.float32)
    return np.asarray((blended[..., :3] @ at_rest[..., None])[..., 0] + blended[..., 3], np.float32)


def onto_floor(lowest_m: float, joints: ArrayLike) -> float:
    """How far to lift a body whose lowest vertex is at `lowest_m`, so that it stands as high as the captured one did.

    Who jumped stays in the air; a child's feet touch the floor though its legs are shorter. joints: (17, 3) captured.
    """
    in_the_air = max(float(np.asarray(joints)[:, 2].min()) - ANKLE_HEIGHT_M - 0.03, 0.0)
    return in_the_air - lowest_m


def rotation(axis: ArrayLike, angle: float) -> Floats:
    """(3, 3) turn by `angle` radians about an axis of any length (Rodrigues); none where the axis has no length."""
    along = np.asarray(axis, np.float64)
    length = np.linalg.norm(along)
    if length < 1e-12:
        return np.eye(3)
    x, y, z = along / length
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _unit(vector: Floats) -> Floats:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9))


def _frame(left: Floats, up: Floats) -> Floats:
    """Columns: left (made square to up), back, up."""
    z = _unit(up)
    x = _unit(left - (left @ z) * z)
    return np.stack([x, np.cross(z, x), z], 1)


def _swing(a: Floats, b: Floats) -> Floats:
    """The shortest turn that takes the direction of a to that of b."""
    a, b = _unit(a), _unit(b)
    axis, cosine = np.cross(a, b), float(np.clip(a @ b, -1, 1))
    if cosine < -0.9999:  # any axis square to a will do
        axis = np.cross(a, [1.0, 0, 0] if abs(a[0]) < 0.9 else [0, 1.0, 0])
    return rotation(axis, float(np.arccos(cosine)))


def _between(a: Floats, b: Floats, share: float) -> Floats:
    """The rotation nearest to the mean of two, `share` of the second."""
    u, _, v = np.linalg.svd((1 - share) * a + share * b)
    turn = u @ v
    return turn if np.linalg.det(turn) > 0 else b


def _limb(parent: Floats, upper: Floats, lower: Floats, hinge: Floats, joints: Floats) -> tuple[Floats, Floats]:
    """Turns of a limb's two halves. The bend's plane tells the upper one's twist, as far as there is a bend."""
    along, further = _unit(joints[1] - joints[0]), _unit(joints[2] - joints[1])
    turn = _swing(parent @ upper, along) @ parent
    wanted = np.cross(along, further)
    bend = float(np.linalg.norm(wanted))
    sure = float(np.clip((bend - HINGE_FROM) / (HINGE_TO - HINGE_FROM), 0, 1))
    if sure > 0:
        now = turn @ hinge
        now, wanted = _unit(now - (now @ along) * along), _unit(wanted)
        twist = np.arctan2(np.cross(now, wanted) @ along, now @ wanted)
        turn = rotation(along, sure * float(twist)) @ turn
    return turn, _swing(turn @ lower, further) @ turn


def _foot(shin: Floats, ankle_height_m: float) -> Floats:
    """A foot near the floor lies flat on it; a lifted one hangs as it is on the shin."""
    flat = float(np.clip((0.22 - ankle_height_m) / 0.1, 0, 1))
    ahead = -shin[:, 1] * [1, 1, 0]
    upright = shin[2, 2]
    if flat == 0 or np.linalg.norm(ahead) < 0.3 or upright < 0.3:
        return shin
    y = -_unit(ahead)
    level = np.stack([np.cross(y, [0, 0, 1.0]), y, [0, 0, 1.0]], 1)
    return _between(shin, level, flat * float(np.clip((upright - 0.3) / 0.3, 0, 1)))


def _fingers(side: str, at: dict[str, int], rest: Floats, hand: Floats, curl: float) -> dict[str, Floats]:
    """Turns of the four fingers, closed about the axis in which they are bent a little at rest."""
    if "finger2-1" + side not in at:
        return {}
    knuckles = rest[at["finger5-1" + side]] - rest[at["finger2-1" + side]]
    first = rest[at["finger3-2" + side]] - rest[at["finger3-1" + side]]
    second = rest[at["finger3-3" + side]] - rest[at["finger3-2" + side]]
    axis = knuckles if np.cross(first, second) @ knuckles > 0 else -knuckles
    angles = np.cumsum([1.1, 1.4, 0.8]) * curl - 0.3
    return {
        f"finger{finger}-{part}{side}": hand @ rotation(axis, float(angles[part - 1]))
        for finger in (2, 3, 4, 5)
        for part in (1, 2, 3)
    }
