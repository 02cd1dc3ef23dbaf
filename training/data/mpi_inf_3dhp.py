"""MPI-INF-3DHP in the community's two npz files: eight subjects to train on, six test sequences in three scenes.

Joints stay in the data set's test order (17, the pelvis 15th); metres come out, relative to the pelvis.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .joint_orders import ROOT_3DHP
from .object_arrays import read_objects
from .takes import Take

TRAINING_FILE, TEST_FILE = "data_train_3dhp.npz", "data_test_3dhp.npz"
WHERE_FROM = (
    "MPI-INF-3DHP is had from vcai.mpi-inf.mpg.de/3dhp-dataset; the repositories of P-STMO and MHFormer link its"
    " conversion to this file"
)
SIZE = (2048, 2048)
OUTDOOR_SIZE = (1920, 1080)  # of TS5 and TS6
SCENES = {"TS1": "GS", "TS2": "GS", "TS3": "noGS", "TS4": "noGS", "TS5": "outdoor", "TS6": "outdoor"}


def read_3dhp_training(folder: Path) -> list[Take]:
    """Every camera of every training sequence.

    Raises:
        ValueError: the file is missing (the message says how people get it) or has not the form.
    """
    takes = []
    for sequence, (cameras, _) in _data(folder / TRAINING_FILE).items():
        takes += [_take(f"{sequence} {camera}", "training", told, SIZE) for camera, told in cameras.items()]
    return takes


def read_3dhp_test(folder: Path) -> list[Take]:
    """TS1 to TS6, with the frames that count; raises as `read_3dhp_training`."""
    takes = []
    for sequence, told in _data(folder / TEST_FILE).items():
        if sequence not in SCENES:
            raise ValueError(f"{folder / TEST_FILE} has a sequence {sequence!r}; known are {', '.join(SCENES)}")
        size = OUTDOOR_SIZE if SCENES[sequence] == "outdoor" else SIZE
        takes.append(_take(sequence, SCENES[sequence], told, size))
    return takes


def _data(path: Path) -> dict[str, Any]:
    told = read_objects(path, WHERE_FROM)
    if not isinstance(told.get("data"), dict):
        raise ValueError(f"{path} lacks `data` by sequence; it has {', '.join(told) or 'nothing'}")
    return dict(told["data"])


def _take(name: str, scene: str, told: Any, size: tuple[int, int]) -> Take:
    for part, last in (("data_2d", 2), ("data_3d", 3)):
        shape = np.shape(told.get(part))
        if len(shape) != 3 or shape[1:] != (17, last):
            raise ValueError(f"{name}: `{part}` must be (frames, 17, {last}), got {shape or 'nothing'}")
    joints = np.asarray(told["data_3d"], np.float64) / 1000
    relative = (joints - joints[:, ROOT_3DHP : ROOT_3DHP + 1]).astype(np.float32)
    valid = np.asarray(told["valid"]).astype(bool).ravel() if "valid" in told else None
    points = np.asarray(told["data_2d"], np.float32)
    return Take(name, scene, points, relative, size, "3dhp17", "3dhp17", valid)
