"""Laws of what reads files: other programs' keypoints (OpenPose, AlphaPose, COCO, CSV, npz), and manifests."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StoreBroken
from service.formats import KeypointFile, RecordedPerson, read_keypoints, write
from service.geometry.skeletons import SKELETONS
from service.store.manifest import DataSource, Manifest, Score, WeightsFile, read, to_toml
from tests.formats.fake import person, recording, walking

from .strangers import FEW, MANY, VALUES, Strategy, nearly, refused_by_field, torn

FORMATS_READ = ["openpose", "alphapose", "coco", "csv", "npz"]


@pytest.fixture(autouse=True, scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def read_file(folder: Path, name: str, content: bytes) -> KeypointFile | None:
    path = folder / name
    path.write_bytes(content)
    found = refused_by_field(lambda: read_keypoints(path))
    if found is not None:
        hold_the_promise(found)
    return found


def hold_the_promise(found: KeypointFile) -> None:
    """What `poselift lift` may rely on."""
    joints = len(SKELETONS[found.skeleton].joints)
    assert found.frames.dtype == np.int64 and (np.diff(found.frames) > 0).all()
    for id_, points in found.people.items():
        assert type(id_) is int and points.shape == (len(found.frames), joints, 3)
        known = np.isfinite(points[..., 0])
        assert (np.isfinite(points[..., 1]) == known).all() and np.isfinite(points[..., 2]).all()
        assert (points[~known, 2] == 0).all()
    if found.times is not None:
        assert len(found.times) == len(found.frames) and (np.diff(found.times) > 0).all()
    assert found.size is None or all(type(side) is int and side > 0 for side in found.size)


# ---- Right documents of each kind


def flat(joints: int) -> Strategy:
    few = st.lists(st.tuples(st.integers(0, 640), st.floats(0, 480), st.floats(0, 1)), min_size=1, max_size=3)
    return few.map(lambda some: [number for joint in range(joints) for number in some[joint % len(some)]])


OPENPOSE: Strategy = st.sampled_from([25, 18]).flatmap(
    lambda joints: st.fixed_dictionaries(
        {
            "version": st.just(1.3),
            "people": st.lists(
                st.builds(
                    lambda points, id_: {"person_id": [id_], "pose_keypoints_2d": points},
                    flat(joints),
                    st.sampled_from([-1, 0, 7]),
                ),
                max_size=3,
            ),
        }
    )
)
ALPHAPOSE: Strategy = st.sampled_from([17, 26, 136]).flatmap(
    lambda joints: st.lists(
        st.builds(
            lambda name, points, id_: {"image_id": name, "category_id": 1, "keypoints": points, "score": 2.5} | id_,
            st.sampled_from(["0.jpg", "1.jpg", "clip_000012.png", "a.jpg"]),
            flat(joints),
            st.sampled_from([{}, {"idx": 0}, {"idx": 3}]),
        ),
        max_size=4,
    )
)
COCO_LIST: Strategy = st.lists(
    st.builds(
        lambda frame, points, id_: {"image_id": frame, "category_id": 1, "keypoints": points, "score": 0.9} | id_,
        st.integers(0, 5),
        flat(17),
        st.sampled_from([{}, {"track_id": 0}, {"track_id": 9}]),
    ),
    max_size=4,
)
COCO_FILE: Strategy = st.builds(
    lambda entries, sizes: {"annotations": entries, "images": [{"id": 1, "width": w, "height": h} for w, h in sizes]},
    COCO_LIST,
    st.lists(st.sampled_from([(640, 480), (640, 481)]), max_size=2),
)
DOCUMENTS = OPENPOSE | ALPHAPOSE | COCO_LIST | COCO_FILE


@MANY
@given(nearly(DOCUMENTS))
def test_a_keypoint_file_that_is_nearly_right_is_read_or_refused(folder: Path, document: Any) -> None:
    read_file(folder, "keypoints.json", json.dumps(document, default=str).encode())


@FEW
@given(
    torn(DOCUMENTS.map(lambda document: json.dumps(document).encode())) | VALUES.map(lambda v: json.dumps(v).encode())
)
def test_a_torn_keypoint_file_is_read_or_refused(folder: Path, body: bytes) -> None:
    read_file(folder, "keypoints.json", body)


NAMES = st.sampled_from(["a_000000000001_keypoints.json", "a_2_keypoints.json", "b.json", "9" * 40 + ".json"])


@FEW
@given(st.dictionaries(NAMES, nearly(OPENPOSE), max_size=3))
def test_a_zip_of_frames_is_read_or_refused_whatever_they_are_called(folder: Path, frames: dict[str, Any]) -> None:
    with zipfile.ZipFile(file := BytesIO(), "w") as archive:
        for name, content in frames.items():
            archive.writestr(name, json.dumps(content, default=str))
    read_file(folder, "frames.zip", file.getvalue())


@FEW
@given(torn(st.just(b"x")) | st.binary(max_size=50), st.sampled_from(["k.json", "k.csv", "k.npz", "k.zip", "k"]))
def test_any_bytes_under_any_name_are_read_or_refused(folder: Path, body: bytes, name: str) -> None:
    read_file(folder, name, body)


# ---- Round trips

GIVEN = recording(person(walking(6), id=1), person(walking(4), id=4, first=2), frames=6, rate=30)


def written(name: str) -> bytes:
    write(GIVEN, name, "clip", file := BytesIO())
    return file.getvalue()


@pytest.mark.parametrize("name", FORMATS_READ)
def test_a_torn_file_of_our_own_is_read_or_refused(folder: Path, name: str) -> None:
    whole = written(name)
    suffix = {"openpose": "zip", "csv": "csv", "npz": "npz"}.get(name, "json")

    @FEW
    @given(torn(st.just(whole)))
    def law(body: bytes) -> None:
        read_file(folder, f"own.{suffix}", body)

    law()


@st.composite
def people(draw: st.DrawFn) -> list[RecordedPerson]:
    """One to three who are in every one of six frames, with unknown joints here and there."""
    made = []
    for id_ in draw(st.lists(st.integers(0, 50), min_size=1, max_size=3, unique=True)):
        one = person(walking(6), id=id_)
        points = one.keypoints.copy()
        for frame, joint in draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 16)), max_size=6)):
            points[frame, joint] = np.nan, np.nan, 0
        made.append(replace(one, keypoints=points))
    return made


@pytest.mark.parametrize("name", FORMATS_READ)
def test_what_we_write_we_read(folder: Path, name: str) -> None:
    @FEW
    @given(people())
    def law(sent: list[RecordedPerson]) -> None:
        given_ = recording(*sent, frames=6, rate=30)
        write(given_, name, "clip", file := BytesIO())
        suffix = {"openpose": "zip", "csv": "csv", "npz": "npz"}.get(name, "json")
        found = read_file(folder, f"own.{suffix}", file.getvalue())
        assert found is not None and found.frames.tolist() == given_.indices.tolist()
        assert set(found.people) == {each.id for each in sent}
        for each in sent:
            joints = [SKELETONS[found.skeleton].joints.index(joint) for joint in SKELETONS["coco17"].joints]
            got = found.people[each.id][:, joints]
            unknown = np.isnan(each.keypoints[..., 0])
            assert (np.isnan(got[..., 0]) == unknown).all()
            np.testing.assert_allclose(got[~unknown], each.keypoints[~unknown], atol=0.006)

    law()


# ---- Manifests

SHA256 = "0123456789abcdef" * 4
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
FREE: Strategy = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
TABLES = st.dictionaries(TEXTS, FREE, max_size=3)
MANIFESTS = st.builds(
    Manifest,
    name=st.sampled_from(["lift-27", "0", "a.b"]),
    version=st.integers(1, 2**40),
    role=st.sampled_from(["person", "pose", "lift"]),
    network=TEXTS,
    summary=TEXTS,
    weights=st.builds(
        WeightsFile,
        licence=TEXTS,
        restricted=st.booleans(),
        sha256=st.just(SHA256),
        bytes=st.integers(1, 2**40),
    ),
    options=TABLES,
    input=TABLES,
    data=st.lists(st.builds(DataSource, TEXTS, TEXTS, TEXTS), max_size=2).map(tuple),
    training=TABLES,
    presence=TABLES,
    scores=st.lists(st.builds(Score, TEXTS, TEXTS, st.floats(allow_nan=False)), max_size=2).map(tuple),
    joints=TEXTS,
    default=st.booleans(),
    long=st.booleans(),
)
RIGHT = to_toml(Manifest("lift-27", 1, "lift", "lifter", "", WeightsFile("MIT", False, sha256=SHA256, bytes=3)))


def manifest_of(folder: Path, text: bytes) -> Manifest | None:
    path = folder / "manifest.toml"
    path.write_bytes(text)
    try:
        return read(path)
    except StoreBroken as error:
        assert str(path) in str(error)
        return None


@FEW
@given(MANIFESTS)
def test_a_manifest_is_read_as_it_was_written(folder: Path, manifest: Manifest) -> None:
    assert manifest_of(folder, to_toml(manifest).encode()) == manifest


@MANY
@given(torn(MANIFESTS.map(lambda manifest: to_toml(manifest).encode())) | torn(st.just(RIGHT.encode())))
def test_a_torn_manifest_is_read_or_broken_by_its_path(folder: Path, text: bytes) -> None:
    if manifest := manifest_of(folder, text):
        assert manifest.version >= 1 and manifest.weights.bytes >= 1 and "/" not in manifest.weights.file


LINES = RIGHT.splitlines()


@FEW
@given(
    st.integers(0, len(LINES) - 1),
    st.sampled_from(["=", "= 1", "= 1e999", "= 1979-05-27", "= " + "[" * 3000, "= {}", "= 1" + "0" * 400]),
)
def test_a_line_of_another_kind_in_a_manifest_is_told_by_its_path(folder: Path, number: int, value: str) -> None:
    changed = LINES[number].partition("=")[0] + value
    manifest_of(folder, "\n".join([*LINES[:number], changed, *LINES[number + 1 :]]).encode())
