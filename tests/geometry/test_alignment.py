"""The 3D measures: invariances, and cases counted by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from service.geometry.alignment import Floats, auc, mpjpe, mpjve, n_mpjpe, p_mpjpe, pck, procrustes, stature

Measure = Callable[[Floats, Floats], float]


def some_poses(*leading: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0, 0.3, (*leading, 17, 3))


def some_rotation(seed: int = 0) -> Floats:
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return np.asarray(turn * np.sign(np.linalg.det(turn)))


@pytest.mark.parametrize("measure", [mpjpe, p_mpjpe, n_mpjpe, mpjve])
def test_a_perfect_answer_has_no_error(measure: Measure) -> None:
    poses = some_poses(5)
    assert measure(poses, poses) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("measure", [mpjpe, p_mpjpe, n_mpjpe, mpjve])
def test_where_a_pose_stands_is_no_error(measure: Measure) -> None:
    elsewhere = some_poses(5) + np.array([1, 2, 3])
    assert measure(elsewhere, some_poses(5)) == pytest.approx(0, abs=1e-9)


def test_a_similarity_is_no_error_after_procrustes() -> None:
    poses = some_poses(2, 5)
    moved = 0.7 * poses @ some_rotation() + [1, -2, 3]
    np.testing.assert_allclose(procrustes(moved, poses), poses, atol=1e-9)
    assert p_mpjpe(moved, poses) == pytest.approx(0, abs=1e-9)
    assert n_mpjpe(moved, poses) > 0.05


def test_a_mirror_image_is_not_forgiven() -> None:
    assert p_mpjpe(some_poses(5) * [1, 1, -1], some_poses(5)) > 0.05


def test_procrustes_is_never_worse_by_squares_than_leaving_the_pose_alone() -> None:
    found, true = some_poses(40, seed=1), some_poses(40, seed=2)
    left = ((found - true) ** 2).sum(axis=(-1, -2))
    assert (((procrustes(found, true) - true) ** 2).sum(axis=(-1, -2)) <= left + 1e-9).all()


def test_poses_are_aligned_one_by_one() -> None:
    found, true = some_poses(6, seed=1), some_poses(6, seed=2)
    for together, one, other in zip(procrustes(found, true), found, true, strict=True):
        np.testing.assert_allclose(together, procrustes(one, other), atol=1e-12)


def test_a_pose_of_one_point_is_a_bad_pose_and_no_number_is_lost() -> None:
    assert np.isfinite(p_mpjpe(np.zeros((1, 17, 3)), some_poses(1)))
    assert np.isfinite(n_mpjpe(np.zeros((1, 17, 3)), some_poses(1)))


def test_size_is_no_error_of_the_normalised_measure() -> None:
    poses = some_poses(5)
    poses -= poses[:, :1]
    assert n_mpjpe(1.3 * poses, poses) == pytest.approx(0, abs=1e-9)
    assert mpjpe(1.3 * poses, poses) == pytest.approx(0.3 * np.linalg.norm(poses, axis=-1).mean())


def test_one_joint_170_mm_off_is_10_mm_a_joint() -> None:
    moved = some_poses(5)
    moved[:, 3, 0] += 0.17
    assert mpjpe(moved, some_poses(5)) == pytest.approx(0.010)
    assert pck(moved, some_poses(5)) == pytest.approx(16 / 17)
    assert pck(moved, some_poses(5), joints=[1, 2, 3, 4]) == pytest.approx(3 / 4)
    assert pck(moved, some_poses(5), threshold=0.18) == 1


def test_every_joint_75_mm_off_is_an_auc_of_15_in_31() -> None:
    true = np.zeros((3, 17, 3))
    moved = true.copy()
    moved[:, 1:, 0] += 0.075
    assert auc(moved, true, joints=range(1, 17)) == pytest.approx(15 / 31)


def test_velocity_counts_the_steps_between_frames() -> None:
    moved = some_poses(7)
    moved[1::2, 1:, 0] += 0.017
    assert mpjve(moved, some_poses(7)) == pytest.approx(0.016)


def test_a_single_frame_has_no_velocity() -> None:
    assert np.isnan(mpjve(some_poses(1), some_poses(1)))


def test_stature_is_legs_trunk_head_and_what_is_under_the_ankles() -> None:
    upright = np.zeros((17, 3))
    upright[[2, 5], 1], upright[[3, 6], 1] = 0.42, 0.84
    upright[[7, 8, 9, 10], 1] = -0.25, -0.5, -0.62, -0.74
    upright[[1, 2, 3], 0], upright[[4, 5, 6], 0] = -0.13, 0.13
    assert stature(upright) == pytest.approx(0.84 + 0.74 + 0.08)


def test_stature_does_not_know_the_pose_and_grows_with_the_body() -> None:
    poses = some_poses(9)
    turned = poses @ some_rotation() + [4, 5, 6]
    assert stature(turned) == pytest.approx(stature(poses))
    assert stature(2 * poses) - 0.08 == pytest.approx(2 * (stature(poses) - 0.08))
    mirrored = poses[:, [0, 4, 5, 6, 1, 2, 3, *range(7, 17)]]
    assert stature(mirrored) == pytest.approx(stature(poses))


def test_stature_of_many_frames_is_their_mean() -> None:
    poses = some_poses(4)
    assert stature(poses) == pytest.approx(np.mean([stature(pose) for pose in poses]))


def test_stature_of_another_skeleton_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(17, 3\), got \(16, 3\)"):
        stature(np.zeros((16, 3)))
