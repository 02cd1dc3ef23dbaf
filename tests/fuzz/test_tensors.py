"""Laws of the Open Inference Protocol's bytes: JSON and binary tensors, raw bodies, codings, and answers."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from service.api.open_inference.wire import (
    BINARY_ONLY,
    BYTES,
    CODINGS,
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

from .strangers import FEW, MANY, Strategy, nearly, refused_by_field, torn

SPECS = [
    [TensorSpec("input", "FP32", (-1, 3, 2))],
    [TensorSpec("input", "UINT8", (-1, 2, 2, 3)), TensorSpec("image_size", "FP32", (-1, 2))],
    [TensorSpec("image", BYTES, (-1,))],
    [TensorSpec("grid", "INT16", (-1, -1))],
    [TensorSpec("fixed", "FP64", (2,))],
]
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
DATATYPES = st.sampled_from([*NUMBERS, BYTES])


@st.composite
def tensors(draw: st.DrawFn, name: str) -> Tensor:
    """Any tensor that this protocol knows, its values within its datatype and finite."""
    datatype, shape = draw(DATATYPES), draw(SHAPES)
    count = math.prod(shape)
    if datatype == BYTES:
        texts = draw(st.lists(st.text(max_size=4), min_size=count, max_size=count))
        return Tensor(name, datatype, shape, elements=tuple(text.encode() for text in texts))
    kind = NUMBERS[datatype]
    if datatype == "BOOL":
        values: Strategy = st.booleans()
    elif kind.kind == "f":
        width: Any = 8 * kind.itemsize
        values = st.floats(allow_nan=False, allow_infinity=False, width=width)
    else:
        ends = np.iinfo(kind)
        values = st.integers(int(ends.min), int(ends.max))
    drawn = draw(st.lists(values, min_size=count, max_size=count))
    return Tensor(name, datatype, shape, np.array(drawn, kind).reshape(shape))


def as_bytes(tensor: Tensor) -> bytes:
    if tensor.datatype == BYTES:
        return b"".join(struct.pack("<I", len(each)) + each for each in tensor.elements)
    return tensor.array.tobytes()


def entry_of(tensor: Tensor, binary: bool, nested: bool) -> tuple[dict[str, Any], bytes]:
    """As a client writes it: its entry, and its bytes behind the JSON."""
    entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    if binary:
        tail = as_bytes(tensor)
        return entry | {"parameters": {"binary_data_size": len(tail)}}, tail
    if tensor.datatype == BYTES:
        return entry | {"data": [each.decode() for each in tensor.elements]}, b""
    # An array of no axes is written as a list of one.
    array = tensor.array if nested and tensor.shape else tensor.array.ravel()
    return entry | {"data": array.tolist()}, b""


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[Tensor], dict[str, Any], bytes]:
    """Tensors, the JSON that says them, and what follows it."""
    sent = [draw(tensors(f"t{number}")) for number in range(draw(st.integers(1, 3)))]
    entries, tail = [], b""
    for tensor in sent:
        binary = tensor.datatype in BINARY_ONLY or draw(st.booleans())
        entry, data = entry_of(tensor, binary, draw(st.booleans()))
        entries.append(entry)
        tail += data
    outputs = [{"name": "keypoints", "parameters": {"binary_data": draw(st.booleans())}}, {"name": "heatmaps"}]
    more = {"id": "7", "outputs": outputs, "parameters": {"timeout": 5, "binary_data_output": draw(st.booleans())}}
    document = {"inputs": entries} | {name: more[name] for name in draw(st.sets(st.sampled_from(sorted(more))))}
    return sent, document, tail


def body_of(document: Any, tail: bytes) -> tuple[bytes, str]:
    text = orjson.dumps(document, default=str)
    return text + tail, str(len(text))


def hold_the_promise(request: InferRequest | None) -> None:
    """Each tensor has the shape and the datatype that it says."""
    for name, tensor in request.inputs.items() if request else ():
        assert name == tensor.name and name
        if tensor.datatype == BYTES:
            assert len(tensor.elements) == math.prod(tensor.shape)
            assert all(isinstance(each, bytes) for each in tensor.elements)
        else:
            assert tensor.array.shape == tensor.shape and tensor.array.dtype == NUMBERS[tensor.datatype]


def read(body: bytes, header: str | None, specs: list[TensorSpec]) -> InferRequest | None:
    request = refused_by_field(lambda: read_request(body, header, specs))
    hold_the_promise(request)
    return request


@MANY
@given(requests())
def test_tensors_are_read_as_they_were_written(sent: tuple[list[Tensor], dict[str, Any], bytes]) -> None:
    wanted, document, tail = sent
    body, header = body_of(document, tail)
    # Without binary tensors the header may be left out.
    for header_sent in (header, None) if not any("parameters" in each for each in document["inputs"]) else (header,):
        request = read(body, header_sent, SPECS[0])
        assert request is not None and list(request.inputs) == [tensor.name for tensor in wanted]
        for tensor in wanted:
            got = request.inputs[tensor.name]
            assert (got.datatype, got.shape, got.elements) == (tensor.datatype, tensor.shape, tensor.elements)
            np.testing.assert_array_equal(got.array, tensor.array)
        assert request.id == document.get("id", "") and (request.outputs is None) == ("outputs" not in document)


@MANY
@given(requests().flatmap(lambda sent: st.tuples(nearly(st.just(sent[1])), torn(st.just(sent[2])))), st.data())
def test_a_request_that_is_nearly_right_is_read_or_refused_by_its_field(
    sent: tuple[Any, bytes], data: st.DataObject
) -> None:
    body, length = body_of(*sent)
    read(body, data.draw(st.sampled_from([length, length, None, "0"])), data.draw(st.sampled_from(SPECS)))


@MANY
@given(
    requests().map(lambda sent: body_of(*sent[1:])[0]).flatmap(lambda body: torn(st.just(body))),
    st.none() | st.integers(-1, 400).map(str) | st.text(max_size=4) | st.sampled_from(["٣", "9" * 30, "1e2"]),
    st.sampled_from(SPECS),
)
def test_a_torn_request_under_any_length_is_read_or_refused_by_its_field(
    body: bytes, header: str | None, specs: list[TensorSpec]
) -> None:
    read(body, header, specs)


@FEW
@given(st.binary(max_size=80), st.sampled_from(SPECS))
def test_a_raw_body_is_the_models_only_tensor_or_refused(body: bytes, specs: list[TensorSpec]) -> None:
    request = read(body, "0", specs)
    if request is not None:
        (tensor,) = request.inputs.values()
        assert tensor.name == specs[0].name and request.binary
        assert body == (tensor.elements[0] if tensor.datatype == BYTES else tensor.array.tobytes())


@FEW
@given(tensors("keypoints"), tensors("heatmaps"), st.booleans(), st.sampled_from([None, True, False]))
def test_an_answer_says_its_tensors_in_the_form_that_was_asked_for(
    one: Tensor, other: Tensor, binary: bool, said: bool | None
) -> None:
    asked = InferRequest("9", {}, {}, {"keypoints": said, "heatmaps": None}, binary)
    outputs = [each for each in (one, other) if each.datatype not in BINARY_ONLY]
    body, length = write_response("pose", "1", asked, outputs)
    document, tail = orjson.loads(body[:length]), memoryview(body)[length or len(body) :]
    assert document["id"] == "9" and [each["name"] for each in document["outputs"]] == [each.name for each in outputs]
    for entry, tensor in zip(document["outputs"], outputs, strict=True):
        in_binary = binary if tensor.name != "keypoints" or said is None else said
        assert entry["shape"] == list(tensor.shape) and entry["datatype"] == tensor.datatype
        if in_binary:
            size = entry["parameters"]["binary_data_size"]
            assert bytes(tail[:size]) == as_bytes(tensor)
            tail = tail[size:]
        elif tensor.datatype == BYTES:
            assert entry["data"] == [each.decode() for each in tensor.elements]
        else:
            np.testing.assert_array_equal(np.array(entry["data"], tensor.array.dtype), tensor.array.ravel())
    assert not tail


# ---- Codings


@FEW
@given(st.binary(max_size=200), st.sampled_from(CODINGS))
def test_what_is_packed_is_unpacked_and_never_beyond_the_limit(body: bytes, coding: str) -> None:
    packed = compressed(body, coding)
    assert decompressed(packed, f" {coding.upper()} ", len(body)) == body
    if body:
        assert refused_by_field(lambda: decompressed(packed, coding, len(body) - 1)) is None


@FEW
@given(
    torn(st.sampled_from([compressed(b"a" * 99, coding) for coding in CODINGS])) | st.binary(max_size=30),
    st.sampled_from([*CODINGS, "", "identity", "br"]) | st.text(max_size=6),
)
def test_a_torn_packed_body_is_unpacked_or_refused(body: bytes, coding: str) -> None:
    plain = refused_by_field(lambda: decompressed(body, coding, 1000))
    assert plain is None or len(plain) <= max(1000, len(body))


@FEW
@given(st.text(alphabet="gzipdeflatntiy*;=q0.15, ", max_size=40) | st.text(max_size=20))
def test_any_wish_for_a_coding_is_one_of_ours_or_none(accept: str) -> None:
    assert wanted_coding(accept) in (None, *CODINGS)
