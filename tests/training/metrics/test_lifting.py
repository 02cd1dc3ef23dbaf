"""3D protocols: hand-counted cases and what each figure does not notice."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics.lifting import Lifted, figures_3dhp, figures_by_action, mean_of_actions

RNG = np.random.default_rng(4)


def poses(frames: int) -> np.ndarray:
    joints = RNG.normal(0, 0.3, (frames, 17, 3))
    return joints - joints[:, :1]


def off_by(true: np.ndarray, metres: float) -> np.ndarray:
    moved = true.copy()
    moved[:, 1:, 0] += metres
    return moved


def test_frames_weigh_alike_within_an_action_and_actions_alike_in_the_mean() -> None:
    short, long, other = poses(1), poses(3), poses(10)
    figures = figures_by_action(
        [
            Lifted("Eating", off_by(short, 0.4), short),
            Lifted("Eating", long, long),
            Lifted("Walking", off_by(other, 0.2), other),
        ]
    )
    assert figures["Eating"]["p1"] == pytest.approx(400 * 16 / 17 / 4)
    assert figures["Walking"]["p1"] == pytest.approx(200 * 16 / 17)
    assert mean_of_actions(figures)["p1"] == pytest.approx((100 + 200) * 16 / 17 / 2)


def test_steps_are_within_a_sequence() -> None:
    """Each part is off by its own constant: no step is wrong, though one lies between the parts."""
    parts = [poses(4), poses(5)]
    figures = figures_by_action([Lifted("Eating", off_by(part, 0.1 * n), part) for n, part in enumerate(parts)])
    assert figures["Eating"]["velocity"] == pytest.approx(0, abs=1e-9)


def test_p2_forgives_a_similarity_and_n_a_scale() -> None:
    true = poses(6)
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    assert figures_by_action([Lifted("a", 1.7 * true @ turn + 3, true)])["a"]["p2"] == pytest.approx(0, abs=1e-6)
    scaled = figures_by_action([Lifted("a", 0.6 * true, true)])["a"]
    assert scaled["n"] == pytest.approx(0, abs=1e-9) and scaled["p1"] > 1


def test_a_lone_frame_has_no_velocity() -> None:
    assert np.isnan(figures_by_action([Lifted("a", poses(1), poses(1))])["a"]["velocity"])


def test_other_shapes_are_refused_by_action() -> None:
    with pytest.raises(ValueError, match="Eating"):
        figures_by_action([Lifted("Eating", poses(2), poses(3))])


def test_a_little_over_75_mm_has_all_of_pck_and_15_of_31_of_auc() -> None:
    true = poses(5)
    moved = true.copy()
    moved[:, :14, 1] += 0.0751
    figures = figures_3dhp([Lifted("TS1", moved, true)])
    assert figures["pck"] == 100
    assert figures["auc"] == pytest.approx(100 * 15 / 31)
    assert figures["mpjpe"] == pytest.approx(75.1 * 14 / 17)


def test_pelvis_spine_and_head_do_not_count_in_pck_and_the_root_is_the_15th() -> None:
    true = poses(3)
    moved = true.copy()
    moved[:, 15:] += 1
    assert figures_3dhp([Lifted("TS1", moved, true)])["pck"] == 100
    assert figures_3dhp([Lifted("TS1", true + 5, true)])["mpjpe"] == pytest.approx(0, abs=1e-9)
