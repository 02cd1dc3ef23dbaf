"""Long bodies in blocks: what is read and written is what would be in one go."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import numpy as np
import orjson
import pytest

from service.api import long_bodies
from service.api.lift import read_sequences
from service.api.long_bodies import dumps_blocks, loads_json, loads_msgpack
from service.errors import OutOfRange, Unreadable


def sequence(frames: int, numbers: int = 2, unknown: bool = False) -> list[Any]:
    points: list[Any] = np.random.default_rng(frames).uniform(0, 1, (frames, 17, numbers)).round(3).tolist()
    if unknown:
        points[frames // 2][3] = None
        points[-1][16] = [None, None] if numbers == 2 else [None, None, 0]
    return points


def document(**fields: Any) -> dict[str, Any]:
    return {"skeleton": "coco17", "image_size": [640, 480], **fields}


def encodings(values: dict[str, Any]) -> list[tuple[bytes, str]]:
    return [
        (json.dumps(values).encode(), "application/json"),
        (orjson.dumps(values), "application/json"),
        (msgpack.packb(values), "application/msgpack"),
    ]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_bodies, "BLOCK_BYTES", 5000)
    monkeypatch.setattr(long_bodies, "BLOCK_FRAMES", 7)


CASES = [
    {"keypoints": sequence(400)},
    {"keypoints": sequence(400, 3), "fps": 25, "times": None},
    {"keypoints": sequence(401, unknown=True)},
    {"keypoints": sequence(300, 3, unknown=True), "times": (np.arange(300) / 10).tolist()},
    {"people": [sequence(200), sequence(200, 2, unknown=True)]},
    {"people": [sequence(500, 3)], "smooth": True},
]


@pytest.mark.parametrize("case", CASES)
def test_a_long_body_is_read_as_in_one_go(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for body, kind in encodings(document(**case)):
        assert (loads_msgpack if "msgpack" in kind else loads_json)(body) is not None
        in_blocks = read_sequences(body, kind, 1000, 10)
        with monkeypatch.context() as patched:
            patched.setattr("service.api.lift._PARSED_AT_ONCE", len(body))
            at_once = read_sequences(body, kind, 1000, 10)
        assert in_blocks.one == at_once.one
        for one, other in zip(in_blocks.people, at_once.people, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == np.float32
        if at_once.options.times is not None:
            np.testing.assert_array_equal(in_blocks.options.times, at_once.options.times)


WRONG = [
    {"keypoints": [*sequence(300), sequence(1)[0][:5]]},  # a frame of five joints
    {"keypoints": [*sequence(300), "frame"]},
    {"keypoints": [*sequence(300), [[True, 1]] * 17]},
    {"keypoints": [*sequence(300), [["1", "2"]] * 17]},
    {"keypoints": [*sequence(300), [[1e9, 2]] * 17]},
    {"keypoints": sequence(300), "people": [sequence(3)]},
    {"keypoints": sequence(300), "unheard_of": 0},
    {"keypoints": sequence(2000)},
]


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_long_body_is_said_as_of_a_short_one(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for body, kind in encodings(document(**case)):
        told = []
        for at_once in (0, len(body)):
            monkeypatch.setattr("service.api.lift._PARSED_AT_ONCE", at_once)
            with pytest.raises(Exception) as error:
                read_sequences(body, kind, 1000, 10)
            told.append((type(error.value), str(error.value)))
        assert told[0] == told[1]


@pytest.mark.parametrize("tail", [b"", b"]", b"}", b"]]]", b', "fps": 30'])
def test_a_body_that_is_cut_off_or_broken_is_refused(tail: bytes) -> None:
    body = orjson.dumps(document(keypoints=sequence(600)))
    with pytest.raises((Unreadable, OutOfRange)):
        read_sequences(body[: len(body) // 2] + tail, "application/json", 1000, 10)


def test_numbers_that_are_none_are_refused_in_msgpack_too() -> None:
    points = sequence(600)
    points[300][2] = [float("nan"), 1.0]
    with pytest.raises(OutOfRange, match=r"keypoints\[300\]\[2\]\[0\]"):
        read_sequences(msgpack.packb(document(keypoints=points)), "application/msgpack", 1000, 10)


@pytest.mark.parametrize("frames", [1, 6, 7, 8, 50])
def test_a_long_list_is_written_as_in_one_go(frames: int) -> None:
    values = np.random.default_rng(0).normal(size=(frames, 3)).round(3)
    assert orjson.loads(dumps_blocks(values, lambda some: some.tolist())) == values.tolist()


@pytest.mark.parametrize(
    "text",
    [
        "[[[1,2],3[,4]]]",
        "[[[1,2]3,[4,5]]]",
        "[[1[2,3],[4,5]]]",
        "[[[1,2],[3,4]]5]",
        "[[[1 2,3]]]",
        "[[[1, 2 3]]]",
        "[[[,],[,]]]",
    ],
)
def test_what_is_no_json_is_not_read_as_points(text: str) -> None:
    """Numbers outside of their joints, or two where one should be: their brackets alone look right."""
    assert loads_json(b'{"keypoints": %b}' % text.encode()) is None


@pytest.mark.parametrize("space", ["", " ", "\n  "])
def test_points_are_read_whatever_stands_between_them(space: str) -> None:
    points = sequence(5)
    text = json.dumps(points).replace(", ", f",{space}")
    values = loads_json(b'{"keypoints": %b, "fps": 25}' % text.encode())
    assert values is not None and values["fps"] == 25
    np.testing.assert_array_equal(values["keypoints"], points)
