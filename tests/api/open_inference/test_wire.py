"""The protocol's bytes: what was written is read back, and every wrong byte is refused by name."""

from __future__ import annotations

import gzip
import json
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from service.api.open_inference.wire import (
    CODINGS,
    LENGTH_HEADER,
    MAX_JSON_BYTES,
    NUMBERS,
    InferRequest,
    Tensor,
    TensorSpec,
    compressed,
    decompressed,
    read_request,
    wanted_coding,
    write_response,
)
from service.errors import Refused, TooLarge, UnknownKind, Unreadable

ONE = [TensorSpec("x", "FP32", (-1, 2))]


def body(*inputs: dict[str, Any], tail: bytes = b"", **others: Any) -> tuple[bytes, str | None]:
    """A request's body, and its length header where bytes follow the JSON."""
    text = json.dumps({"inputs": list(inputs)} | others).encode()
    return text + tail, str(len(text)) if tail else None


def entry(shape: Any, datatype: str = "FP32", **others: Any) -> dict[str, Any]:
    return {"name": "x", "shape": shape, "datatype": datatype} | others


def sized(shape: Any, size: Any, datatype: str = "FP32") -> dict[str, Any]:
    return entry(shape, datatype, parameters={"binary_data_size": size})


@pytest.mark.parametrize("datatype", [name for name in NUMBERS if name not in ("FP16", "BF16")])
@pytest.mark.parametrize("nested", [False, True])
def test_a_tensor_is_the_same_as_json_nested_or_flat_and_as_bytes(datatype: str, nested: bool) -> None:
    array = np.array([[1, 0, 1], [0, 1, 1]]).astype(NUMBERS[datatype])
    listed = array.tolist() if nested else array.ravel().tolist()
    from_json = read_request(*body(entry([2, 3], datatype, data=listed)), ONE).inputs["x"]
    raw = array.tobytes()
    from_bytes = read_request(*body(sized([2, 3], len(raw), datatype), tail=raw), ONE).inputs["x"]
    for tensor in (from_json, from_bytes):
        assert tensor.array.dtype == NUMBERS[datatype] and np.array_equal(tensor.array, array)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_comes_binary_and_never_as_json(datatype: str) -> None:
    tensor = read_request(*body(sized([2], 4, datatype), tail=b"\0\x3c\0\x3c"), ONE).inputs["x"]
    assert tensor.array.shape == (2,)
    with pytest.raises(Unreadable, match=f"{datatype} has no form in JSON"):
        read_request(*body(entry([2], datatype, data=[1, 2])), ONE)


def test_bytes_come_as_strings_or_with_their_lengths_and_may_be_empty() -> None:
    texts = ("", "hé", "x")
    raw = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    for made in (body(entry([3], "BYTES", data=list(texts))), body(sized([3], len(raw), "BYTES"), tail=raw)):
        assert read_request(*made, ONE).inputs["x"].elements == tuple(text.encode() for text in texts)


def test_whole_numbers_are_fine_as_floats_and_an_empty_tensor_is_one() -> None:
    assert read_request(*body(entry([2], data=[1, 2.5])), ONE).inputs["x"].array.tolist() == [1, 2.5]
    assert read_request(*body(entry([0, 3], data=[])), ONE).inputs["x"].array.shape == (0, 3)


def test_several_tensors_follow_in_the_order_of_those_that_are_binary() -> None:
    first, last = np.arange(3, dtype=np.float32), np.arange(2, dtype=np.uint8)
    made = body(
        sized([3], 12),
        {"name": "y", "shape": [1], "datatype": "INT8", "data": [-4]},
        {"name": "z", "shape": [2], "datatype": "UINT8", "parameters": {"binary_data_size": 2}},
        tail=first.tobytes() + last.tobytes(),
    )
    inputs = read_request(*made, ONE).inputs
    assert [inputs[name].array.tolist() for name in "xyz"] == [[0, 1, 2], [-4], [0, 1]]


GOOD, GOOD_HEADER = body(sized([2, 2], 16), tail=bytes(16))


@pytest.mark.parametrize("header", ["-1", str(len(GOOD) + 1), "9" * 30, "1e2", "", " 4", "four", "4294967295", "²"])
def test_a_length_that_no_body_has_is_refused_by_the_headers_name(header: str) -> None:
    with pytest.raises(Unreadable, match=f"from 0 to {len(GOOD)}") as refused:
        read_request(GOOD, header, ONE)
    assert refused.value.field == LENGTH_HEADER


@pytest.mark.parametrize("header", ["1", str(int(GOOD_HEADER or 0) - 1), str(len(GOOD))])
def test_a_length_that_cuts_elsewhere_is_refused(header: str) -> None:
    with pytest.raises(Unreadable, match="JSON is broken"):
        read_request(GOOD, header, ONE)


@pytest.mark.parametrize("text", [GOOD, body(sized([2, 2], 16))[0]])
def test_without_the_length_header_the_refusal_names_it(text: bytes) -> None:
    with pytest.raises(Unreadable, match=LENGTH_HEADER):
        read_request(text, None, ONE)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (body(), "`inputs` must be a list of one tensor"),
        ((b"[]", None), "must be a JSON object"),
        ((b'{"inputs": [1]}', None), "list of objects"),
        ((b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}', None), "JSON is broken"),
        (body(entry([1], data=[1]), entry([1], data=[1])), "'x' came twice"),
        (body(entry([1], data=[1]), id=3), "`id` must be a string"),
        (body(entry([1], data=[1]), parameters={"a": [1]}), "`parameters.a` must be a string, number or boolean"),
        (body(entry([1], data=[1]), parameters={"binary_data_output": 1}), "must be true or false"),
        (body(entry([1], data=[1]), outputs=[{"name": "o"}, {"name": "o"}]), "outputs[1].name"),
        (body(entry([1], data=[1]), outputs=[{"name": "o", "parameters": {"classification": 2}}]), "classification"),
        (body({"shape": [1], "datatype": "FP32", "data": [1]}), "`inputs[0].name` must be a string"),
        (body(entry([1], "FP31", data=[1])), "datatype"),
        (body(entry([1])), "neither `data` nor"),
        (body(entry([1], data=[1], parameters={"binary_data_size": 4}), tail=bytes(4)), "both"),
        (body(entry([1], parameters={"shared_memory_region": "r"})), "shared memory is not served"),
        (body(entry([-1], data=[1])), "shape"),
        (body(entry([True], data=[1])), "shape"),
        (body(entry([1.0], data=[1])), "shape"),
        (body(entry("1", data=[1])), "shape"),
        (body(entry([1] * 9, data=[1])), "shape"),
        (body(entry([2**31], data=[1])), "shape"),
        (body(entry([2**30, 2**30], data=[])), "more than any body holds"),
        (body(entry([0, 2**30, 2**30], data=[])), "more than any body holds"),
        (body(entry([2], data=[1])), "must have 2 elements"),
        (body(entry([2], data=1)), "must be a list"),
        (body(entry([2, 2], data=[[1, 2], [3]])), "not nested as its shape"),
        (body(entry([2, 2], data=[[[1, 2]], [[3, 4]]])), "not nested as its shape"),
        (body(entry([1], data=[True])), "must hold FP32 values; got True"),
        (body(entry([1], data=["1"])), "must hold FP32 values"),
        (body(entry([1], data=[None])), "must hold FP32 values"),
        (body(entry([1], data=[1e300])), "outside FP32"),
        (body(entry([1], "UINT8", data=[256])), "outside UINT8"),
        (body(entry([1], "UINT8", data=[-1])), "outside UINT8"),
        (body(entry([1], "INT64", data=[1.0])), "must hold INT64 values"),
        (body(entry([1], "BOOL", data=[1])), "must hold BOOL values"),
        (body(entry([1], "BYTES", data=[1])), "must hold BYTES values"),
        (body(sized([2], 4), tail=bytes(4)), "FP32 [2] has 8 bytes; got 4"),
        (body(sized([2], 8), tail=bytes(4)), "from 0 to 4"),
        (body(sized([1], -4), tail=bytes(4)), "from 0 to 4"),
        (body(sized([1], True), tail=bytes(4)), "from 0 to 4"),
        (body(sized([1], 4), tail=bytes(5)), "5 bytes follow the JSON"),
        (body(sized([2], 4, "BYTES"), tail=bytes(4)), "ends at element 1 of 2"),
        (body(sized([1], 4, "BYTES"), tail=b"\1\0\0\0"), "claims 1 bytes; 0 are left"),
        (body(sized([1], 5, "BYTES"), tail=bytes(5)), "1 bytes are left after 1"),
        (body(sized([2**31 - 1], 4, "BYTES"), tail=bytes(4)), "ends at element 1"),
    ],
)
def test_what_is_wrong_is_refused_by_name(made: tuple[bytes, str | None], says: str) -> None:
    with pytest.raises(Unreadable) as refused:
        read_request(*made, ONE)
    assert says in str(refused.value) and refused.value.field


def test_much_json_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(TooLarge, match="send large tensors binary"):
        read_request(b"[" * (MAX_JSON_BYTES + 1), None, ONE)


def test_a_raw_body_is_the_only_input_and_its_length_tells_the_open_axis() -> None:
    request = read_request(np.arange(6, dtype=np.float32).tobytes(), "0", ONE)
    assert request.inputs["x"].array.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert request.binary and request.outputs is None
    picture = read_request(b"jpeg", "0", [TensorSpec("image", "BYTES", (1,))]).inputs["image"]
    assert (picture.shape, picture.elements) == ((1,), (b"jpeg",))


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        (ONE * 2, "has 2 inputs"),
        ([TensorSpec("x", "FP32", (-1, -1))], "2 open axes"),
        ([TensorSpec("x", "FP32", (-1, 3))], "multiple of 12 bytes; got 16"),
        ([TensorSpec("x", "FP32", (2,))], "multiple of 8 bytes; got 16"),
    ],
)
def test_a_raw_body_that_fits_no_model_is_refused(specs: list[TensorSpec], says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        read_request(bytes(16), "0", specs)


def asked(binary: bool, outputs: dict[str, bool | None] | None = None) -> InferRequest:
    return InferRequest("i", {}, {}, outputs, binary)


def test_an_answer_is_json_or_binary_as_each_output_says_and_else_the_request() -> None:
    keypoints = Tensor.of("keypoints", np.array([[1.5, 2]], np.float32))
    text, length = write_response("m", "1", asked(False), [keypoints, Tensor.of_bytes("answer", b"{}")])
    assert length is None and json.loads(text) == {
        "model_name": "m",
        "model_version": "1",
        "id": "i",
        "outputs": [
            {"name": "keypoints", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.0]},
            {"name": "answer", "datatype": "BYTES", "shape": [1], "data": ["{}"]},
        ],
    }
    for wanted in (asked(True, {"answer": False}), asked(False, {"keypoints": True, "answer": None})):
        mixed, length = write_response("m", "1", wanted, [keypoints, Tensor.of_bytes("answer", b"{}")])
        assert length is not None and mixed[length:] == keypoints.array.tobytes()
        first, second = json.loads(mixed[:length])["outputs"]
        assert first["parameters"] == {"binary_data_size": 8} and "data" not in first
        assert second["data"] == ["{}"] and "parameters" not in second


@pytest.mark.parametrize("coding", CODINGS)
def test_what_was_packed_is_unpacked_also_by_the_standard_library(coding: str) -> None:
    packed = compressed(b"pose" * 999, coding)
    assert len(packed) < 200 and decompressed(packed, coding.upper(), 10**4) == b"pose" * 999
    assert (gzip.decompress if coding == "gzip" else zlib.decompress)(packed) == b"pose" * 999


@pytest.mark.parametrize("coding", CODINGS)
def test_packed_bodies_that_are_broken_cut_off_or_bombs_are_refused(coding: str) -> None:
    packed = compressed(bytes(10**6), coding)
    with pytest.raises(TooLarge, match="999999 bytes unpacked"):
        decompressed(packed, coding, 999_999)
    for wrong, says in ((packed[:-3], "cut off"), (packed + b"x", "goes on"), (b"hello", f"not {coding}")):
        with pytest.raises(Unreadable, match=says):
            decompressed(wrong, coding, 10**7)
    with pytest.raises(UnknownKind, match="gzip or deflate"):
        decompressed(packed, "br", 10**7)


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=0.2, deflate;q=0.7", "deflate"),
        ("gzip;q=0", None),
        ("br, zstd, *", None),
        ("identity, gzip;q=0.5", None),
        ("gzip;q=often", None),
    ],
)
def test_an_answer_is_packed_as_the_caller_likes_best(accept: str, coding: str | None) -> None:
    assert wanted_coding(accept) == coding


def test_thousands_of_damaged_bodies_are_read_or_refused_and_nothing_else() -> None:
    chance = random.Random(7)
    texts = struct.pack("<I", 3) + b"abc"
    good = [
        body(sized([2, 2], 16), tail=bytes(16), outputs=[{"name": "o", "parameters": {"binary_data": True}}]),
        body(sized([1], 7, "BYTES"), tail=texts),
        body(entry([2, 2], data=[[1, 2], [3, 4]]), id="i", parameters={"timeout": 3}),
    ]
    outcomes = {True: 0, False: 0}
    for _ in range(3000):
        made, header = chance.choice(good)
        damaged = bytearray(made)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(damaged))
            damaged[place : place + chance.randint(0, 2)] = chance.choice(
                [b"", b"9", b"-", b"[", b"\0", b"null", b"\xff"]
            )
            damaged = damaged or bytearray(b"x")
        try:
            read_request(bytes(damaged), header, ONE)
            outcomes[True] += 1
        except Refused as error:
            outcomes[False] += 1
            assert error.field
    assert min(outcomes.values()) > 20
