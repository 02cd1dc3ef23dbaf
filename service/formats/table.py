"""Tables for analysis: CSV text and NumPy's npz, one row a frame and person.

Pixels from the picture's corner; metres in the files' axes, y up; degrees. An unknown number is an empty field in CSV
and NaN in npz.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from service.geometry.skeletons import COCO17, H36M17

from .angles import ANGLES, joint_angles
from .recording import Floats, Recording

COLUMNS = (
    *("frame", "time_s", "person", "score"),
    *(f"box_{part}_px" for part in ("x", "y", "width", "height")),
    *(f"{joint}_{part}" for joint in COCO17.joints for part in ("x_px", "y_px", "score")),
    *(f"position_{axis}_m" for axis in "xyz"),
    *(f"{joint}_{axis}_m" for joint in H36M17.joints for axis in "xyz"),
    *(f"{angle}_deg" for angle in ANGLES),
)
DECIMALS = np.array([4] + [2] * 4 + [2, 2, 4] * 17 + [4] * 3 + [4] * 51 + [2] * len(ANGLES))  # from `score` on


def csv_chunks(recording: Recording) -> Iterator[bytes]:
    """The CSV file, a line at a time by frame and person, after a line with COLUMNS.

    The joints' metres are relative to joint 0 (the pelvis); `position` is where that is.
    """
    yield (",".join(COLUMNS) + "\n").encode("ascii")
    numbers = {person.id: _numbers(recording, n) for n, person in enumerate(recording.people)}
    formats = [f"{{:.{decimals}f}}".format for decimals in DECIMALS]
    for frame, people in recording.rows():
        for person, row in people:
            told = [
                "" if number != number else write(number)
                for number, write in zip(numbers[person.id][row].tolist(), formats, strict=True)
            ]
            line = [str(int(recording.indices[frame])), f"{recording.times[frame]:.6f}", str(person.id), *told]
            yield (",".join(line) + "\n").encode("ascii")


def write_npz(recording: Recording, file: BinaryIO) -> None:
    """The npz file, rows by person and frame, and what they were seen with; docs/formats.md lists its arrays.

    file_axes (4, 4) is what the camera's axes were turned and moved by, so that they can be had back.
    """
    people = recording.people
    rows = [np.flatnonzero(person.present) for person in people]
    turned = [recording.in_file_axes(person) for person in people]
    frames = _stacked([person.first + here for person, here in zip(people, rows, strict=True)], np.int64)
    axes = np.eye(4)
    axes[:3, :3], axes[:3, 3] = recording.file_axes.rotation, recording.file_axes.translation
    np.savez_compressed(
        file,
        frame=recording.indices[frames],
        time=recording.times[frames],
        person=np.repeat(np.array([person.id for person in people], np.int64), [len(here) for here in rows]),
        score=_stacked([person.scores[here] for person, here in zip(people, rows, strict=True)]),
        box=_stacked([person.boxes[here] for person, here in zip(people, rows, strict=True)], shape=(4,)),
        keypoints=_stacked([person.keypoints[here] for person, here in zip(people, rows, strict=True)], shape=(17, 3)),
        joints3d=_stacked([joints[here] for (joints, _), here in zip(turned, rows, strict=True)], shape=(17, 3)),
        position=_stacked([place[here] for (_, place), here in zip(turned, rows, strict=True)], shape=(3,)),
        frames=recording.indices,
        times=recording.times,
        rate=np.float64(recording.rate),
        size=np.array(recording.size),
        people=np.array([person.id for person in people], np.int64),
        stature=np.array([person.scale.stature for person in people], np.float64),
        stature_source=np.array([person.scale.source for person in people], "U8"),
        focal_px=np.float64(recording.camera.focal_px),
        center=np.array(recording.camera.center, np.float64),
        distortion=np.array(recording.camera.distortion or (), np.float64),
        camera_source=np.array(recording.camera.source),
        file_axes=axes,
        has_world=np.bool_(recording.camera_to_world is not None),
        keypoint_names=np.array(COCO17.joints),
        joint_names=np.array(H36M17.joints),
    )


def _numbers(recording: Recording, n: int) -> Floats:
    """(frames, columns from `score` on) of the person in place n."""
    person = recording.people[n]
    joints, positions = recording.in_file_axes(person)
    count = len(joints)
    # An unknown joint's score of 0 would read as one that was seen badly.
    known = np.isfinite(person.keypoints).all(axis=-1, keepdims=True)
    keypoints = np.where(known, person.keypoints, np.nan)
    parts = [person.scores, person.boxes, keypoints, positions, joints, joint_angles(joints)]
    return np.concatenate([np.asarray(part, np.float64).reshape(count, -1) for part in parts], axis=1)


def _stacked(
    parts: list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
    dtype: type[np.generic] = np.float32,
    shape: tuple[int, ...] = (),
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """The people's rows one after another, also where nobody is."""
    return np.concatenate([np.zeros((0, *shape), dtype), *(part.astype(dtype) for part in parts)])
