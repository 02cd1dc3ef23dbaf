"""COCO results: pycocotools reads them, and so do we."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from service.errors import Unreadable
from service.formats import read_keypoints
from service.geometry.skeletons import COCO17

from .fake import person, recording, walking, without, written


def lose_a_wrist(arrays: dict[str, Any]) -> None:
    arrays["keypoints"][4, 9] = np.nan, np.nan, 0


def test_pycocotools_scores_the_file_as_perfect_against_the_same_people(tmp_path: Path) -> None:
    people = [person(walking(6), id=1), person(walking(5), id=2, first=1)]
    given = recording(*people, frames=6)
    results = json.loads(written(given, "coco", tmp_path).read_bytes())
    truth = COCO()
    truth.dataset = {
        "images": [{"id": n, "width": 640, "height": 480} for n in range(6)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17.joints), "skeleton": []}],
        "annotations": [
            {
                **{key: entry[key] for key in ("image_id", "category_id", "bbox")},
                "id": n + 1,
                "keypoints": [2 if i % 3 == 2 else number for i, number in enumerate(entry["keypoints"])],
                "num_keypoints": 17,
                "area": entry["bbox"][2] * entry["bbox"][3],
                "iscrowd": 0,
            }
            for n, entry in enumerate(results)
        ],
    }
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "clip.json")), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert len(results) == 11
    assert evaluation.stats[0] == pytest.approx(1)


def test_what_is_written_is_read_back_to_a_hundredth_of_a_pixel(tmp_path: Path) -> None:
    people = [without(person(walking(6), id=5), lose_a_wrist), person(walking(3), id=2, first=2)]
    back = read_keypoints(written(recording(*people, frames=6), "coco", tmp_path))
    assert back.skeleton == "coco17"
    np.testing.assert_array_equal(back.frames, np.arange(6))
    np.testing.assert_allclose(back.people[5], people[0].keypoints, atol=0.0051)
    np.testing.assert_allclose(back.people[2][2:5], people[1].keypoints, atol=0.0051)
    assert np.isnan(back.people[2][[0, 1, 5], :, :2]).all()


def test_an_unknown_joint_is_three_zeros_and_one_of_hardly_any_score_is_not(tmp_path: Path) -> None:
    def doubt(arrays: dict[str, Any]) -> None:
        lose_a_wrist(arrays)
        arrays["keypoints"][4, 10, 2] = 1e-7

    entries = json.loads(
        written(recording(without(person(walking(5)), doubt), frames=5), "coco", tmp_path).read_bytes()
    )
    assert entries[4]["keypoints"][27:30] == [0, 0, 0]
    assert entries[4]["keypoints"][32] > 0


def test_nobody_is_an_empty_list(tmp_path: Path) -> None:
    path = written(recording(), "coco", tmp_path)
    assert json.loads(path.read_bytes()) == []
    assert read_keypoints(path).people == {}


def test_an_annotation_file_tells_its_size_and_its_visibilities_are_scores(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    numbers = [10, 20, 2, 11, 21, 1, 0, 0, 0, *[5, 6, 2] * 14]
    entry = {"image_id": 7, "category_id": 1, "keypoints": numbers}
    path.write_text(json.dumps({"images": [{"id": 7, "width": 64, "height": 48}], "annotations": [entry]}))
    back = read_keypoints(path)
    assert back.size == (64, 48)
    np.testing.assert_array_equal(back.people[0][0, :3, 2], [1, 1, 0])
    assert np.isnan(back.people[0][0, 2, 0])


def test_people_without_ids_are_followed_by_their_poses_whatever_their_order(tmp_path: Path) -> None:
    people = [person(walking(8), id=0), person(walking(8), id=1, positions=np.tile([1.3, 0, 4.5], (8, 1)))]
    path = written(recording(*people, frames=8), "coco", tmp_path)
    entries = json.loads(path.read_bytes())
    for entry in entries:
        del entry["track_id"]
    pairs = [entries[2 * n : 2 * n + 2][:: -1 if n % 3 else 1] for n in range(8)]
    path.write_text(json.dumps([entry for pair in pairs for entry in pair]))
    back = read_keypoints(path)
    assert sorted(back.people) == [0, 1]
    for each in people:
        np.testing.assert_allclose(back.people[each.id], each.keypoints, atol=0.0051)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_id": 1, "keypoints": [1, 2, 1] * 16}, "entry 0 must have 51 numbers, got 48"),
        ({"image_id": 1, "keypoints": [1, 2] * 17}, "flat list of x, y, score"),
        ({"image_id": 1, "keypoints": "none"}, "flat list of x, y, score"),
        ({"image_id": 1.5, "keypoints": [1, 2, 1] * 17}, "`image_id` of entry 0 must be a whole number, got 1.5"),
        ({"keypoints": [1, 2, 1] * 17}, "`image_id` of entry 0 must be a whole number, got None"),
    ],
)
def test_an_entry_that_is_not_cocos_is_refused_by_number(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps([entry]))
    with pytest.raises(Unreadable, match=message):
        read_keypoints(path)
