"""Bodies in the poses of joints."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.motion import read_motion
from training.data.synthetic.bodies import BodyModel
from training.data.synthetic.figures import body_joints
from training.data.synthetic.posing import Manner, onto_floor, pose, rotation, skin

MIRROR = [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13]
LIMBS = [(1, 2), (2, 3), (4, 5), (5, 6), (11, 12), (12, 13), (14, 15), (15, 16)]


@pytest.fixture(scope="module")
def captured(motion_file) -> np.ndarray:  # type: ignore[no-untyped-def]
    """(17, 3) somebody who walks, an arm raised, a knee bent."""
    joints = read_motion(motion_file).joints[30].astype(np.float64)
    joints[12:14] = joints[11] + [[0.2, -0.1, 0.15], [0.25, -0.3, 0.3]]
    joints[3] = joints[2] + [0, 0.3, -0.25]
    return np.asarray(joints)


def posed_joints(body: BodyModel, joints: np.ndarray, manner: Manner | None = None) -> np.ndarray:
    shape = body.shape({})
    posed = pose(body.bones, body.parents, shape.heads, joints, manner)
    return body_joints(body, posed, posed.places[body.bones.index("head")] + [0, 0, 0.15])


def directions(joints: np.ndarray) -> np.ndarray:
    out = np.array([joints[b] - joints[a] for a, b in LIMBS])
    return np.asarray(out / np.linalg.norm(out, axis=1, keepdims=True))


def test_the_limbs_point_where_the_joints_do(body: BodyModel, captured: np.ndarray) -> None:
    got, wanted = directions(posed_joints(body, captured)), directions(captured)
    assert (got * wanted).sum(1).min() > 0.999


def test_the_hips_lie_on_the_pelvis_and_bones_keep_their_length(body: BodyModel, captured: np.ndarray) -> None:
    joints, heads = posed_joints(body, captured), body.shape({}).heads
    np.testing.assert_allclose(joints[0], captured[0], atol=1e-6)
    thigh = np.linalg.norm(heads[body.bones.index("upperleg01.L")] - heads[body.bones.index("lowerleg01.L")])
    assert np.linalg.norm(joints[5] - joints[4]) == pytest.approx(thigh, rel=0.02)


def test_rotations_are_rotations(body: BodyModel, captured: np.ndarray) -> None:
    manner = Manner(0.5, 0.2, (0.4, -0.4), (0.2, 0.1), (0.9, 0.0))
    turns = pose(body.bones, body.parents, body.shape({}).heads, captured, manner).rotations
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), turns.shape), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(turns), 1, atol=1e-6)


def test_the_mirrored_pose_is_the_mirror_image(body: BodyModel, captured: np.ndarray) -> None:
    flip = np.array([-1, 1, 1])
    mirrored = posed_joints(body, captured[MIRROR] * flip)
    np.testing.assert_allclose(mirrored[MIRROR] * flip, posed_joints(body, captured), atol=1e-5)


def test_a_turned_world_turns_the_pose_above_the_feet(body: BodyModel, captured: np.ndarray) -> None:
    turn = rotation((0, 0, 1), 1.1)
    np.testing.assert_allclose(posed_joints(body, captured @ turn.T), posed_joints(body, captured) @ turn.T, atol=1e-6)


def test_a_knee_bends_backwards(body: BodyModel, captured: np.ndarray) -> None:
    # The thigh's own front (-y) looks away from where the shin goes.
    posed = pose(body.bones, body.parents, body.shape({}).heads, captured)
    thigh = posed.rotations[body.bones.index("upperleg01.R")]
    assert (thigh @ [0, -1, 0]) @ (captured[3] - captured[2]) < 0


def test_no_pose_moves_nothing(body: BodyModel) -> None:
    shape = body.shape({})
    still = pose(body.bones, body.parents, shape.heads, np.zeros((17, 3)))
    kept = type(still)(np.broadcast_to(np.eye(3), still.rotations.shape), shape.heads.astype(float))
    np.testing.assert_allclose(skin(shape.vertices, body.weights, shape.heads, kept), shape.vertices, atol=1e-6)


def test_skinning_moves_with_its_bone(body: BodyModel, captured: np.ndarray) -> None:
    shape = body.shape({})
    posed = pose(body.bones, body.parents, shape.heads, captured)
    number = body.bones.index("lowerarm01.L")
    mine = body.weights[:, number] == 1
    moved = skin(shape.vertices[mine], body.weights[mine], shape.heads, posed)
    expected = (shape.vertices[mine] - shape.heads[number]) @ posed.rotations[number].T + posed.places[number]
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_a_turn_of_the_head_leaves_the_body_alone(body: BodyModel, captured: np.ndarray) -> None:
    heads = body.shape({}).heads
    plain = pose(body.bones, body.parents, heads, captured)
    turned = pose(body.bones, body.parents, heads, captured, Manner(yaw=0.8))
    wrist = body.bones.index("wrist.L")
    np.testing.assert_allclose(turned.places[wrist], plain.places[wrist])
    assert not np.allclose(
        turned.rotations[body.bones.index("head")], plain.rotations[body.bones.index("head")], atol=0.1
    )


def test_feet_touch_the_floor_and_jumpers_stay_in_the_air() -> None:
    standing = np.full((17, 3), 0.08)
    assert onto_floor(0.3, standing) == pytest.approx(-0.3)
    assert 0.35 < 0.3 + onto_floor(0.3, standing + np.array([0, 0, 0.4])) < 0.4


def test_a_turn_about_no_axis_is_none() -> None:
    np.testing.assert_array_equal(rotation((0, 0, 0), 2.0), np.eye(3))
    np.testing.assert_allclose(rotation((0, 0, 2), np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
