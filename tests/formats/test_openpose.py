"""OpenPose's files: BODY_25 out, BODY_25 and COCO-18 in."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import UnknownKind, Unreadable
from service.formats import files, read_keypoints
from service.formats.openpose import COCO18
from service.geometry.skeletons import BODY25, COCO17, to_coco17

from .fake import person, recording, walking, without, written


def test_a_zip_holds_one_file_a_frame_also_where_nobody_is(tmp_path: Path) -> None:
    archive = zipfile.ZipFile(written(recording(person(walking(3), first=1), frames=5), "openpose", tmp_path))
    assert archive.namelist() == [f"clip_{n:012d}_keypoints.json" for n in range(5)]
    contents = [json.loads(archive.read(name)) for name in archive.namelist()]
    assert [len(content["people"]) for content in contents] == [0, 1, 1, 1, 0]
    assert {len(someone["pose_keypoints_2d"]) for content in contents for someone in content["people"]} == {75}


def test_what_is_written_is_read_back_from_zip_and_folder(tmp_path: Path) -> None:
    def lose_a_hip(arrays: dict[str, Any]) -> None:
        arrays["keypoints"][1, COCO17.joints.index("left_hip")] = np.nan, np.nan, 0

    people = [without(person(walking(4), id=8), lose_a_hip), person(walking(2), id=2, first=1)]
    given = recording(*people, frames=5)
    folder = tmp_path / "frames"
    folder.mkdir()
    for name, content in files(given, "openpose", "clip"):
        (folder / name).write_bytes(b"".join(content))
    for path in (folder, written(given, "openpose", tmp_path)):
        back = read_keypoints(path)
        assert back.skeleton == "body25"
        np.testing.assert_array_equal(back.frames, np.arange(5))
        np.testing.assert_allclose(to_coco17(back.people[8], "body25")[:4], people[0].keypoints, atol=0.0051)
        np.testing.assert_allclose(to_coco17(back.people[2], "body25")[1:3], people[1].keypoints, atol=0.0051)
        assert np.isnan(back.people[8][1, BODY25.joints.index("mid_hip"), :2]).all()
        assert np.isnan(back.people[8][:, 19:, :2]).all()


def test_the_neck_lies_between_the_shoulders(tmp_path: Path) -> None:
    given = person(walking(1))
    back = read_keypoints(written(recording(given, frames=1), "openpose", tmp_path)).people[3][0]
    shoulders = given.keypoints[0, [COCO17.joints.index(f"{side}_shoulder") for side in ("left", "right")]]
    np.testing.assert_allclose(back[1, :2], shoulders[:, :2].mean(0), atol=0.0051)
    np.testing.assert_allclose(back[1, 2], shoulders[:, 2].min(), atol=1e-4)


def test_coco18_is_read_as_coco17_and_people_of_id_minus_one_are_followed(tmp_path: Path) -> None:
    for frame in (7, 8, 11):
        someone = [(100.0 + n, 50.0 + 3 * n, 0.5) for n in range(18)]
        someone[COCO18.index("left_ankle")] = (0, 0, 0)
        content = {"people": [{"person_id": [-1], "pose_keypoints_2d": [n for point in someone for n in point]}]}
        (tmp_path / f"walk_{frame:012d}_keypoints.json").write_text(json.dumps(content))
    back = read_keypoints(tmp_path)
    assert back.skeleton == "coco17"
    assert back.frames.tolist() == [7, 8, 11]
    points = back.people[0][0]
    assert points[COCO17.joints.index("right_wrist"), 0] == 100 + COCO18.index("right_wrist")
    assert np.isnan(points[COCO17.joints.index("left_ankle"), :2]).all()


def test_one_frame_alone_is_a_file_of_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "photo_keypoints.json"
    path.write_text(json.dumps({"people": [{"pose_keypoints_2d": [10, 20, 0.5] * 25}]}))
    assert read_keypoints(path).people[0].shape == (1, 25, 3)


def test_a_person_of_another_model_is_refused_by_file(tmp_path: Path) -> None:
    path = tmp_path / "x_3_keypoints.json"
    path.write_text(json.dumps({"people": [{"pose_keypoints_2d": [1, 2, 1] * 15}]}))
    with pytest.raises(Unreadable, match=r"x_3_keypoints\.json, person 0 must have 75 or 54 numbers, got 45"):
        read_keypoints(path)


def test_a_folder_without_openposes_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownKind, match=r"no \.json file"):
        read_keypoints(tmp_path)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UnknownKind, match=r"a\.json"):
        read_keypoints(tmp_path)
