"""A person who stands before a tilted camera stands upright, on the floor, in every file with 3D; read by others."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import ezc3d
import numpy as np
import pytest
from pybvh import read_bvh_file

from service.formats import Recording, World
from service.geometry.skeletons import H36M17

from .fake import Floats, person, recording, standing, written
from .test_trc import read_trc

HEIGHT_M, PITCH_DEG = 1.5, 25.0  # of the camera, which looks down


def tilted() -> Recording:
    """Somebody who stands on the floor three metres before a camera that looks down on them, and its world."""
    angle = np.radians(PITCH_DEG)
    # World to camera: y up becomes y down, then the camera nods.
    nod = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    to_camera = nod @ np.diag([1.0, -1.0, -1.0])
    lowest = standing()[:, 1].max()
    pelvis = np.array([0.2, lowest, -3.0])  # in the world: the ankles on the floor
    frames = 5
    joints = np.tile(standing() @ np.diag([1.0, -1.0, -1.0]).T @ to_camera.T, (frames, 1, 1))
    positions = np.tile((pelvis - [0, HEIGHT_M, 0]) @ to_camera.T, (frames, 1))
    world = World(to_camera.T, np.array([0.0, HEIGHT_M, 0.0]))
    return recording(person(joints, positions=positions), frames=frames, rate=25.0, world=world)


def from_csv(path: Path) -> Floats:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    joints = [[[float(row[f"{joint}_{axis}_m"]) for axis in "xyz"] for joint in H36M17.joints] for row in rows]
    positions = [[float(row[f"position_{axis}_m"]) for axis in "xyz"] for row in rows]
    return np.array(joints, np.float64) + np.array(positions, np.float64)[:, None]


def from_npz(path: Path) -> Floats:
    with np.load(path) as arrays:
        assert arrays["has_world"]
        places: Floats = arrays["joints3d"] + arrays["position"][:, None]
    return places


def from_trc(path: Path) -> Floats:
    return read_trc(path)[3] / 1000


def from_c3d(path: Path) -> Floats:
    read = ezc3d.c3d(str(path))
    assert read["parameters"]["POINT"]["Y_SCREEN"]["value"] == ["+Y"]
    places: Floats = read["data"]["points"][:3].transpose(2, 1, 0) / 1000
    return places


def from_bvh(path: Path) -> Floats:
    read = read_bvh_file(path, world_up="+y")
    rows = [read.joint_index[joint] for joint in H36M17.joints]
    places: Floats = read.joint_positions()[:, rows] / 100
    return places


READERS: dict[str, Callable[[Path], Floats]] = {
    "csv": from_csv,
    "npz": from_npz,
    "trc": from_trc,
    "c3d": from_c3d,
    "bvh": from_bvh,
}


@pytest.mark.parametrize("name", READERS)
def test_who_stands_before_a_tilted_camera_stands_on_the_floor(name: str, tmp_path: Path) -> None:
    places = READERS[name](written(tilted(), name, tmp_path, None if name in ("csv", "npz") else 3))
    expected = standing() @ np.diag([1.0, -1.0, -1.0]).T + [0.2, standing()[:, 1].max(), -3.0]
    np.testing.assert_allclose(places, np.tile(expected, (5, 1, 1)), atol=2e-3)
    at = dict(zip(H36M17.joints, places[0], strict=True))
    assert at["left_ankle"][1] == pytest.approx(0, abs=2e-3)
    assert at["head_top"][1] == pytest.approx(1.65, abs=2e-3)
    lean = at["head_top"] - (at["left_ankle"] + at["right_ankle"]) / 2
    assert np.degrees(np.arccos(lean[1] / np.linalg.norm(lean))) < 2
