"""AlphaPose's list: written as it names a video's frames, read for its three layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import Unreadable
from service.formats import read_keypoints

from .fake import person, recording, walking, without, written


def test_what_is_written_is_read_back_to_a_hundredth_of_a_pixel(tmp_path: Path) -> None:
    def lose_a_knee(arrays: dict[str, Any]) -> None:
        arrays["keypoints"][2, 13] = np.nan, np.nan, 0

    people = [without(person(walking(12), id=4), lose_a_knee), person(walking(3), id=1, first=1)]
    path = written(recording(*people, frames=12), "alphapose", tmp_path)
    entry = json.loads(path.read_bytes())[0]
    assert (entry["image_id"], entry["idx"], len(entry["keypoints"]), len(entry["box"])) == ("0.jpg", 4, 51, 4)
    back = read_keypoints(path)
    np.testing.assert_array_equal(back.frames, np.arange(12))
    np.testing.assert_allclose(back.people[4], people[0].keypoints, atol=0.0051)
    np.testing.assert_allclose(back.people[1][1:4], people[1].keypoints, atol=0.0051)


@pytest.mark.parametrize(
    ("joints", "skeleton", "kept"), [(17, "coco17", 17), (26, "halpe26", 26), (136, "halpe26", 26)]
)
def test_each_layout_is_read_by_its_number_of_joints(tmp_path: Path, joints: int, skeleton: str, kept: int) -> None:
    path = tmp_path / "alphapose-results.json"
    path.write_text(json.dumps([{"image_id": "frame_12.jpg", "keypoints": [3, 4, 1.7] * joints, "score": 3.1}]))
    back = read_keypoints(path)
    assert (back.skeleton, back.frames.tolist()) == (skeleton, [12])
    np.testing.assert_array_equal(back.people[0], np.tile(np.array([3, 4, 1], np.float32), (1, kept, 1)))


def test_pictures_without_numbers_are_frames_in_the_order_of_their_names(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"image_id": name, "keypoints": [3, 4, 1] * 17} for name in ("b.png", "a.png")]))
    assert read_keypoints(path).frames.tolist() == [0, 1]


def test_a_file_of_two_layouts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    entries = [{"image_id": f"{joints}.jpg", "keypoints": [3, 4, 1] * joints, "idx": 1} for joints in (17, 26)]
    path.write_text(json.dumps(entries))
    with pytest.raises(Unreadable, match="people of 17 and of 26 joints"):
        read_keypoints(path)


def test_nobody_is_an_empty_list(tmp_path: Path) -> None:
    assert json.loads(written(recording(), "alphapose", tmp_path).read_bytes()) == []
