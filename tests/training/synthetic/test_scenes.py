"""Scenes at random."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.motion import Motion
from training.data.synthetic.scenes import (
    Stage,
    crop_photo,
    crop_scene,
    photo_scene,
    random_figure,
    sequence_chances,
    whole_photo,
)

SIZE = (60, 80)


def test_the_same_generator_gives_the_same_picture(stage: Stage) -> None:
    first, second = (crop_photo(stage, SIZE, 1.75, np.random.default_rng(2)) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    for a, b in zip(first.people, second.people, strict=True):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)


def test_a_crop_has_its_person_in_the_middle_with_the_room_asked_for(stage: Stage) -> None:
    middles, shares = [], []
    for seed in range(12):
        scene = crop_scene(stage, SIZE, 1.75, np.random.default_rng(seed))
        flat = scene.view.project(scene.figures[0].outline)[:, :2]
        low, high = flat.min(0), flat.max(0)
        middles.append((low + high) / 2 / SIZE)
        shares.append(((high - low) / SIZE).max())
    assert np.quantile(np.abs(np.array(middles) - 0.5).max(1), 0.6) < 0.06
    assert np.median(shares) == pytest.approx(1 / 1.75, rel=0.12)
    assert max(shares) > 1.2  # some are close-ups


def test_others_stand_near_in_a_third_of_the_crops(stage: Stage) -> None:
    scenes = [crop_scene(stage, SIZE, 1.75, np.random.default_rng(seed)) for seed in range(30)]
    assert 4 < sum(len(scene.figures) > 1 for scene in scenes) < 20
    assert any(scene.things for scene in scenes)


def test_the_person_of_a_crop_can_be_seen(stage: Stage) -> None:
    for seed in range(5):
        photo = crop_photo(stage, SIZE, 1.75, np.random.default_rng(seed))
        assert photo.pixels.shape == (80, 60, 3) and photo.pixels.dtype == np.uint8
        assert any(person.owner == 0 for person in photo.people)


def test_a_photo_holds_one_to_three_people_whole_or_cut(stage: Stage) -> None:
    counts, cut = [], 0
    for seed in range(12):
        scene = photo_scene(stage, np.random.default_rng(seed), size=(160, 120))
        counts.append(len(scene.figures))
        assert [part.owner for one in scene.figures for part in one.parts] == sorted(
            part.owner for one in scene.figures for part in one.parts
        )
        for one in scene.figures:
            flat = scene.view.project(one.outline)[:, :2]
            cut += not ((flat >= 0) & (flat < scene.view.size)).all()
    assert set(counts) <= {1, 2, 3} and len(set(counts)) > 1 and 0 < cut < sum(counts) / 2


def test_a_photo_tells_everybody_and_their_camera(stage: Stage) -> None:
    photo = whole_photo(stage, np.random.default_rng(1), (160, 120))
    height, width = photo.pixels.shape[:2]
    assert (width, height) == photo.view.size and photo.people
    for person in photo.people:
        seen = person.keypoints[person.keypoints[:, 2] > 0]
        assert (seen[:, :2] >= 0).all() and (seen[:, 0] < width).all() and (seen[:, 1] < height).all()
        assert (person.joints[:, 2] > 0).all()


def test_some_figures_lie_or_are_upside_down(stage: Stage) -> None:
    made = [random_figure(stage, 0, np.random.default_rng(seed), tilted=1.0) for seed in range(12)]
    up = [(one.joints[8] - one.joints[0])[2] / np.linalg.norm(one.joints[8] - one.joints[0]) for one in made]
    assert min(up) < -0.2 and np.median(np.abs(up)) < 0.9
    assert all(one.outline[:, 2].min() > -1e-3 for one in made)


def test_rare_motion_is_drawn_more_often_than_its_minutes() -> None:
    starts = np.array([0, 900, 1000])
    motion = Motion(np.zeros((1000, 17, 3), np.float32), starts, np.array(["walk", "acrobatics"]), 50.0)
    chance = sequence_chances(motion)
    assert chance.sum() == pytest.approx(1) and chance[1] == pytest.approx(0.25)
