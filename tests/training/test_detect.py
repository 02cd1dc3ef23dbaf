"""Our own detector over a data set's videos: which files, whose box, and a file that the reader reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.engines.framing import CropRow, Found
from tests.pipelines.fake import FakeEngine
from training.data.human36m import read_human36m, views
from training.detect import as_served, follow, videos_of, write_detections
from training.fixtures import FRAMES, write_human36m

CAMERAS = [view.id for view in views("S1")]


def touched(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(b"")


def test_takes_have_the_3d_files_names_and_the_cameras_order(tmp_path: Path) -> None:
    names = [f"{take}.{camera}.mp4" for take in ("TakingPhoto", "Walking 1") for camera in reversed(CAMERAS)]
    touched(tmp_path / "S1" / "Videos", [*names, f"_ALL.{CAMERAS[0]}.mp4", "notes.txt"])
    found = videos_of(tmp_path, "S1")
    assert set(found) == {"Photo", "Walking 1"}
    assert [file.name for file in found["Photo"]] == [f"TakingPhoto.{camera}.mp4" for camera in CAMERAS]


def test_missing_videos_and_views_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no videos of S1"):
        videos_of(tmp_path, "S1")
    touched(tmp_path / "S1", [f"Eating.{camera}.mp4" for camera in CAMERAS[1:]])
    with pytest.raises(ValueError, match=f"S1 'Eating' lacks the video of camera {CAMERAS[0]}"):
        videos_of(tmp_path, "S1")


def test_the_surest_box_is_followed_and_kept_where_nobody_is_found() -> None:
    boxes = [[[1, 2, 30, 40], [5, 5, 9, 9]], [], [[3, 4, 30, 40]]]
    answers = iter(
        Found(np.array(b, np.float32).reshape(-1, 4), np.linspace(0.9, 0.5, len(b), dtype=np.float32)) for b in boxes
    )
    seen = []

    def pose(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
        seen.append(box.tolist())
        points = np.column_stack([np.arange(17), np.arange(17), np.full(17, 0.9)]).astype(np.float32)
        if len(seen) == 3:
            points[9, :2] = np.nan  # the left wrist
        return points

    joints = follow(lambda _: next(answers), pose, [np.zeros((50, 60, 3), np.uint8)] * 3)
    assert seen == [[1, 2, 30, 40], [1, 2, 30, 40], [3, 4, 30, 40]]
    assert joints.shape == (3, 17, 2) and np.isfinite(joints).all()
    assert joints[2, 13].tolist() == joints[1, 13].tolist() == [9, 9]
    assert joints[0, 0].tolist() == [11.5, 11.5], "the pelvis is made of the hips"


def test_what_is_written_is_read_as_a_2d_file(tmp_path: Path) -> None:
    write_human36m(tmp_path / "made")
    tmp_path /= "made"
    exact = {take.name: take.points for take in read_human36m(tmp_path, ["S9"], "exact")}
    points: dict[str, dict[str, list[np.ndarray]]] = {"S9": {}}
    for name in ("Directions", "Directions 1", "WalkingDog"):
        points["S9"][name] = [exact[f"S9 {name} {camera}"] for camera in CAMERAS]
    write_detections(tmp_path / "data_2d_h36m_ours-x.npz", points)
    read = read_human36m(tmp_path, ["S9"], "ours-x")
    assert all(len(take.points) == FRAMES for take in read)
    assert all(np.array_equal(take.points, exact[take.name]) for take in read)


def test_who_lies_in_a_photo_is_looked_at_again_and_the_surer_pose_stays() -> None:
    lying = np.column_stack([np.linspace(0, 80, 17), np.full(17, 40), np.full(17, 0.5)]).astype(np.float32)
    lying[[11, 12], 0] = 80  # the hips right of the shoulders: a trunk that lies
    standing = lying[:, [1, 0, 2]]
    asked: list[CropRow] = []

    def answer(row: CropRow) -> np.ndarray:
        asked.append(row)
        points = (lying if np.asarray(row.picture).any() else standing).copy()
        points[:, 2] = 0.5 if row.rotation in (0.0, 180.0) else 0.9
        return points

    engine = FakeEngine("pose", answer)
    pose, box = as_served(engine, None), np.array([0, 0, 80, 80], np.float32)
    assert pose(np.full((90, 90, 3), 255, np.uint8), box)[0, 2] == pytest.approx(0.9)
    assert [row.rotation for row in asked] == pytest.approx([0.0, -90.0, 180.0])
    asked.clear()
    assert pose(np.zeros((90, 90, 3), np.uint8), box)[0, 2] == pytest.approx(0.5)
    assert len(asked) == 1 and not asked[0].flip_test
