"""BVH, what animation programs read: a skeleton of fixed bones and its rotations, one person a file.

Centimetres and degrees, y up. The rest pose stands upright with arms stretched sideways, and faces +z. One rate, so
frames are brought to an even grid.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from service.geometry.skeletons import H36M17

from .recording import Floats, RecordedPerson, Recording, grid_times, on_grid

JOINTS, PARENTS = H36M17.joints, H36M17.parents
CHILDREN = {joint: [n for n, parent in enumerate(PARENTS) if parent == joint] for joint in range(len(JOINTS))}
END_CM = 5.0  # past wrists, ankles and head top, whose own rotation is not seen
LEFT, UP, DOWN, RIGHT = np.array([[1.0, 0, 0], [0, 1, 0], [0, -1, 0], [-1, 0, 0]])  # facing +z, y up
REST = {"hip": (LEFT, RIGHT), "knee": (DOWN, DOWN), "ankle": (DOWN, DOWN)}  # of bones by the joint at their end
# Where three bones meet, a joint's turn is told by a line across and a line up: (left, right, below, above).
BRANCHES = {
    JOINTS.index("pelvis"): ("left_hip", "right_hip", "pelvis", "thorax"),
    JOINTS.index("thorax"): ("left_shoulder", "right_shoulder", "pelvis", "thorax"),
}


def chunks(recording: Recording, person: RecordedPerson) -> Iterator[bytes]:
    """The file from the person's first lifted frame to the last.

    A bone has the median of its lengths. A joint is turned by the least swing from its parent's turn that points its
    bone the way it points (a twist about a bone is not seen); pelvis and thorax by hips, shoulders and trunk. BVH knows
    no missing values: gaps are filled linearly in time, and what never was seen rests. The person must have been lifted
    in one frame at least.
    """
    joints, positions = _gapless(recording, person)
    directions = _rest_directions()
    lengths = _lengths(recording.in_file_axes(person)[0])
    turns = _turns(joints, directions)
    offsets = _offsets(joints, turns, directions, lengths)
    local = np.stack([turns[:, n] if p < 0 else _undo(turns[:, p], turns[:, n]) for n, p in enumerate(PARENTS)], 1)
    yield ("HIERARCHY\n" + "\n".join(_hierarchy(0, offsets, directions, 0)) + "\n").encode("ascii")
    yield f"MOTION\nFrames: {len(joints)}\nFrame Time: {1 / recording.rate:.9f}\n".encode("ascii")
    order = _written_order(0)
    angles = np.degrees(_euler_zxy(local))[:, order].reshape(len(joints), -1)
    for row in np.concatenate([positions * 100, angles], axis=1):
        yield (" ".join(f"{number:.5f}" for number in row) + "\n").encode("ascii")


def _gapless(recording: Recording, person: RecordedPerson) -> tuple[Floats, Floats]:
    """joints (frames, 17, 3) relative to joint 0 and positions (frames, 3) on the grid, without gaps; metres."""
    joints, positions = recording.in_file_axes(person)
    lifted = np.flatnonzero(np.isfinite(joints).all(axis=-1).any(axis=-1))
    part = slice(lifted[0], lifted[-1] + 1)
    times = recording.times[person.first : person.first + len(joints)][part]
    grid = grid_times(times, recording.rate)
    values = np.concatenate([joints[part], positions[part, None]], axis=1).reshape(len(times), -1)
    filled = np.stack([_filled(column, times) for column in values.T], axis=1)
    even = on_grid(filled, times, grid, recording.rate).reshape(len(grid), -1, 3)
    return even[:, :-1], np.nan_to_num(even[:, -1])


def _filled(column: Floats, times: Floats) -> Floats:
    """Gaps linearly, ends held; a column without any number stays NaN."""
    known = np.isfinite(column)
    return np.interp(times, times[known], column[known]) if known.any() else column


def _rest_directions() -> Floats:
    """(17, 3) unit vectors of the bones that end in each joint, in the rest pose."""
    directions = np.tile(UP, (len(JOINTS), 1))
    for n, joint in enumerate(JOINTS):
        side, _, part = joint.partition("_")
        if side in ("left", "right"):
            directions[n] = REST.get(part, (LEFT, RIGHT))[side == "right"]
    return directions


def _lengths(joints: Floats) -> Floats:
    """(17,) metres: the median length of the bone that ends in each joint; 0 for the root and what is never seen."""
    bones = np.linalg.norm(joints - joints[:, PARENTS], axis=-1)
    return np.array([np.median(bone[np.isfinite(bone)]) if np.isfinite(bone).any() else 0 for bone in bones.T])


def _turns(joints: Floats, directions: Floats) -> Floats:
    """(frames, 17, 3, 3) rotations of each joint from the rest pose, in the file's axes."""
    turns = np.empty((*joints.shape, 3))
    for n, parent in enumerate(PARENTS):
        above = turns[:, parent] if parent >= 0 else np.broadcast_to(np.eye(3), (len(joints), 3, 3))
        if n in BRANCHES:
            turns[:, n] = _branch_turn(joints, BRANCHES[n], above)
        elif CHILDREN[n]:
            child = CHILDREN[n][0]
            bone = _undo(above, (joints[:, child] - joints[:, n])[..., None])[..., 0]
            turns[:, n] = above @ _swing(directions[child], bone)
        else:
            turns[:, n] = above
    return turns


def _branch_turn(joints: Floats, lines: tuple[str, str, str, str], otherwise: Floats) -> Floats:
    """(frames, 3, 3): x from right to left, y near to below to above; `otherwise` where one of them is unknown."""
    left, right, below, above = (JOINTS.index(name) for name in lines)
    x = _unit(joints[:, left] - joints[:, right])
    z = _unit(np.cross(x, joints[:, above] - joints[:, below]))
    turn = np.stack([x, np.cross(z, x), z], axis=-1)
    return np.where(np.isfinite(turn).all(axis=(-2, -1), keepdims=True), turn, otherwise)


def _swing(rest: Floats, bone: Floats) -> Floats:
    """(frames, 3, 3): the least rotation that turns the unit vector `rest` to the direction of `bone` (frames, 3)."""
    to = _unit(bone)
    to = np.where(np.isfinite(to), to, rest)
    across = np.cross(rest, to)
    cosine = to @ rest
    x, y, z = across.T
    zero = np.zeros_like(x)
    skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(-1, 3, 3)
    turn = np.eye(3) + skew + skew @ skew / np.maximum(1 + cosine, 1e-9)[:, None, None]
    # Straight back every axis across is as good: about the one of x and z that lies across `rest`.
    axis = np.cross(rest, [0.0, 0.0, 1.0])
    axis = axis / np.linalg.norm(axis)
    back = 2 * np.outer(axis, axis) - np.eye(3)
    return np.where((cosine < -1 + 1e-9)[:, None, None], back, turn)


def _offsets(joints: Floats, turns: Floats, directions: Floats, lengths: Floats) -> Floats:
    """(17, 3) centimetres from each joint's parent in the rest pose.

    Where three bones meet, they lie as they do in the middle of the frames: one turn cannot point each its own way.
    """
    offsets = directions * lengths[:, None]
    for branch in BRANCHES:
        for child in CHILDREN[branch]:
            bones = _undo(turns[:, branch], (joints[:, child] - joints[:, branch])[..., None])[..., 0]
            seen = bones[np.isfinite(bones).all(axis=-1)]
            if len(seen) and (middle := np.linalg.norm(np.median(seen, axis=0))) > 0:
                offsets[child] = np.median(seen, axis=0) / middle * lengths[child]
    offsets[0] = 0
    return offsets * 100


def _hierarchy(joint: int, offsets: Floats, directions: Floats, depth: int) -> Iterator[str]:
    indent = "\t" * depth
    kind, places = ("ROOT", "6 Xposition Yposition Zposition ") if joint == 0 else ("JOINT", "3 ")
    yield f"{indent}{kind} {JOINTS[joint]}"
    yield f"{indent}{{"
    yield f"{indent}\tOFFSET {_triple(offsets[joint])}"
    yield f"{indent}\tCHANNELS {places}Zrotation Xrotation Yrotation"
    for child in CHILDREN[joint]:
        yield from _hierarchy(child, offsets, directions, depth + 1)
    if not CHILDREN[joint]:
        yield f"{indent}\tEnd Site"
        yield f"{indent}\t{{"
        yield f"{indent}\t\tOFFSET {_triple(directions[joint] * END_CM)}"
        yield f"{indent}\t}}"
    yield f"{indent}}}"


def _written_order(joint: int) -> list[int]:
    """The joints in the order of the hierarchy's lines, which is that of the motion's columns."""
    return [joint, *(below for child in CHILDREN[joint] for below in _written_order(child))]


def _triple(vector: Floats) -> str:
    return " ".join(f"{number:.5f}" for number in vector)


def _euler_zxy(rotations: Floats) -> Floats:
    """(frames, joints, 3) radians z, x, y with R = Rz Rx Ry, each frame the nearest to the one before.

    The same rotation has two sets of angles, each up to whole turns; a player that mixes frames needs them to go on.
    """
    x = np.arcsin(np.clip(rotations[..., 2, 1], -1, 1))
    z = np.arctan2(-rotations[..., 0, 1], rotations[..., 1, 1])
    y = np.arctan2(-rotations[..., 2, 0], rotations[..., 2, 2])
    one = np.stack([z, x, y], axis=-1)
    other = np.stack([z + np.pi, np.pi - x, y + np.pi], axis=-1)
    angles = one.copy()
    for n in range(1, len(angles)):
        before = angles[n - 1]
        near = [each[n] - 2 * np.pi * np.round((each[n] - before) / (2 * np.pi)) for each in (one, other)]
        far = [np.abs(each - before).sum(axis=-1, keepdims=True) for each in near]
        angles[n] = np.where(far[0] <= far[1], near[0], near[1])
    return angles


def _undo(turn: Floats, matrix: Floats) -> Floats:
    """What is left of `matrix` once `turn` is taken off: turnᵀ matrix, frame by frame."""
    left: Floats = np.swapaxes(turn, -1, -2) @ matrix
    return left


def _unit(vector: Floats) -> Floats:
    """Of length 1; NaN for a vector without a length."""
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    return vector / np.where(length > 1e-9, length, np.nan)
