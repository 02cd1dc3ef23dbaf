"""Tables for analysis: CSV text and NumPy's npz, one row a frame and person; read as well, for their keypoints.

Pixels from the picture's corner; metres in the files' axes, y up; degrees. An unknown number is an empty field in CSV
and NaN in npz.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.errors import UnknownKind, Unreadable
from service.geometry.skeletons import COCO17, H36M17, SKELETONS, UNKNOWN
from service.people import Array

from .angles import ANGLES, joint_angles
from .detections import MOST, KeypointFile, check_near
from .recording import Floats, Recording

COLUMNS = (
    *("frame", "time_s", "person", "score"),
    *(f"box_{part}_px" for part in ("x", "y", "width", "height")),
    *(f"{joint}_{part}" for joint in COCO17.joints for part in ("x_px", "y_px", "score")),
    *(f"position_{axis}_m" for axis in "xyz"),
    *(f"{joint}_{axis}_m" for joint in H36M17.joints for axis in "xyz"),
    *(f"{angle}_deg" for angle in ANGLES),
)
FRAMES_A_BLOCK = 1024  # a line is a hundred 64-bit numbers before it is text
DECIMALS = np.array([4] + [2] * 4 + [2, 2, 4] * 17 + [4] * 3 + [4] * 51 + [2] * len(ANGLES))  # from `score` on


def csv_chunks(recording: Recording) -> Iterator[bytes]:
    """The CSV file, a line at a time by frame and person, after a line with COLUMNS.

    The joints' metres are relative to joint 0 (the pelvis); `position` is where that is.
    """
    yield (",".join(COLUMNS) + "\n").encode("ascii")
    formats = [f"{{:.{decimals}f}}".format for decimals in DECIMALS]
    for block in recording.blocks(FRAMES_A_BLOCK):
        numbers = {person.id: _numbers(block, n) for n, person in enumerate(block.people)}
        for frame, people in block.rows():
            for person, row in people:
                told = [
                    "" if number != number else write(number)
                    for number, write in zip(numbers[person.id][row].tolist(), formats, strict=True)
                ]
                line = [str(int(block.indices[frame])), f"{block.times[frame]:.6f}", str(person.id), *told]
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


# ---- Read back


def read_csv(path: Path) -> KeypointFile:
    """A CSV with the columns `<joint>_x_px`, `<joint>_y_px` of one of our skeletons, perhaps `<joint>_score`.

    `frame` (else the rows' order), `person` (else one) and `time_s` are read where they are columns.

    Raises:
        UnknownKind: no skeleton has all its joints there. Unreadable: a field that is no number, by its line.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        table = csv.DictReader(file)
        try:
            columns = set(table.fieldnames or ())
        except csv.Error as error:
            raise Unreadable(f"`file` {path.name}, line 1: {error}", field="file") from error
        whole = [s for s in SKELETONS.values() if all(f"{j}_{a}_px" in columns for j in s.joints for a in "xy")]
        if not whole:
            known = ", ".join(SKELETONS)
            message = f"`file` {path.name} has no columns `<joint>_x_px` and `_y_px` for all joints of any of {known}"
            raise UnknownKind(message, field="file", limit=list(SKELETONS))
        skeleton = max(whole, key=lambda each: len(each.joints))
        frames, persons, times, poses = [], [], [], []
        try:
            for n, row in enumerate(table):
                frames.append(_whole(row["frame"]) if "frame" in columns else n)
                persons.append(_whole(row["person"]) if "person" in columns else 0)
                times.append(float(row["time_s"]) if "time_s" in columns else np.nan)
                poses.append(
                    [[_number(row, f"{joint}_{part}", columns) for part in PARTS] for joint in skeleton.joints]
                )
        except (TypeError, ValueError, csv.Error) as error:
            raise Unreadable(f"`file` {path.name}, line {len(poses) + 2}: {error}", field="file") from error
    with np.errstate(over="ignore"):
        points = np.array(poses, np.float32).reshape(-1, len(skeleton.joints), 3)
    numbers = np.array(frames, np.int64), np.array(persons, np.int64)
    return _by_person(skeleton.name, *numbers, points, np.array(times, np.float64), None)


def read_npz(path: Path) -> KeypointFile:
    """Our own npz, or one that holds `keypoints` (frames, joints, 2 or 3), or (people, frames, joints, 2 or 3).

    The latter may name `skeleton`, `image_size`, `fps` or `times`; without a skeleton the number of joints tells, 17
    being COCO's.

    Raises:
        Unreadable: arrays of another shape, or ones that NumPy cannot read without pickle.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in READ_ARRAYS}
        with np.errstate(over="raise", invalid="raise"):
            return _read_arrays(arrays)
    except Unreadable:
        raise
    except Exception as error:  # a stranger's file: what reads zips, headers and arrays raises many kinds
        why = str(error) or type(error).__name__
        raise Unreadable(f"`file` {path.name} is not an npz of keypoints: {why}", field="file") from error


PARTS = "x_px", "y_px", "score"
READ_ARRAYS = {
    *("keypoints", "frame", "person", "frames", "times", "size"),
    *("skeleton", "image_size", "fps"),
}
BY_JOINTS = {17: "coco17", 25: "body25", 26: "halpe26", 33: "mediapipe33"}


def _read_arrays(arrays: Mapping[str, NDArray[Any]]) -> KeypointFile:
    given = np.asarray(arrays["keypoints"], np.float32)
    if "person" in arrays:  # rows, as we write them
        clock = dict(zip(arrays["frames"].tolist(), arrays["times"].tolist(), strict=True))
        at = np.array([clock[frame] for frame in arrays["frame"].tolist()])
        if given.shape != (len(at), 17, 3):
            raise ValueError(f"`keypoints` must be 17 x 3 of each of the {len(at)} rows; got {given.shape}")
        whole = arrays["frame"].astype(np.int64), arrays["person"].astype(np.int64)
        return _by_person("coco17", *whole, given, at.astype(np.float64), _size(arrays["size"]))
    given = given[None] if given.ndim == 3 else given
    if given.ndim != 4 or given.shape[3] not in (2, 3) or not given.shape[1]:
        raise ValueError(
            f"`keypoints` must be frames x joints x 2 or 3, for several people in a list; got {given.shape}"
        )
    skeleton = str(arrays["skeleton"]) if "skeleton" in arrays else BY_JOINTS.get(given.shape[2], "")
    if skeleton not in SKELETONS or len(SKELETONS[skeleton].joints) != given.shape[2]:
        raise ValueError(f"{given.shape[2]} joints are not those of `skeleton` {skeleton or 'which is not told'}")
    points = np.concatenate([given, np.ones_like(given[..., :1])], axis=-1)[..., :3]
    points = _known(points)
    frames = np.arange(given.shape[1], dtype=np.int64)
    times: Floats | None = None
    if "times" in arrays:
        times = np.asarray(arrays["times"], np.float64).reshape(len(frames))
    elif "fps" in arrays:
        times = frames / float(arrays["fps"])
    if times is not None and not _rise(times):
        raise ValueError("`times` must be finite and rise from frame to frame, and `fps` be over 0")
    size = _size(arrays["image_size"]) if "image_size" in arrays else None
    return KeypointFile(skeleton, frames, dict(enumerate(points)), size, times)


def _size(sides: NDArray[Any]) -> tuple[int, int]:
    width, height = (int(side) for side in sides)
    if width < 1 or height < 1:
        raise ValueError(f"a picture's width and height must be 1 or more; got {width} x {height}")
    return width, height


def _rise(times: Floats) -> bool:
    return bool(np.isfinite(times).all()) and bool((np.diff(times) > 0).all())


def _known(points: Array) -> Array:
    """The points with what is not finite made unknown, and scores within 0..1."""
    points = np.where(np.isfinite(points).all(axis=-1, keepdims=True), points, UNKNOWN)
    points[..., 2] = np.clip(points[..., 2], 0, 1)
    return check_near(points, "the file")


def _by_person(
    skeleton: str,
    frames: NDArray[np.int64],
    persons: NDArray[np.int64],
    points: Array,
    times: Floats,
    size: tuple[int, int] | None,
) -> KeypointFile:
    """Rows of a frame and person each; of a pair that comes twice the last."""
    numbers, first = np.unique(frames, return_index=True)
    points = _known(points)
    people = {}
    for person in np.unique(persons):
        own = persons == person
        whole = np.full((len(numbers), *points.shape[1:]), UNKNOWN)
        whole[np.searchsorted(numbers, frames[own])] = points[own]
        people[int(person)] = whole
    at = times[first]
    return KeypointFile(skeleton, numbers, people, size, at if len(at) and _rise(at) else None)


def _whole(text: str) -> int:
    """A whole number of at most 62 bits."""
    number = int(text)
    if abs(number) > MOST:
        raise ValueError(f"{text[:40]} is too large")
    return number


def _number(row: Mapping[str, str], column: str, columns: set[str]) -> float:
    """A field's number; NaN for an empty one, 1 for a score in a file without scores."""
    if column not in columns:
        return 1.0
    return float(row[column]) if row[column] else np.nan
