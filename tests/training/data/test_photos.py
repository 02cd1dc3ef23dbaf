from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from training.data.photos import DEVELOPMENT_PHOTOS, PhotoSetRecipe, read_photos, read_picture

from ..drawn_photos import annotation, joints_in, write_set


def test_hand_labels_are_worth_one_and_a_crowd_has_no_pose(photos: Path) -> None:
    one, two = read_photos(photos, PhotoSetRecipe(file="hand.json")).photos
    assert [len(one.people), len(two.people)] == [2, 2]
    assert np.allclose(one.people[0].joints[:, :2], joints_in([20, 10, 50, 100]))
    assert (one.people[0].joints[:, 2] == 1).all()
    person, crowd = two.people
    assert (person.has_pose, crowd.has_pose) == (True, False)
    assert (person.uncertain, crowd.uncertain) == (False, True)
    assert one.complete


def test_model_labels_are_worth_their_scores_and_ignored_poses_are_unlabelled(photos: Path) -> None:
    one, two = read_photos(photos, PhotoSetRecipe(file="wild.json")).photos
    assert np.allclose(one.people[0].joints[:, 2], np.linspace(0.3, 0.98, 17))
    assert not one.people[1].has_pose and not one.people[1].uncertain
    assert np.isnan(one.people[1].joints[:, :2]).all()
    assert two.people[0].uncertain
    clean = read_photos(photos, PhotoSetRecipe(file="wild.json", least_score=0.5)).photos[0].people[0]
    assert (clean.joints[:, 2] > 0).sum() == (np.linspace(0.3, 0.98, 17) >= 0.5).sum()


def test_unlabelled_joints_are_worth_nothing_as_the_faces_of_leeds_sports_poses(tmp_path: Path) -> None:
    person = annotation(1, 1, [20.0, 10, 50, 100])
    person["keypoints"][:15] = [0.0] * 15
    write_set(tmp_path, "sport", {1: [person]}, boxes_complete=False)
    photo = read_photos(tmp_path, PhotoSetRecipe(file="sport.json")).photos[0]
    assert photo.people[0].joints[:, 2].tolist() == [0] * 5 + [1] * 12
    assert not photo.complete


def test_the_development_split_and_its_rest_are_the_whole_and_never_change(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(1, 301)]
    people = [annotation(number, number, [0.0, 0, 9, 9]) for number in range(1, 301)]
    for name, order in (("a", images), ("b", images[::-1])):
        coco = {"images": order, "annotations": people, "categories": []}
        (tmp_path / f"{name}.json").write_text(json.dumps(coco))
    parts = {
        (name, split): {photo.id for photo in read_photos(tmp_path, PhotoSetRecipe(file=name, split=split)).photos}
        for name in ("a.json", "b.json")
        for split in ("training", "development")
    }
    assert len(parts["a.json", "development"]) == DEVELOPMENT_PHOTOS
    assert not parts["a.json", "development"] & parts["a.json", "training"]
    assert len(parts["a.json", "training"]) == 300 - DEVELOPMENT_PHOTOS
    assert parts["a.json", "development"] == parts["b.json", "development"]


def test_a_folder_of_nobody_has_photos_without_people(photos: Path) -> None:
    empty = read_photos(photos, PhotoSetRecipe(pictures="nobody")).photos
    assert [(photo.file.name, photo.people, photo.complete) for photo in empty] == [("empty.jpg", (), True)]


def test_pictures_are_rgb(photos: Path) -> None:
    assert read_picture(photos / "hand" / "1.png").shape == (120, 160, 3)
    x, y = joints_in([20, 10, 50, 100])[5].round().astype(int)
    assert read_picture(photos / "hand" / "1.png")[y, x].tolist() == [255, 255 - 75, 75]


def test_a_file_of_another_form_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a\.json.*annotations, categories, images"):
        read_photos(tmp_path, PhotoSetRecipe(file="a.json"))
    with pytest.raises(ValueError, match=r"b\.jpg is missing"):
        read_picture(tmp_path / "b.jpg")
