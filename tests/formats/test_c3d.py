"""C3D, read back by ezc3d and by the c3d package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import c3d
import ezc3d
import numpy as np
import pytest

from service.formats import c3d as writer
from service.geometry.skeletons import H36M17

from .fake import NTSC, person, recording, standing, upright, walking, without, written

pytestmark = pytest.mark.filterwarnings("ignore:No analog data found")  # which the c3d package finds odd


def lose_an_elbow(arrays: dict[str, Any]) -> None:
    arrays["joints"][7, 12] = np.nan


def test_ezc3d_reads_places_rate_names_units_and_what_is_missing(tmp_path: Path) -> None:
    someone = without(person(walking(20), first=5), lose_an_elbow)
    read = ezc3d.c3d(str(written(recording(someone, frames=30), "c3d", tmp_path, 3)))
    point = read["parameters"]["POINT"]
    assert point["LABELS"]["value"] == list(H36M17.joints)
    assert point["UNITS"]["value"] == ["mm"]
    assert (point["X_SCREEN"]["value"], point["Y_SCREEN"]["value"]) == (["+X"], ["+Y"])
    assert point["RATE"]["value"][0] == pytest.approx(NTSC, abs=1e-6)
    assert read["header"]["points"]["frame_rate"] == pytest.approx(NTSC, abs=1e-6)
    assert (read["header"]["points"]["first_frame"], read["header"]["points"]["last_frame"]) == (0, 29)
    places = read["data"]["points"][:3].transpose(2, 1, 0)
    residuals = read["data"]["meta_points"]["residuals"][0].T
    expected = np.full((30, 17, 3), np.nan)
    expected[5:25] = upright(someone.joints + someone.positions[:, None]) * 1000
    np.testing.assert_array_equal(residuals < 0, np.isnan(expected).any(-1))
    np.testing.assert_allclose(places[residuals >= 0], expected[residuals >= 0], atol=1e-3)
    assert np.isnan(places[residuals < 0]).all()


def test_the_c3d_package_reads_the_same(tmp_path: Path) -> None:
    someone = without(person(walking(20)), lose_an_elbow)
    with written(recording(someone, frames=20), "c3d", tmp_path, 3).open("rb") as file:
        reader = c3d.Reader(file)
        frames = np.array([points for _, points, _ in reader.read_frames()])
        labels = [label.strip() for label in reader.point_labels]
        assert (labels, reader.point_rate, reader.frame_count) == (list(H36M17.joints), np.float32(NTSC), 20)
    expected = upright(someone.joints + someone.positions[:, None]) * 1000
    known = np.isfinite(expected).all(-1)
    np.testing.assert_array_equal(frames[..., 3] >= 0, known)
    np.testing.assert_allclose(frames[known][:, :3], expected[known], atol=1e-3)


def test_a_standing_person_is_upright_along_what_the_file_calls_up(tmp_path: Path) -> None:
    read = ezc3d.c3d(str(written(recording(person(standing()[None]), frames=1), "c3d", tmp_path, 3)))
    assert read["parameters"]["POINT"]["Y_SCREEN"]["value"] == ["+Y"]
    up = dict(zip(read["parameters"]["POINT"]["LABELS"]["value"], read["data"]["points"][1, :, 0], strict=True))
    assert up["head_top"] - up["right_ankle"] == pytest.approx(1650, abs=1)


def test_a_point_far_away_is_told_as_exactly_and_by_a_larger_scale(tmp_path: Path) -> None:
    someone = person(standing()[None], positions=np.array([[0.0, 0, 90]]))
    read = ezc3d.c3d(str(written(recording(someone, frames=1), "c3d", tmp_path, 3)))
    scale = read["parameters"]["POINT"]["SCALE"]["value"][0]
    assert scale == pytest.approx(-90_020 / 32000, rel=1e-3)
    np.testing.assert_allclose(read["data"]["points"][2, 0, 0], -90_000, atol=0.01)


def test_more_frames_than_a_word_counts_are_all_read(tmp_path: Path) -> None:
    frames = writer.MOST_FRAMES + 10
    positions = np.stack([np.arange(frames) / 1000, np.zeros(frames), np.full(frames, 4.0)], axis=-1)
    someone = person(np.broadcast_to(standing(), (frames, 17, 3)), positions=positions)
    path = written(recording(someone, frames=frames), "c3d", tmp_path, 3)
    places = ezc3d.c3d(str(path))["data"]["points"]
    assert places.shape == (4, 17, frames)
    np.testing.assert_allclose(places[0, 0], np.arange(frames), atol=0.01)
    with path.open("rb") as file:
        assert c3d.Reader(file).last_frame == frames


def test_a_file_is_whole_blocks() -> None:
    someone = person(walking(7))
    content = b"".join(writer.chunks(recording(someone, frames=7), someone))
    assert len(content) % writer.BLOCK == 0


def test_a_recording_without_frames_is_a_file_without_points(tmp_path: Path) -> None:
    nobody = person(np.zeros((0, 17, 3)))
    read = ezc3d.c3d(str(written(recording(nobody, frames=0), "c3d", tmp_path, 3)))
    assert read["data"]["points"].shape == (4, 17, 0)
    assert read["parameters"]["POINT"]["FRAMES"]["value"] == [0]
