"""The fit of what a joint's score says, and what is written of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from service.networks import create
from service.pipelines.certainty import FIGURES, KINDS, Certainty, figures
from service.store.manifest import Manifest, WeightsFile
from service.store.store import CARD, Store
from tests.pipelines.fake import FakeEngine, figure
from training.certainty import HEADING, Answers, answers, error, fit, nearness, people_of, write
from training.metrics.keypoints import SIGMAS
from training.start import weights_of


def made(count: int) -> tuple[Answers, Certainty]:
    """Answers that are near by a known chance."""
    rng = np.random.default_rng(0)
    kinds = len(KINDS)
    slopes, poses, sides = np.linspace(0.8, 1.6, kinds), np.linspace(0.5, -0.2, kinds), np.linspace(-0.3, 0.4, kinds)
    truth = Certainty(np.column_stack([slopes, poses, sides, np.full(kinds, -0.5), np.linspace(-2, 1.5, kinds)]))
    points = rng.uniform(0.02, 0.98, (count, 17, 3))
    known = figures(points, np.exp(rng.uniform(3, 6, (count, 4))))
    near = rng.random((count, 17)) < truth.scores(known)
    return Answers(points[..., 2], known, near.astype(np.float64)), truth


def test_the_fit_finds_the_chance_that_joints_were_near_by() -> None:
    given, truth = made(4000)
    found = fit(given)
    assert np.abs(found.scores(given.known) - truth.scores(given.known)).mean() < 0.015
    np.testing.assert_array_equal(fit(given).weights, found.weights)


def test_scores_that_are_shares_have_no_error_and_peaks_that_mean_something_else_do() -> None:
    given, _ = made(4000)
    assert error(fit(given).scores(given.known), given.near) < 0.04 < 0.1 < error(given.peaks, given.near)


def test_near_is_cocos_similarity_joint_by_joint_and_0_where_nobody_labelled() -> None:
    labels = np.tile([50.0, 60.0, 2.0], (1, 17, 1))
    labels[0, 3, 2] = 0
    points = labels + np.array([3.0, 4.0, 0.0])
    near = nearness(points, labels, np.array([2500.0]))
    assert near[0, 11] == pytest.approx(np.exp(-25 / (2 * 2500 * (2 * SIGMAS[11]) ** 2)))
    assert near[0, 3] == 0
    assert (nearness(labels, labels, np.array([2500.0]))[0] == (labels[0, :, 2] > 0)).all()


def test_everybody_with_a_labelled_joint_is_asked_for_and_crowds_are_not(photos: Path) -> None:
    coco = json.loads((photos / "hand.json").read_text())
    asked = [(file, [person["id"] for person in people]) for file, people in people_of(coco)]
    assert asked == [("hand/1.png", [1, 2]), ("hand/2.png", [3])]
    detector = FakeEngine("pose", lambda row: figure(row.box))
    given = answers(photos, people_of(coco), detector)
    assert given.peaks.shape == given.near.shape == (3, 17) and given.known.shape == (3, 17, len(FIGURES))
    assert (given.near > 0).all() and (given.near < 1).all()
    with pytest.raises(ValueError, match="nobody"):
        answers(photos, iter(()), detector)


def test_the_manifest_keeps_the_weights_and_the_card_tells_them_once(tmp_path: Path) -> None:
    manifest = Manifest("detector", 1, "pose", "lite-hrnet", "", WeightsFile("MIT", False), joints="coco17")
    arrays = weights_of(create("lite-hrnet").state_dict())
    entry = Store(tmp_path).add(manifest, arrays, "# detector@1\n\n## Scores\n\nnone\n\n## Limits\n\nmany\n")
    _, truth = made(1)
    for _ in range(2):
        told = {"people": {"development": 7}, "error": 0.0123, "error_of_peaks": 0.1234}
        write(Store(tmp_path).find("detector"), truth, told)
    kept = Certainty.read(Store(tmp_path).find("detector").manifest.certainty)
    assert kept is not None
    np.testing.assert_array_equal(kept.weights, truth.weights)
    card = (entry.folder / CARD).read_text()
    assert "On 7 people" in card and "0.012 off" in card and "0.123" in card
    assert card.count(HEADING) == card.count("## Limits") == card.count("many") == 1
    assert Store(tmp_path).check() == []
