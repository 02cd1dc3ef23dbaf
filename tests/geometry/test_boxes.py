"""Boxes: overlap, suppression, and who is one person."""

from __future__ import annotations

import numpy as np
import pytest

from service.geometry.boxes import COCO_SIGMAS, Floats, clip, corners, from_corners, iou, oks, same_people, suppress


def some_boxes(count: int, seed: int = 0) -> Floats:
    random = np.random.default_rng(seed)
    return np.concatenate([random.uniform(0, 300, (count, 2)), random.uniform(1, 200, (count, 2))], 1).astype(
        np.float32
    )


def standing(x: float, y: float, height: float, score: float = 0.9) -> Floats:
    """(17, 3) an upright person of that height in pixels, seen from the front, its head's middle at x, y."""
    across = [0, 1, -1, 2, -2, 4, -4, 6, -6, 6, -6, 3, -3, 3, -3, 3, -3]
    down = [0, -1, -1, 0, 0, 5, 5, 11, 11, 16, 16, 17, 17, 26, 26, 34, 34]
    unit = height / 40
    return np.stack([x + unit * np.array(across), y + unit * np.array(down), np.full(17, score)], 1).astype(np.float32)


def test_corners_and_back_is_the_identity() -> None:
    boxes = some_boxes(50)
    np.testing.assert_allclose(from_corners(corners(boxes)), boxes, atol=1e-4)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),  # identical
        ([0, 0, 10, 10], [20, 20, 5, 5], 0.0),  # disjoint
        ([0, 0, 10, 10], [10, 0, 10, 10], 0.0),  # touching
        ([0, 0, 10, 10], [0, 5, 10, 10], 1 / 3),  # half of each
        ([0, 0, 10, 10], [2, 2, 5, 5], 0.25),  # one within the other
        ([3, 3, 0, 0], [3, 3, 0, 0], 0.0),  # without area
    ],
)
def test_overlap_in_cases_that_a_ruler_shows(a: list[float], b: list[float], expected: float) -> None:
    assert iou([a], [b])[0, 0] == pytest.approx(expected)


def test_overlap_is_symmetric_and_does_not_know_the_scale() -> None:
    a, b = some_boxes(20, seed=1), some_boxes(30, seed=2)
    np.testing.assert_allclose(iou(a, b), iou(b, a).T, atol=1e-6)
    np.testing.assert_allclose(iou(a, b), iou(3 * a, 3 * b), atol=1e-5)


def test_clipping_keeps_what_lies_inside_and_leaves_nothing_of_the_rest() -> None:
    clipped = clip([[-10, -10, 30, 40], [20, 20, 10, 10], [200, 200, 10, 10]], 100, 50)
    np.testing.assert_allclose(clipped[:2], [[0, 0, 20, 30], [20, 20, 10, 10]])
    assert clipped[2, 2:].prod() == 0


@pytest.mark.parametrize("seed", range(20))
def test_no_two_kept_boxes_overlap_and_each_dropped_one_has_its_better(seed: int) -> None:
    boxes, scores = some_boxes(40, seed), np.random.default_rng(seed).random(40)
    kept = suppress(boxes, scores, iou=0.3)
    overlap = iou(boxes, boxes)
    assert (np.diff(scores[kept]) <= 0).all()
    assert (overlap[np.ix_(kept, kept)] - np.eye(len(kept)) <= 0.3 + 1e-6).all()
    for dropped in set(range(40)) - set(kept.tolist()):
        assert any(overlap[dropped, k] > 0.3 and scores[k] >= scores[dropped] for k in kept)


def test_of_equal_scores_the_earlier_box_stays() -> None:
    assert suppress([[0, 0, 10, 10]] * 3, [0.5, 0.5, 0.5], iou=0.6).tolist() == [0]


def test_a_box_that_only_a_dropped_one_overlaps_stays() -> None:
    row = [[0, 0, 10, 10], [4, 0, 10, 10], [8, 0, 10, 10]]
    assert suppress(row, [0.9, 0.8, 0.7], iou=0.4).tolist() == [0, 2]


def test_a_pose_is_wholly_like_itself() -> None:
    assert oks(standing(50, 20, 100), standing(50, 20, 100), 4000) == pytest.approx(1)


@pytest.mark.parametrize("joint", [0, 9, 16])
def test_one_joint_a_deviation_off_costs_what_the_formula_says(joint: int) -> None:
    area, moved = 5000.0, standing(50, 20, 100)
    moved[joint, 0] += np.sqrt(area) * 2 * COCO_SIGMAS[joint]
    assert oks(moved, standing(50, 20, 100), area) == pytest.approx((16 + np.exp(-0.5)) / 17, abs=1e-5)


def test_joints_unknown_in_either_pose_do_not_count() -> None:
    pose, other = standing(50, 20, 100), standing(50, 20, 100)
    pose[:8], other[8:10], other[10:, 0] = np.nan, np.nan, other[10:, 0] + 1e4
    assert oks(pose, other, 4000) == pytest.approx(0, abs=1e-6)
    other[10:] = pose[10:]
    assert oks(pose, other, 4000) == pytest.approx(1)
    pose[:] = np.nan
    assert oks(pose, other, 4000) == 0


def test_likeness_of_many_is_that_of_each() -> None:
    random = np.random.default_rng(0)
    a, b = random.uniform(0, 40, (6, 1, 17, 3)), random.uniform(0, 40, (1, 5, 17, 3))
    together = oks(a, b, 900.0)
    assert together.shape == (6, 5)
    assert together[4, 3] == pytest.approx(float(oks(a[4, 0], b[0, 3], 900.0)))


def test_two_boxes_around_one_pose_are_one_person_and_the_surer_one_stays() -> None:
    pose = standing(100, 60, 300)
    boxes = [[16, 53, 349, 456], [22, 14, 342, 342]]
    assert same_people([pose, pose + np.array([2, 1, 0])], boxes, [0.49, 0.63]).tolist() == [1]


def test_guesses_at_hidden_joints_do_not_make_two_of_one_person() -> None:
    one, other = standing(100, 60, 300), standing(100, 60, 300)
    one[11:, 2], other[11:, 2] = 0.25, 0.05
    other[11:, :2] += 150
    assert len(same_people([one, other], [[16, 53, 349, 456], [22, 14, 342, 342]], [0.63, 0.49])) == 1


def test_people_side_by_side_stay_two_even_where_their_boxes_overlap() -> None:
    poses = [standing(100, 60, 300), standing(160, 60, 300)]
    assert same_people(poses, [[40, 40, 120, 300], [100, 40, 120, 300]], [0.9, 0.8]).tolist() == [0, 1]


def test_a_child_before_its_parent_stays_a_person() -> None:
    poses = [standing(100, 60, 300), standing(100, 150, 150)]
    assert same_people(poses, [[40, 40, 120, 300], [70, 140, 60, 150]], [0.8, 0.9]).tolist() == [1, 0]


def test_people_of_whom_nothing_is_known_are_not_merged() -> None:
    unknown = np.full((2, 17, 3), np.nan, np.float32)
    unknown[..., 2] = 0
    assert same_people(unknown, [[0, 0, 50, 90]] * 2, [0.5, 0.5]).tolist() == [0, 1]


def test_no_boxes_give_no_boxes() -> None:
    none, nobody = np.zeros((0, 4), np.float32), np.zeros((0, 17, 3), np.float32)
    assert corners(none).shape == from_corners(none).shape == clip(none, 10, 10).shape == (0, 4)
    assert iou(none, some_boxes(3)).shape == (0, 3)
    assert suppress(none, [], iou=0.6).shape == (0,)
    assert oks(nobody, nobody, np.zeros(0)).shape == (0,)
    assert same_people(nobody, none, []).shape == (0,)
