"""Joint angles: what stands straight is zero, and each turn is told by its own angle."""

from __future__ import annotations

import numpy as np
import pytest

from service.formats.angles import ANGLES, joint_angles
from service.geometry.skeletons import H36M17, mirror_order

from .fake import Floats, standing, turned, upright, walking

UPPER = tuple(n for n in H36M17.joints if n.partition("_")[2] in ("shoulder", "elbow", "wrist") or n.startswith("head"))


def plain() -> Floats:
    """Straight limbs, camera axes."""
    pose = standing()
    pose[:, 2] = 0
    for side in ("left", "right"):
        hip, shoulder = (pose[H36M17.joints.index(f"{side}_{joint}")] for joint in ("hip", "shoulder"))
        for n, joint in enumerate(("knee", "ankle"), start=1):
            pose[H36M17.joints.index(f"{side}_{joint}")] = hip + np.array([0, 0.42 * n, 0])
        for n, joint in enumerate(("elbow", "wrist"), start=1):
            pose[H36M17.joints.index(f"{side}_{joint}")] = shoulder + np.array([0, 0.27 * n, 0])
    return pose


def angles(pose: Floats) -> dict[str, float]:
    return dict(zip(ANGLES, joint_angles(upright(pose)).tolist(), strict=True))


def test_who_stands_straight_has_no_angle_but_the_plane_of_a_hanging_arm_which_is_unknown() -> None:
    for name, angle in angles(plain()).items():
        assert np.isnan(angle) if name.endswith("plane") else angle == pytest.approx(0, abs=1e-9), name


def arm(side: str) -> tuple[str, str]:
    return f"{side}_elbow", f"{side}_wrist"


def raised(side: str, elevation: float, plane: float) -> dict[str, float]:
    return {f"{side}_shoulder_elevation": elevation, f"{side}_shoulder_plane": plane}


# In the camera's axes a person who faces the camera looks along -z; a positive turn about x brings what hangs
# backwards into the picture's depth, away from the camera.
@pytest.mark.parametrize(
    ("axis", "degrees", "joints", "about", "told"),
    [
        ("x", -50, ("left_wrist",), "left_elbow", {"left_elbow_flexion": 50}),
        ("x", 40, ("right_ankle",), "right_knee", {"right_knee_flexion": 40}),
        ("x", -30, ("right_knee", "right_ankle"), "right_hip", {"right_hip_flexion": 30}),
        ("x", 20, ("left_knee", "left_ankle"), "left_hip", {"left_hip_flexion": -20}),
        ("z", -25, ("left_knee", "left_ankle"), "left_hip", {"left_hip_abduction": 25}),
        ("z", 25, ("right_knee", "right_ankle"), "right_hip", {"right_hip_abduction": 25}),
        ("z", -80, arm("left"), "left_shoulder", raised("left", 80, plane=0)),
        ("z", 80, arm("right"), "right_shoulder", raised("right", 80, plane=0)),
        ("x", -60, arm("right"), "right_shoulder", raised("right", 60, plane=90)),
        ("x", -60, arm("left"), "left_shoulder", raised("left", 60, plane=90)),
        ("x", 15, ("head", "head_top"), "thorax", {"neck_flexion": 15}),
        ("z", -15, ("head", "head_top"), "thorax", {"neck_lateral": 15}),
        ("y", -35, UPPER, "thorax", {"trunk_rotation": 35}),
    ],
)  # fmt: skip
def test_a_turn_is_told_by_its_own_angle(
    axis: str, degrees: float, joints: tuple[str, ...], about: str, told: dict[str, float]
) -> None:
    measured = angles(turned(plain(), axis, degrees, joints, about))
    for name, angle in measured.items():
        if not np.isnan(angle) and not (name.endswith("plane") and name not in told):
            assert angle == pytest.approx(told.get(name, 0), abs=1e-6), name
    assert not any(np.isnan(measured[name]) for name in told)


def test_a_bow_is_flexion_of_the_trunk_and_of_the_hips_as_far_as_the_pelvis_follows_it() -> None:
    bowed = angles(turned(plain(), "x", 30, (*UPPER, "spine", "thorax"), "pelvis"))
    assert bowed["trunk_flexion"] == pytest.approx(30)
    assert bowed["left_hip_flexion"] == pytest.approx(30)
    assert bowed["neck_flexion"] == pytest.approx(0, abs=1e-6)


def test_where_the_person_faces_does_not_matter() -> None:
    pose = walking(7)[3]
    about = turned(pose, "y", 123, H36M17.joints, "pelvis")
    np.testing.assert_allclose(joint_angles(upright(about)), joint_angles(upright(pose)), atol=1e-9)


def test_a_mirrored_person_has_left_and_right_exchanged_and_leans_the_other_way() -> None:
    pose = walking(9)[5]
    mirrored = (pose * [-1, 1, 1])[mirror_order(H36M17)]
    one, other = angles(pose), angles(mirrored)
    for name in ANGLES:
        side, _, rest = name.partition("_")
        twin = {"left": f"right_{rest}", "right": f"left_{rest}"}.get(side, name)
        sign = -1 if name in ("trunk_lateral", "trunk_rotation", "neck_lateral") else 1
        assert other[twin] == pytest.approx(sign * one[name], abs=1e-9, nan_ok=True), name


def test_an_unknown_joint_leaves_its_angles_unknown_and_no_others() -> None:
    pose = standing()
    pose[H36M17.joints.index("left_wrist")] = np.nan
    assert [name for name, angle in angles(pose).items() if np.isnan(angle) and "plane" not in name] == [
        "left_elbow_flexion"
    ]


def test_no_frames_give_no_angles() -> None:
    assert joint_angles(np.zeros((0, 17, 3))).shape == (0, len(ANGLES))
