"""TRC, read back by a reader of its own made from OpenSim's description of the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.formats import Recording
from service.geometry.skeletons import H36M17

from .fake import NTSC, Floats, person, recording, standing, upright, walking, without, written


def read_trc(path: Path) -> tuple[dict[str, str], list[str], Floats, Floats]:
    """Header, marker names, times (frames,) and positions (frames, markers, 3) in the file's unit, NaN where empty."""
    lines = [line.split("\t") for line in path.read_text("ascii").split("\n")]
    assert lines[0][:3] == ["PathFileType", "4", "(X/Y/Z)"]
    header = dict(zip(lines[1], lines[2], strict=True))
    names = lines[3][2::3]
    assert lines[3][:2] == ["Frame#", "Time"]
    assert lines[4][:2] == ["", ""]
    assert lines[4][2:] == [f"{axis}{n + 1}" for n in range(len(names)) for axis in "XYZ"]
    body = [line for line in lines[5:] if line != [""]]
    numbers = np.array([[float(word) if word else np.nan for word in line] for line in body]).reshape(
        -1, 2 + 3 * len(names)
    )
    np.testing.assert_array_equal(numbers[:, 0], np.arange(len(numbers)) + 1)
    assert int(header["NumFrames"]) == len(numbers)
    assert int(header["NumMarkers"]) == len(names)
    return header, names, numbers[:, 1], numbers[:, 2:].reshape(len(numbers), len(names), 3)


def test_what_is_written_is_read_back_to_a_micrometre(tmp_path: Path) -> None:
    someone = person(walking(40))
    header, names, times, places = read_trc(written(recording(someone), "trc", tmp_path, 3))
    assert header["Units"] == "mm"
    assert names == list(H36M17.joints)
    expected = upright(someone.joints + someone.positions[:, None]) * 1000
    np.testing.assert_allclose(places, expected, atol=1e-3)
    np.testing.assert_allclose(times, np.arange(40) / NTSC, atol=1e-6)


@pytest.mark.parametrize(("rate", "told"), [(29.97, "29.97"), (NTSC, "29.97002997"), (25.0, "25"), (119.88, "119.88")])
def test_the_rate_is_not_rounded(tmp_path: Path, rate: float, told: str) -> None:
    header, _, times, _ = read_trc(written(recording(person(walking(9)), frames=9, rate=rate), "trc", tmp_path, 3))
    assert header["DataRate"] == header["CameraRate"] == header["OrigDataRate"] == told
    np.testing.assert_allclose(times, np.arange(9) / rate, atol=1e-6)


def test_a_standing_person_is_upright_with_y_up(tmp_path: Path) -> None:
    _, names, _, places = read_trc(written(recording(person(standing()[None]), frames=1), "trc", tmp_path, 3))
    at = dict(zip(names, places[0] / 1000, strict=True))
    assert at["head_top"][1] - at["left_ankle"][1] == pytest.approx(1.65, abs=1e-3)
    assert at["left_shoulder"][0] > at["right_shoulder"][0]  # faces the camera, that is +z


def test_missing_joints_and_frames_are_empty_fields(tmp_path: Path) -> None:
    def lose(arrays: dict[str, Any]) -> None:
        arrays["joints"][2, 5] = np.nan

    _, _, _, places = read_trc(
        written(recording(without(person(walking(4), first=1), lose), frames=6), "trc", tmp_path, 3)
    )
    unknown = np.all(np.isnan(places), axis=-1)
    assert unknown[[0, 5]].all()
    assert np.argwhere(unknown[1:5]).tolist() == [[2, 5]]


def test_a_variable_rate_becomes_an_even_grid_on_which_a_steady_walk_stays_steady(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(1).uniform(0.02, 0.05, 50))
    positions = np.stack([times, np.zeros(50), np.full(50, 4.0)], axis=-1)
    someone = person(np.tile(standing(), (50, 1, 1)), positions=positions)
    _, _, told, places = read_trc(written(recording(someone, times=times, rate=28.0), "trc", tmp_path, 3))
    np.testing.assert_allclose(places[:, 0, 0], 1000 * (told + times[0]), atol=0.05 / 28 * 1000)


def test_a_recording_without_frames_is_a_file_without_rows(tmp_path: Path) -> None:
    nobody = person(np.zeros((0, 17, 3)))
    given: Recording = recording(nobody, frames=0)
    header, _, times, _ = read_trc(written(given, "trc", tmp_path, 3))
    assert (header["NumFrames"], len(times)) == ("0", 0)
