"""CSV and npz, read back by Python's csv and by NumPy without pickle."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import UnknownKind, Unreadable
from service.formats import Recording, World, read_keypoints, table
from service.formats.angles import ANGLES, joint_angles
from service.formats.table import COLUMNS
from service.geometry.skeletons import COCO17, H36M17, SKELETONS

from .fake import CAMERA, NTSC, person, recording, standing, upright, walking, without, written


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def two_people() -> Recording:
    def lose(arrays: dict[str, Any]) -> None:
        arrays["keypoints"][1, 9] = np.nan, np.nan, 0
        arrays["joints"][1, 13] = np.nan
        arrays["positions"][2] = np.nan
        arrays["scores"][3] = np.nan

    return recording(without(person(walking(5), id=7), lose), person(walking(3), id=2, first=1), frames=5)


def test_csv_has_a_row_a_frame_and_person_with_the_numbers_of_each(tmp_path: Path) -> None:
    given = two_people()
    rows = read_csv(written(given, "csv", tmp_path))
    assert [(row["frame"], row["person"]) for row in rows] == [
        ("0", "7"), ("1", "2"), ("1", "7"), ("2", "2"), ("2", "7"), ("3", "2"), ("4", "7"),
    ]  # fmt: skip
    someone, row = given.people[0], rows[4]
    assert float(row["time_s"]) == pytest.approx(2 / NTSC, abs=1e-6)
    for n, joint in enumerate(COCO17.joints):
        told = [float(row[f"{joint}_{part}"]) for part in ("x_px", "y_px", "score")]
        np.testing.assert_allclose(told, someone.keypoints[2, n], atol=0.0051)
    joints = upright(someone.joints[2])
    for n, joint in enumerate(H36M17.joints):
        np.testing.assert_allclose([float(row[f"{joint}_{axis}_m"]) for axis in "xyz"], joints[n], atol=5.1e-5)
    for angle, degrees in zip(ANGLES, joint_angles(joints), strict=True):
        assert (
            row[f"{angle}_deg"] == ""
            if np.isnan(degrees)
            else float(row[f"{angle}_deg"]) == pytest.approx(degrees, abs=0.0051)
        )


def test_what_is_unknown_is_an_empty_field_in_csv(tmp_path: Path) -> None:
    rows = read_csv(written(two_people(), "csv", tmp_path))
    assert [rows[2][f"left_wrist_{part}"] for part in ("x_px", "y_px", "score")] == ["", "", ""]
    assert [rows[2][f"left_wrist_{axis}_m"] for axis in "xyz"] == ["", "", ""]
    assert rows[2]["left_elbow_flexion_deg"] == ""
    assert [rows[4][f"position_{axis}_m"] for axis in "xyz"] == ["", "", ""]
    assert not any("nan" in value.lower() for row in rows for value in row.values())


def test_a_standing_person_is_upright_with_y_up(tmp_path: Path) -> None:
    (row,) = read_csv(written(recording(person(standing()[None]), frames=1), "csv", tmp_path))
    assert float(row["head_top_y_m"]) - float(row["left_ankle_y_m"]) == pytest.approx(1.65, abs=1e-3)


def test_npz_holds_the_rows_exactly(tmp_path: Path) -> None:
    given = two_people()
    with np.load(written(given, "npz", tmp_path)) as read:
        assert read["person"].tolist() == [7, 7, 7, 7, 2, 2, 2]
        assert read["frame"].tolist() == [0, 1, 2, 4, 1, 2, 3]
        first, second = given.people
        here = [0, 1, 2, 4]
        np.testing.assert_array_equal(read["keypoints"], np.concatenate([first.keypoints[here], second.keypoints]))
        np.testing.assert_array_equal(read["box"], np.concatenate([first.boxes[here], second.boxes]))
        np.testing.assert_allclose(read["joints3d"][:4], upright(first.joints[here]), atol=1e-6)
        assert (float(read["rate"]), read["size"].tolist()) == (NTSC, [640, 480])
        assert (float(read["focal_px"]), str(read["camera_source"])) == (CAMERA.focal_px, "given")
        assert (read["stature"].tolist(), read["stature_source"].tolist()) == ([1.8, 1.8], ["given", "given"])
        assert read["joint_names"].tolist() == list(H36M17.joints)


@pytest.mark.parametrize("world", [None, World(np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]]), np.array([1.0, 2, 3]))])
def test_the_cameras_axes_can_be_had_back_from_npz(tmp_path: Path, world: World | None) -> None:
    someone = person(walking(4))
    with np.load(written(recording(someone, frames=4, world=world), "npz", tmp_path)) as read:
        axes = read["file_axes"]
        assert bool(read["has_world"]) is (world is not None)
        np.testing.assert_allclose(read["joints3d"] @ axes[:3, :3], someone.joints, atol=1e-6)
        np.testing.assert_allclose((read["position"] - axes[:3, 3]) @ axes[:3, :3], someone.positions, atol=1e-6)


def test_nobody_is_a_header_in_csv_and_arrays_of_no_rows_in_npz(tmp_path: Path) -> None:
    assert written(recording(), "csv", tmp_path).read_text() == ",".join(COLUMNS) + "\n"
    with np.load(written(recording(), "npz", tmp_path)) as read:
        assert read["keypoints"].shape == (0, 17, 3)
        assert len(read["times"]) == 40


# ---- Read as files of keypoints


@pytest.mark.parametrize("name", ["csv", "npz"])
def test_our_own_tables_are_read_as_keypoints(name: str, tmp_path: Path) -> None:
    given = two_people()
    read = read_keypoints(written(given, name, tmp_path))
    assert read.skeleton == "coco17" and read.frames.tolist() == [0, 1, 2, 3, 4] and set(read.people) == {2, 7}
    assert read.times is not None
    np.testing.assert_allclose(read.times, given.times, atol=1e-6)
    assert read.size == ((640, 480) if name == "npz" else None)
    np.testing.assert_allclose(read.people[7][2], given.people[0].keypoints[2], atol=0.0051)
    assert np.isnan(read.people[7][1, 9, 0]) and read.people[7][1, 9, 2] == 0
    assert np.isnan(read.people[7][3, :, 0]).all() and np.isnan(read.people[2][0, :, 0]).all()


def test_csv_of_another_skeleton_without_scores_or_people_is_read(tmp_path: Path) -> None:
    joints = SKELETONS["halpe26"].joints
    header = [f"{joint}_{axis}_px" for joint in joints for axis in "xy"]
    lines = [",".join(header), ",".join(str(n) for n in range(52)), ",".join(["", "", *map(str, range(2, 52))])]
    path = tmp_path / "poses.csv"
    path.write_text("\n".join(lines) + "\n")
    read = read_keypoints(path)
    assert read.skeleton == "halpe26" and read.times is None and read.people[0].shape == (2, 26, 3)
    assert read.people[0][0, 3].tolist() == [6, 7, 1] and np.isnan(read.people[0][1, 0, 0])


@pytest.mark.parametrize(
    "text, error, message",
    [("a,b\n1,2\n", UnknownKind, "nose|joint"), ("frame,person\n", UnknownKind, "coco17"), ("", UnknownKind, "coco17")],
)
def test_csv_without_joints_is_of_unknown_kind(text: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(error, match=message):
        read_keypoints(path)


def test_csv_with_a_field_that_is_no_number_is_refused_by_line(tmp_path: Path) -> None:
    path = written(two_people(), "csv", tmp_path)
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace(lines[2].split(",")[8], "west", 1)
    path.write_text("\n".join(lines))
    with pytest.raises(Unreadable, match="line 3"):
        read_keypoints(path)


@pytest.mark.parametrize(
    "arrays, skeleton, people",
    [
        ({"keypoints": np.ones((4, 17, 2))}, "coco17", 1),
        ({"keypoints": np.ones((3, 4, 33, 3)), "fps": 10.0}, "mediapipe33", 3),
        ({"keypoints": np.ones((4, 17, 3)), "skeleton": "h36m17", "image_size": [320, 240]}, "h36m17", 1),
    ],
)
def test_a_plain_npz_is_read(arrays: dict[str, Any], skeleton: str, people: int, tmp_path: Path) -> None:
    path = tmp_path / "poses.npz"
    np.savez(path, **arrays)
    read = read_keypoints(path)
    assert (read.skeleton, len(read.people), len(read.frames)) == (skeleton, people, 4)
    assert read.size == ((320, 240) if "image_size" in arrays else None)
    assert (read.times is None) == ("fps" not in arrays)
    assert (read.people[0][..., 2] == 1).all()


@pytest.mark.parametrize(
    "arrays",
    [
        {"points": np.ones(3)},
        {"keypoints": np.ones((4, 5, 2))},
        {"keypoints": np.ones((4, 17))},
        {"keypoints": np.array([{}], object)},
        {"keypoints": np.ones((4, 17, 2)), "skeleton": "spider"},
    ],
)
def test_another_npz_is_unreadable(arrays: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, **arrays)
    with pytest.raises(Unreadable, match="npz"):
        read_keypoints(path)


def test_bytes_that_only_bear_the_name_are_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "torn.npz"
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(Unreadable):
        read_keypoints(path)


def test_a_long_recording_is_the_same_csv_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = recording(person(walking(40)), person(walking(7), id=9, first=20))
    whole = written(given, "csv", tmp_path).read_bytes()
    monkeypatch.setattr(table, "FRAMES_A_BLOCK", 6)
    assert written(given, "csv", tmp_path).read_bytes() == whole
