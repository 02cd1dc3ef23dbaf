"""The laws of the five skeletons and of the way to the lifter's joints."""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import OutOfRange
from service.geometry.skeletons import (
    BODY25,
    COCO17,
    H36M17,
    MEDIAPIPE33,
    SKELETONS,
    Points,
    Skeleton,
    mirror_order,
    mirror_points,
    to_coco17,
    to_h36m17,
)

EVERY = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS.keys())
SCREEN = np.array([640, 480, 1], np.float32)


def some_points(skeleton: Skeleton, *leading: int, seed: int = 0) -> Points:
    points = np.random.default_rng(seed).uniform(0.3, 1, (*leading, len(skeleton.joints), 3)).astype(np.float32)
    return points * SCREEN


def coco(**joints: tuple[float, float, float]) -> Points:
    """COCO-17 with only these joints known."""
    points = np.full((17, 3), np.nan, np.float32)
    for name, joint in joints.items():
        points[COCO17.joints.index(name)] = joint
    return points


def joint(points: Points, name: str) -> list[float]:
    values: list[float] = points[H36M17.joints.index(name)].tolist()
    return values


def test_the_skeletons_have_as_many_joints_as_their_names_say() -> None:
    counts = {name: len(skeleton.joints) for name, skeleton in SKELETONS.items()}
    assert counts == {"coco17": 17, "h36m17": 17, "halpe26": 26, "body25": 25, "mediapipe33": 33}


@EVERY
def test_no_joint_name_comes_twice(skeleton: Skeleton) -> None:
    assert len(set(skeleton.joints)) == len(skeleton.joints)


@EVERY
def test_parents_form_trees_of_edges(skeleton: Skeleton) -> None:
    for at, parent in enumerate(skeleton.parents):
        assert parent == -1 or (parent, at) in skeleton.edges
        above = at
        for _ in skeleton.joints:
            above = skeleton.parents[above] if above >= 0 else -1
        assert above == -1, f"{skeleton.joints[at]} hangs in a circle"


@EVERY
def test_mirroring_twice_is_the_identity(skeleton: Skeleton) -> None:
    order = mirror_order(skeleton)
    assert (order[order] == np.arange(len(order))).all()


@EVERY
def test_a_mirror_swaps_left_and_right_and_nothing_else(skeleton: Skeleton) -> None:
    swapped = [skeleton.joints[i] for i in mirror_order(skeleton)]
    for name, mirrored in zip(skeleton.joints, swapped, strict=True):
        side, _, rest = name.partition("_")
        assert mirrored == {"left": f"right_{rest}", "right": f"left_{rest}"}.get(side, name)


@EVERY
def test_both_sides_hang_on_their_parents_alike(skeleton: Skeleton) -> None:
    order = mirror_order(skeleton)
    for at, parent in enumerate(skeleton.parents):
        assert skeleton.parents[order[at]] == (order[parent] if parent >= 0 else -1)


def test_h36m17_hangs_together_as_the_motion_data_do() -> None:
    assert H36M17.parents == (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)


@pytest.mark.parametrize(
    ("skeleton", "sources"),
    [
        (BODY25, [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11]),
        (MEDIAPIPE33, [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]),
        (SKELETONS["halpe26"], list(range(17))),
    ],
    ids=lambda value: value.name if isinstance(value, Skeleton) else "",
)
def test_coco17_is_taken_from_the_joints_that_the_owners_number_so(skeleton: Skeleton, sources: list[int]) -> None:
    points = some_points(skeleton)
    np.testing.assert_array_equal(to_coco17(points, skeleton.name), points[sources])


def test_h36m17_gives_coco17_its_limbs_and_no_face() -> None:
    converted = to_coco17(some_points(H36M17), "h36m17")
    assert np.isnan(converted[:5, :2]).all()
    assert (converted[:5, 2] == 0).all()
    assert np.isfinite(converted[5:]).all()


@EVERY
def test_converting_a_mirrored_person_is_mirroring_the_converted_one(skeleton: Skeleton) -> None:
    points, flip = some_points(skeleton, 4), np.array([-1, 1, 1], np.float32)
    mirrored = to_h36m17(points[:, mirror_order(skeleton)] * flip, skeleton.name)
    np.testing.assert_allclose(
        mirrored, to_h36m17(points, skeleton.name)[:, mirror_order(H36M17)] * flip, rtol=1e-6, atol=1e-4
    )


@EVERY
def test_converting_commutes_with_moving_and_scaling(skeleton: Skeleton) -> None:
    points, scale, shift = some_points(skeleton), np.array([0.5, 0.5, 1]), np.array([100, -30, 0])
    moved = to_h36m17(points * scale + shift, skeleton.name)
    np.testing.assert_allclose(moved, to_h36m17(points, skeleton.name) * scale + shift, rtol=1e-5, atol=1e-3)


@EVERY
def test_many_are_converted_as_one_is(skeleton: Skeleton) -> None:
    points = some_points(skeleton, 2, 3)
    points[0, 1, ::2] = np.nan
    together = to_h36m17(points, skeleton.name)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_array_equal(together[i, j], to_h36m17(points[i, j], skeleton.name))


@EVERY
def test_nobody_converts_to_nobody(skeleton: Skeleton) -> None:
    nobody = np.zeros((0, len(skeleton.joints), 3), np.float32)
    assert to_h36m17(nobody, skeleton.name).shape == (0, 17, 3)
    assert to_coco17(nobody, skeleton.name).shape == (0, 17, 3)


@EVERY
def test_the_points_are_left_as_they_were(skeleton: Skeleton) -> None:
    points = some_points(skeleton)
    points[3] = np.nan, 5, 0.5
    before = points.copy()
    to_h36m17(points, skeleton.name)
    np.testing.assert_array_equal(points, before)


@EVERY
def test_an_unknown_joint_never_keeps_half_a_position_or_a_score(skeleton: Skeleton) -> None:
    points = some_points(skeleton, 50)
    points[np.random.default_rng(1).random(points.shape) < 0.1] = np.nan
    for converted in (to_h36m17(points, skeleton.name), to_coco17(points, skeleton.name)):
        unknown = np.isnan(converted).any(axis=-1)
        assert unknown.any()
        assert np.isnan(converted[unknown][:, :2]).all()
        assert (converted[unknown][:, 2] == 0).all()


def test_limbs_and_hips_are_as_they_were() -> None:
    points = some_points(COCO17)
    converted = to_h36m17(points, "coco17")
    for name in set(COCO17.joints) & set(H36M17.joints):
        assert joint(converted, name) == points[COCO17.joints.index(name)].tolist()
    assert len(set(COCO17.joints) & set(H36M17.joints)) == 12


def test_made_joints_are_the_middles_with_the_least_score() -> None:
    converted = to_h36m17(
        coco(
            left_hip=(110, 200, 0.9), right_hip=(90, 200, 0.8),
            left_shoulder=(120, 100, 0.7), right_shoulder=(80, 100, 0.95),
            left_ear=(108, 60, 0.6), right_ear=(92, 60, 0.5),
        ),
        "coco17",
    )  # fmt: skip
    assert joint(converted, "pelvis") == pytest.approx([100, 200, 0.8])
    assert joint(converted, "thorax") == pytest.approx([100, 100, 0.7])
    assert joint(converted, "spine") == pytest.approx([100, 150, 0.7])
    assert joint(converted, "head") == pytest.approx([100, 60, 0.5])
    assert joint(converted, "head_top") == pytest.approx([100, 20, 0.5])


@pytest.mark.parametrize("hidden", [(np.nan, np.nan, 0.0), (500.0, 400.0, 0.1)], ids=["unknown", "hardly scored"])
def test_one_ear_speaks_for_the_head_where_the_other_is_unseen(hidden: tuple[float, float, float]) -> None:
    ears = coco(left_ear=(108, 60, 0.6), right_ear=hidden)
    assert joint(to_h36m17(ears, "coco17"), "head") == pytest.approx([108, 60, 0.6])


def test_without_ears_or_hips_only_what_is_made_of_them_is_unknown() -> None:
    points = some_points(COCO17)
    points[[COCO17.joints.index(name) for name in ("left_ear", "right_ear", "left_hip")]] = np.nan
    unknown = np.isnan(to_h36m17(points, "coco17")[:, 0])
    assert {H36M17.joints[i] for i in np.flatnonzero(unknown)} == {"left_hip", "pelvis", "spine", "head", "head_top"}


def test_h36m17_passes_as_given() -> None:
    points = some_points(H36M17, 5)
    np.testing.assert_array_equal(to_h36m17(points, "h36m17"), points)


def test_a_wrong_skeleton_is_told_which_there_are() -> None:
    with pytest.raises(OutOfRange, match=r"coco17, h36m17.*'mpii'") as refusal:
        to_h36m17(np.zeros((16, 3)), "mpii")
    assert refusal.value.field == "skeleton"


def test_a_wrong_count_of_joints_is_told_the_right_one() -> None:
    with pytest.raises(OutOfRange, match=r"\(25, 3\).*\(17, 3\)") as refusal:
        to_h36m17(np.zeros((17, 3)), "body25")
    assert refusal.value.field == "keypoints"


@pytest.mark.parametrize("name", SKELETONS)
def test_points_mirrored_twice_are_the_points(name: str) -> None:
    skeleton = SKELETONS[name]
    points = np.random.default_rng(0).uniform(0, 100, (4, len(skeleton.joints), 3)).astype(np.float32)
    points[0, 1] = np.nan, np.nan, 0
    once = mirror_points(points, skeleton, 640)
    np.testing.assert_allclose(mirror_points(once, skeleton, 640), points, atol=1e-4)
    np.testing.assert_array_equal(once[..., 2], points[:, mirror_order(skeleton), 2])
