"""The door: one file or a zip of them, by format and person, and keypoint files told apart by what they hold."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from service.errors import OutOfRange, UnknownKind, Unreadable
from service.formats import FORMATS, files, read_keypoints, write

from .fake import person, recording, walking


@pytest.mark.parametrize("name", ["trc", "c3d", "bvh"])
def test_a_format_of_one_person_a_file_is_a_zip_unless_a_person_is_named(name: str) -> None:
    given = recording(person(walking(4), id=1), person(walking(4), id=12), frames=4)
    whole, single = BytesIO(), BytesIO()
    assert write(given, name, "clip", whole) == (f"clip_{name}.zip", "application/zip")
    archive = zipfile.ZipFile(whole)
    assert archive.namelist() == [f"clip_person1.{name}", f"clip_person12.{name}"]
    assert write(given, name, "clip", single, person=12) == (f"clip_person12.{name}", FORMATS[name].media_type)
    assert archive.read(f"clip_person12.{name}") == single.getvalue()


@pytest.mark.parametrize("name", list(FORMATS))
def test_nobody_is_a_whole_file_in_every_format(name: str) -> None:
    file = BytesIO()
    file_name, _ = write(recording(frames=0), name, "clip", file)
    assert file.getvalue()
    if file_name.endswith(".zip"):
        assert zipfile.ZipFile(file).namelist() == []


@pytest.mark.parametrize("name", list(FORMATS))
def test_writing_changes_nothing_and_twice_gives_the_same(name: str) -> None:
    someone = person(walking(6))
    before = {key: np.copy(value) for key, value in vars(someone).items() if isinstance(value, np.ndarray)}
    contents = [[(file, b"".join(part)) for file, part in files(recording(someone, frames=6), name, "x")] for _ in "ab"]
    if name != "npz":  # a zip inside bears the time
        assert contents[0] == contents[1]
    for key, value in before.items():
        np.testing.assert_array_equal(getattr(someone, key), value)


def test_a_person_who_was_never_lifted_is_left_out_of_a_zip_of_bvh() -> None:
    flat = person(np.full((4, 17, 3), np.nan), id=1, positions=np.full((4, 3), np.nan))
    file = BytesIO()
    write(recording(flat, person(walking(4), id=2), frames=4), "bvh", "clip", file)
    assert zipfile.ZipFile(file).namelist() == ["clip_person2.bvh"]
    write(recording(flat, frames=4), "bvh", "clip", alone := BytesIO())
    assert zipfile.ZipFile(alone).namelist() == []


def test_an_unknown_format_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(OutOfRange, match=r"`format` must be one of csv, npz, .*; got 'fbx'"):
        write(recording(), "fbx", "clip", BytesIO())


@pytest.mark.parametrize("name", list(FORMATS))
def test_an_unknown_person_is_refused_in_every_format(name: str) -> None:
    with pytest.raises(OutOfRange, match="`person`"):
        write(recording(person(walking(2)), frames=2), name, "clip", BytesIO(), person=99)


@pytest.mark.parametrize("content", ["{}", "[1, 2]", "3", '{"people": 4}', '{"annotations": {}}'])
def test_json_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UnknownKind, match=r"other\.json"):
        read_keypoints(path)


def test_what_is_not_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text('[{"image_id": 1, ')
    with pytest.raises(Unreadable, match=r"broken\.json is not JSON"):
        read_keypoints(path)
