"""What other programs read and write: a recording to files by a format's name, and keypoint files to arrays.

The one door to this folder; each format lives in the file of its name. Knows no pipelines and no HTTP.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from service.errors import OutOfRange, UnknownKind, Unreadable

from . import alphapose, bvh, c3d, coco, openpose, table, trc
from .detections import KeypointFile
from .recording import RecordedPerson, Recording, World

__all__ = [
    "FORMATS",
    "Format",
    "KeypointFile",
    "RecordedPerson",
    "Recording",
    "World",
    "files",
    "read_keypoints",
    "write",
]

File = tuple[str, Iterable[bytes]]  # its name, and its content piece by piece


@dataclass(frozen=True)
class Format:
    """One format that recordings are written in.

    suffix and media_type: of one file. holds: "all" people and frames, "person": one person a file, "frame": one frame.
    files: all files of a recording, named after `stem`. of_3d: it holds 3D joints and nothing else. needs_3d: people
    who were never lifted have no file.
    """

    name: str
    suffix: str
    media_type: str
    holds: str
    files: Callable[[Recording, str], Iterator[File]]
    of_3d: bool = False
    needs_3d: bool = False


def _whole(suffix: str, chunks: Callable[[Recording], Iterable[bytes]]) -> Callable[[Recording, str], Iterator[File]]:
    def files(recording: Recording, stem: str) -> Iterator[File]:
        yield stem + suffix, chunks(recording)

    return files


def _each(
    suffix: str, chunks: Callable[[Recording, RecordedPerson, str], Iterable[bytes]]
) -> Callable[[Recording, str], Iterator[File]]:
    def files(recording: Recording, stem: str) -> Iterator[File]:
        for person in recording.people:
            name = f"{stem}_person{person.id}{suffix}"
            yield name, chunks(recording, person, name)

    return files


def _each_alone(
    suffix: str, chunks: Callable[[Recording, RecordedPerson], Iterable[bytes]]
) -> Callable[[Recording, str], Iterator[File]]:
    return _each(suffix, lambda recording, person, _: chunks(recording, person))


def _npz_chunks(recording: Recording) -> Iterator[bytes]:
    file = BytesIO()
    table.write_npz(recording, file)
    yield file.getvalue()


def _openpose_files(recording: Recording, stem: str) -> Iterator[File]:
    for name, content in openpose.files(recording, stem):
        yield name, [content]


FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format("csv", ".csv", "text/csv", "all", _whole(".csv", table.csv_chunks)),
        Format("npz", ".npz", "application/octet-stream", "all", _whole(".npz", _npz_chunks)),
        Format("coco", ".json", "application/json", "all", _whole(".json", coco.chunks)),
        Format("alphapose", ".json", "application/json", "all", _whole(".json", alphapose.chunks)),
        Format("openpose", ".json", "application/json", "frame", _openpose_files),
        Format("trc", ".trc", "text/plain", "person", _each(".trc", trc.chunks), of_3d=True),
        Format("c3d", ".c3d", "application/octet-stream", "person", _each_alone(".c3d", c3d.chunks), of_3d=True),
        Format("bvh", ".bvh", "text/plain", "person", _each_alone(".bvh", bvh.chunks), of_3d=True, needs_3d=True),
    )
}


def files(recording: Recording, name: str, stem: str, person: int | None = None) -> Iterator[File]:
    """The files of a recording in that format, of that person alone if one is given: names and content in pieces.

    Raises:
        OutOfRange: an unknown format or person.
    """
    if name not in FORMATS:
        known = list(FORMATS)
        raise OutOfRange(f"`format` must be one of {', '.join(known)}; got {name!r}", field="format", limit=known)
    chosen = recording if person is None else recording.of(person)
    if FORMATS[name].needs_3d:
        lifted = tuple(each for each in chosen.people if np.isfinite(each.joints).all(axis=-1).any())
        if person is not None and not lifted:
            raise OutOfRange(f"`person` {person} has no 3D joints, which {name} is made of", field="person")
        chosen = replace(chosen, people=lifted)
    return FORMATS[name].files(chosen, stem)


def write(recording: Recording, name: str, stem: str, file: BinaryIO, person: int | None = None) -> tuple[str, str]:
    """Writes one file: the format's own where that holds everybody or a person is given, else a zip of all its files.

    Returns:
        The file's name and its media type.

    Raises:
        OutOfRange: an unknown format or person.
    """
    parts = files(recording, name, stem, person)
    form = FORMATS[name]
    if form.holds == "all" or (form.holds == "person" and person is not None):
        file_name, content = next(parts)
        for chunk in content:
            file.write(chunk)
        return file_name, form.media_type
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for file_name, content in parts:
            with archive.open(file_name, "w", force_zip64=True) as entry:
                for chunk in content:
                    entry.write(chunk)
    return f"{stem}_{name}.zip", "application/zip"


READERS: dict[str, Callable[[Path], KeypointFile]] = {".csv": table.read_csv, ".npz": table.read_npz}


def read_keypoints(path: Path) -> KeypointFile:
    """Keypoints over frames from COCO, AlphaPose or OpenPose JSON, told apart by what they hold, or from CSV or npz.

    Args:
        path: a JSON file, OpenPose's folder (or a zip of it) with one file a frame, or a `.csv` or `.npz`.

    Raises:
        UnknownKind: JSON of another kind. Unreadable: not JSON, or not what its kind says.
    """
    if path.suffix.lower() in READERS:
        return READERS[path.suffix.lower()](path)
    if path.is_dir() or zipfile.is_zipfile(path):
        contents = [(name, _parsed(body, name)) for name, body in _members(path)]
        wrong = [name for name, content in contents if not _is_openpose(content)]
        if wrong or not contents:
            what = wrong[0] if wrong else "no .json file is there"
            raise UnknownKind(f"`file` {path.name} must hold OpenPose's JSON, one file a frame: {what}", field="file")
        return openpose.read(contents)
    content = _parsed(path.read_bytes(), path.name)
    if _is_openpose(content):
        return openpose.read([(path.name, content)])
    if isinstance(content, dict) and _are_objects(content.get("annotations")):
        return coco.read(content)
    if _are_objects(content):
        named = any(isinstance(entry.get("image_id"), str) for entry in content)
        return alphapose.read(content) if named else coco.read(content)
    raise UnknownKind(f"`file` {path.name} is JSON, but not of COCO, AlphaPose or OpenPose", field="file")


def _members(path: Path) -> list[tuple[str, bytes]]:
    """The JSON files of a folder or a zip of it, by name."""
    try:
        folder = path if path.is_dir() else zipfile.Path(path)
        found = [each for each in folder.iterdir() if each.name.endswith(".json")]
        return [(each.name, each.read_bytes()) for each in sorted(found, key=lambda each: each.name)]
    except Exception as error:  # a stranger's zip: broken, packed in an unknown way, or with a password
        if path.is_dir():
            raise
        why = str(error) or type(error).__name__
        raise Unreadable(f"`file` {path.name} is no zip that can be read: {why}", field="file") from error


def _parsed(body: bytes, name: str) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"`file` {name} is not JSON: {error}", field="file") from error


def _are_objects(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(entry, dict) for entry in content)


def _is_openpose(content: Any) -> bool:
    return isinstance(content, dict) and _are_objects(content.get("people"))
