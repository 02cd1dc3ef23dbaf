"""The chance that a person is there: what it is made of, and what it does to the people of a photo."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from service.engines.framing import CropRow, Found
from service.pipelines.lift import LiftPipeline
from service.pipelines.photo import SPARE_PEOPLE, PhotoOptions, PhotoPipeline
from service.pipelines.presence import FIGURES, SURE_POSE, Array, Presence, figures
from service.store.store import Store, embedded_store

from .fake import FRAMES, FakeEngine, Fakes, call, figure, running, street

TABLE: dict[str, Any] = {
    "pose": "fake-pose@1",
    "offset": -1.0,
    "weights": {"finder": 2.0, "joints": 3.0, "extent": 1.0},
}
BOXES = np.array([[20, 40, 60, 150], [120, 60, 50, 140], [220, 30, 70, 180]], np.float32)
SCORES = np.array([0.9, 0.5, 0.3], np.float32)
POSES = np.stack([figure(box) for box in BOXES]).astype(np.float32)


def read(table: dict[str, Any]) -> Presence:
    presence = Presence.read({"detector@1": table}, "detector@1")
    assert presence is not None
    return presence


def test_beside_a_detector_that_it_was_not_fitted_for_there_is_none() -> None:
    assert Presence.read({"detector@1": TABLE}, "detector@2") is None
    assert Presence.read({}, "detector@1") is None


def test_figures_are_the_finders_logit_the_mean_joint_and_the_extent() -> None:
    known = figures(BOXES, SCORES, POSES)
    assert known.shape == (3, len(FIGURES))
    np.testing.assert_allclose(known[:, 0], np.log(SCORES / (1 - SCORES)), rtol=1e-5)
    np.testing.assert_allclose(known[:, 1], POSES[..., 2].mean(1))
    spans = POSES[0, POSES[0, :, 2] > 0.5, :2]
    share = np.prod(spans.max(0) - spans.min(0)) / np.prod(BOXES[0, 2:])
    assert known[0, 2] == pytest.approx(share, abs=1e-5)
    unseen = POSES.copy()
    unseen[..., 2] = 0.1
    assert (figures(BOXES, SCORES, unseen)[:, 2] == 0).all()


def test_one_by_one_or_all_at_once_is_the_same_and_nobody_is_nobody() -> None:
    presence = read(TABLE)
    one = [presence.chances(BOXES[n : n + 1], SCORES[n : n + 1], POSES[n : n + 1])[0] for n in range(3)]
    np.testing.assert_array_equal(presence.chances(BOXES, SCORES, POSES), one)
    assert presence.chances(BOXES[:0], SCORES[:0], POSES[:0]).shape == (0,)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_finder_that_is_beyond_doubt_gives_a_finite_chance(score: float) -> None:
    chances = read(TABLE).chances(BOXES, np.full(3, score, np.float32), POSES)
    assert ((chances > 0) & (chances < 1) | (chances == round(score))).all()


def test_a_surer_pose_and_a_surer_finder_make_a_likelier_person() -> None:
    presence = read(TABLE)
    doubtful: Array = POSES.copy()
    doubtful[..., 2] *= np.float32(0.5)
    assert (presence.chances(BOXES, SCORES, POSES) > presence.chances(BOXES, SCORES, doubtful)).all()
    assert (presence.chances(BOXES, SCORES, POSES) > presence.chances(BOXES, SCORES * np.float32(0.5), POSES)).all()


@pytest.mark.parametrize(
    "broken", [{"offset": 1.0}, {"weights": TABLE["weights"]}, TABLE | {"weights": {"finder": 1.0}}]
)
def test_a_table_that_lacks_something_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match="`presence` of detector@1 must have `offset` and `weights` of finder, joints, extent"
    ):
        read(broken)


@pytest.mark.parametrize("chance", [0.01, 0.4, 0.9, 1.0])
def test_at_the_least_score_a_sure_pose_makes_just_the_chance(chance: float) -> None:
    presence = read(TABLE)
    least = presence.least_score(chance)
    best = np.array([[np.log(least / (1 - least)), SURE_POSE, SURE_POSE]])
    assert presence.of(best)[0] == pytest.approx(chance, abs=1e-6)


# ---- In a photo


def seen(presence: Presence | None, found: Found, options: PhotoOptions, pose: Any = None) -> tuple[Any, int]:
    async def main() -> tuple[Any, int]:
        fakes = Fakes()
        fakes.person = FakeEngine("person", lambda row: found, budget=1)
        fakes.pose = FakeEngine("pose", pose or (lambda row: figure(row.box)))
        async with running(fakes.person, fakes.pose, fakes.lift) as (person, detector, lift):
            photo = PhotoPipeline(person, detector, LiftPipeline(lift, FRAMES), presence)
            return await photo.keypoints(street(), options, call()), len(fakes.pose.rows)

    return asyncio.run(main())


def test_the_score_of_a_found_person_is_the_chance() -> None:
    presence = read(TABLE)
    (_, scores, points), _ = seen(presence, Found(BOXES, SCORES), PhotoOptions(min_person_score=0.01))
    np.testing.assert_allclose(scores, presence.chances(BOXES, SCORES, points))
    (boxes, scores, _), _ = seen(presence, Found(BOXES, SCORES), PhotoOptions(boxes=BOXES))
    assert (scores == 1).all()
    np.testing.assert_array_equal(boxes, BOXES)


def test_a_pose_lifts_and_sinks_people_over_and_under_the_least_score() -> None:
    """The second is sure to be nobody, the third surely somebody, whatever the finder thinks of them."""

    def pose(row: CropRow) -> Array:
        return figure(row.box, 0.05 if row.box[0] == BOXES[1, 0] else 0.9)

    presence = Presence({"finder": 1.0, "joints": 4.0, "extent": 0.0}, -1.0)
    (boxes, _, _), _ = seen(presence, Found(BOXES, SCORES), PhotoOptions(min_person_score=0.4), pose)
    np.testing.assert_array_equal(boxes, BOXES[[0, 2]])
    (boxes, _, _), _ = seen(None, Found(BOXES, SCORES), PhotoOptions(min_person_score=0.4), pose)
    np.testing.assert_array_equal(boxes, BOXES[[0, 1]])


def test_the_candidates_are_few_and_the_people_no_more_than_asked_for() -> None:
    crowd = np.array([[3 * n, 0, 40 + n, 80] for n in range(60)], np.float32)
    found = Found(crowd, np.linspace(0.9, 0.45, 60, dtype=np.float32))
    presence = Presence({"finder": 1.0, "joints": 0.0, "extent": 0.0}, 0.0)
    (boxes, scores, _), rows = seen(presence, found, PhotoOptions(max_people=5, second_look=False))
    assert rows == 5 + SPARE_PEOPLE
    assert len(boxes) <= 5
    assert (np.diff(scores) <= 0).all()
    low = Found(BOXES, np.array([0.9, 0.41, 0.39], np.float32))
    assert seen(presence, low, PhotoOptions(second_look=False))[1] == 2


@pytest.mark.parametrize("permissive", [False, True])
def test_the_default_finders_chance_was_fitted_with_the_default_detector(permissive: bool) -> None:
    store = Store(embedded_store())
    person, pose = (store.default(role, permissive=permissive) for role in ("person", "pose"))
    assert Presence.read(person.manifest.presence, pose.label) is not None
