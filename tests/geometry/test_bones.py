"""Bones of one length over a whole sequence."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from service.geometry.bones import of_one_length, surety
from service.geometry.skeletons import MADE_JOINTS, SKELETONS, mirror_order

Array = NDArray[np.float32]
PARENTS = np.array(SKELETONS["h36m17"].parents)[1:]
FRAMES = 60


def walker(seed: int = 0) -> Array:
    """(FRAMES, 17, 3) bones of one length, left as right, that turn slowly, each its own way."""
    rng = np.random.default_rng(seed)
    order = mirror_order(SKELETONS["h36m17"])
    lengths = rng.uniform(0.1, 0.45, 17)
    lengths = (lengths + lengths[order]) / 2
    joints = np.zeros((FRAMES, 17, 3))
    at = np.linspace(0, 2 * np.pi, FRAMES)
    for child, parent in enumerate(PARENTS, 1):
        tilt, turn = rng.uniform(-1, 1) * np.sin(at + rng.uniform(0, 6)), at * rng.uniform(0.5, 1) + rng.uniform(0, 6)
        bone = np.stack([np.cos(tilt) * np.cos(turn), np.sin(tilt), np.cos(tilt) * np.sin(turn)], -1)
        joints[:, child] = joints[:, parent] + lengths[child] * bone
    return joints.astype(np.float32)


def points(score: float = 1.0, frames: int = FRAMES) -> Array:
    seen = np.full((frames, 17, 3), 100, np.float32)
    seen[..., 2] = score
    return seen


def flattened(poses: Array) -> Array:
    """As a network answers that is unsure of depth."""
    return poses * np.array([1, 1, 0.8], np.float32)


def lengths(poses: Array) -> Array:
    return np.asarray(np.linalg.norm(poses[:, 1:] - poses[:, PARENTS], axis=-1))


def test_bones_that_have_one_length_stay_as_they_are() -> None:
    assert np.abs(of_one_length(walker(), points(), True) - walker()).max() < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_depths_that_are_too_small_grow_towards_the_true_ones(seed: int) -> None:
    true = walker(seed)
    answer = flattened(true)
    kept = of_one_length(answer, points(), True)
    assert np.abs(kept - true).mean() < 0.6 * np.abs(answer - true).mean()
    assert lengths(kept).std(axis=0).mean() < 0.5 * lengths(answer).std(axis=0).mean()
    assert np.array_equal(kept[..., :2], answer[..., :2])


def test_depths_keep_their_sign() -> None:
    answer = flattened(walker())
    kept = of_one_length(answer, points(), True)
    before, after = (each[:, 1:, 2] - each[:, PARENTS, 2] for each in (answer, kept))
    deep = np.abs(before) > 0.02
    assert (np.sign(before) == np.sign(after))[deep].all()


def test_where_scores_are_low_the_network_is_left_alone() -> None:
    answer = flattened(walker())
    assert np.abs(of_one_length(answer, points(0.5), True) - answer).max() < 1e-5


def test_a_mirrored_sequence_gives_the_mirrored_poses() -> None:
    order, sign = mirror_order(SKELETONS["h36m17"]), np.array([-1, 1, 1], np.float32)
    answer = flattened(walker())
    back = of_one_length(answer[:, order] * sign, points(), True)[:, order] * sign
    assert np.abs(back - of_one_length(answer, points(), True)).max() < 1e-6


def test_ends_that_are_unknown_or_made_from_others_are_not_sure() -> None:
    seen = points(0.9, frames=2)
    assert surety(seen, True).min() == pytest.approx(0.9)
    seen[0, 3, :2] = np.nan
    assert surety(seen, True)[0, 2] == 0
    assert surety(seen, True)[1, 2] == pytest.approx(0.9)
    made = surety(seen, False)
    assert all((made[:, joint - 1] == 0).all() for joint in MADE_JOINTS)


def test_a_sequence_of_which_nothing_is_known_stays_finite() -> None:
    seen = np.full((FRAMES, 17, 3), np.nan, np.float32)
    answer = flattened(walker())
    assert np.abs(of_one_length(answer, seen, True) - answer).max() < 1e-5
