"""The Open Inference Protocol's bytes: JSON with tensors in it or behind it, in and out. Knows no models, no server.

Tensors are little-endian and row-major, without padding. A wrong byte is Unreadable (400) and names its field.
"""

from __future__ import annotations

import math
import reprlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.errors import TooLarge, UnknownKind, Unreadable

from ..uploads import MEGABYTE

LENGTH_HEADER = "Inference-Header-Content-Length"
# As text, a number takes 30 bytes and more once it is parsed; large tensors travel binary.
MAX_JSON_BYTES = 16 * MEGABYTE
CODINGS = ["gzip", "deflate"]
BYTES = "BYTES"
NUMBERS: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{
        f"{sign}INT{8 * size}": np.dtype(f"<{kind}{size}")
        for sign, kind in (("U", "u"), ("", "i"))
        for size in (1, 2, 4, 8)
    },
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # its bits: numpy has no such number
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
BINARY_ONLY = ("FP16", "BF16")
_MOST_AXES, _LONGEST_AXIS, _MOST_ELEMENTS = 8, 2**31 - 1, 2**40
_SHOWN = 60
_WBITS = {"gzip": 31, "deflate": 15}  # `deflate` means the zlib wrapper

Parameters = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as the metadata lists it; -1 is an axis of any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Tensor:
    """array: of `shape`, maybe a read-only view of the body; elements: a BYTES tensor's, in its place, row-major."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    array: NDArray[Any] = field(default_factory=lambda: np.zeros(0))
    elements: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, name: str, array: NDArray[np.float32]) -> Tensor:
        """An FP32 tensor."""
        return cls(name, "FP32", array.shape, array)

    @classmethod
    def of_bytes(cls, name: str, element: bytes) -> Tensor:
        """A BYTES tensor of one element."""
        return cls(name, BYTES, (1,), elements=(element,))


@dataclass(frozen=True)
class InferRequest:
    """One request. outputs: by name whether binary or not was said; None: none were listed. binary: if nothing is."""

    id: str
    parameters: Parameters
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, bool | None] | None
    binary: bool


def _bad(message: str, field: str, limit: object = None) -> Unreadable:
    return Unreadable(message, field=field, limit=limit)


def _shown(value: object) -> str:
    return reprlib.repr(value)  # a list of millions is not written out to be cut off


# ---- Codings


def decompressed(body: bytes, coding: str, limit_bytes: int) -> bytes:
    """The body without its Content-Encoding; no more than the limit is ever unpacked.

    Raises:
        UnknownKind: neither gzip nor deflate. TooLarge, Unreadable: as it says.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in CODINGS:
        message = f"`Content-Encoding` must be {' or '.join(CODINGS)}; got {_shown(coding)}"
        raise UnknownKind(message, field="Content-Encoding", limit=CODINGS)
    unpacker = zlib.decompressobj(_WBITS[coding])
    try:
        plain = unpacker.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise _bad(f"the body is not {coding}: {error}", "body") from None
    if len(plain) > limit_bytes:
        raise TooLarge(f"`body` may have at most {limit_bytes} bytes unpacked", field="body", limit=limit_bytes)
    if not unpacker.eof or unpacker.unused_data:
        how = "goes on after its end" if unpacker.eof else "is cut off"
        raise _bad(f"the body's {coding} stream {how}", "body")
    return plain


def compressed(body: bytes, coding: str) -> bytes:
    """The body in one stream of gzip or deflate, fast rather than small."""
    packer = zlib.compressobj(1, zlib.DEFLATED, _WBITS[coding])
    return packer.compress(body) + packer.flush()


def wanted_coding(accept: str) -> str | None:
    """The coding that an Accept-Encoding likes best among ours; None where it asks for none of them."""
    best, most = None, 0.0
    for one in accept.split(","):
        name, _, quality = one.partition(";")
        coding = name.strip().lower()
        try:
            weight = float(quality.strip().lower().removeprefix("q=") or 1)
        except ValueError:
            weight = 0.0
        if coding in (*CODINGS, "identity") and weight > most:
            best, most = coding, weight
    return None if best == "identity" else best


# ---- Requests


def read_request(body: bytes, header: str | None, inputs: Sequence[TensorSpec]) -> InferRequest:
    """One request.

    Args:
        body: unpacked.
        header: the value of Inference-Header-Content-Length: bytes of JSON; 0: the body is a raw tensor; None: no such.
        inputs: of the model; a raw tensor is its only one.
    """
    if header is None:
        return _read(_json(body, alone=True), None)
    length = int(header) if header.isascii() and header.isdigit() and len(header) <= 20 else -1
    if not 0 <= length <= len(body):
        message = f"`{LENGTH_HEADER}` must be a whole number from 0 to {len(body)}, the bytes of the body; got "
        raise _bad(message + _shown(header), LENGTH_HEADER, [0, len(body)])
    if not length:
        tensor = _raw(body, inputs)
        return InferRequest("", {}, {tensor.name: tensor}, None, True)
    view = memoryview(body)
    return _read(_json(view[:length], alone=False), view[length:])


def _json(text: bytes | memoryview, *, alone: bool) -> dict[str, Any]:
    if len(text) > MAX_JSON_BYTES:
        message = f"the JSON part may have at most {MAX_JSON_BYTES} bytes, got {len(text)}; send large tensors binary"
        raise TooLarge(message, field="body", limit=MAX_JSON_BYTES)
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        hint = f"; where binary tensors follow the JSON, the header `{LENGTH_HEADER}` must say how long it is"
        raise _bad(f"the body's JSON is broken: {error}{hint if alone else ''}", "body") from None
    if not isinstance(values, dict):
        raise _bad("the body must be a JSON object", "body")
    return values


def _read(values: dict[str, Any], tail: memoryview | None) -> InferRequest:
    request_id = values.get("id", "")
    if not isinstance(request_id, str):
        raise _bad(f"`id` must be a string; got {_shown(request_id)}", "id")
    parameters = _parameters(values, "parameters")
    inputs: dict[str, Tensor] = {}
    offset = 0
    for index, entry in enumerate(_entries(values, "inputs")):
        place = f"inputs[{index}]"
        tensor, size = _tensor(entry, place, tail, offset)
        offset += size
        if tensor.name in inputs:
            raise _bad(f"`{place}.name`: {_shown(tensor.name)} came twice", f"{place}.name")
        inputs[tensor.name] = tensor
    if not inputs:
        raise _bad("`inputs` must be a list of one tensor or more", "inputs")
    if tail is not None and offset != len(tail):
        message = f"{len(tail)} bytes follow the JSON, but the inputs' `binary_data_size` come to {offset}"
        raise _bad(message, "body", offset)
    outputs: dict[str, bool | None] = {}
    for index, entry in enumerate(_entries(values, "outputs")):
        name, binary = _output(entry, f"outputs[{index}]")
        if name in outputs:
            raise _bad(f"`outputs[{index}].name`: {_shown(name)} came twice", f"outputs[{index}].name")
        outputs[name] = binary
    return InferRequest(
        request_id, parameters, inputs, outputs or None, _flag(parameters, "binary_data_output", "parameters") or False
    )


def _entries(values: dict[str, Any], name: str) -> list[dict[str, Any]]:
    entries = values.get(name, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _bad(f"`{name}` must be a list of objects; got {_shown(entries)}", name)
    return entries


def _parameters(entry: dict[str, Any], place: str) -> Parameters:
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise _bad(f"`{place}` must be an object; got {_shown(parameters)}", place)
    for name, value in parameters.items():
        if not isinstance(value, str | int | float):
            message = f"`{place}.{name[:_SHOWN]}` must be a string, number or boolean; got {_shown(value)}"
            raise _bad(message, f"{place}.{name[:_SHOWN]}")
        if name.startswith("shared_memory_"):
            raise _bad(f"`{place}.{name[:_SHOWN]}`: shared memory is not served here", f"{place}.{name[:_SHOWN]}")
    return parameters


def _flag(parameters: Parameters, name: str, place: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise _bad(f"`{place}.{name}` must be true or false; got {_shown(value)}", f"{place}.{name}")
    return value


def _name(entry: dict[str, Any], place: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise _bad(f"`{place}.name` must be a string; got {_shown(name)}", f"{place}.name")
    return name


def _output(entry: dict[str, Any], place: str) -> tuple[str, bool | None]:
    parameters = _parameters(entry, f"{place}.parameters")
    if parameters.get("classification"):
        raise _bad(f"`{place}.parameters.classification`: classification is not served here", f"{place}.parameters")
    return _name(entry, place), _flag(parameters, "binary_data", f"{place}.parameters")


def _tensor(entry: dict[str, Any], place: str, tail: memoryview | None, offset: int) -> tuple[Tensor, int]:
    """The tensor, and how many of the bytes behind the JSON it took."""
    name, datatype = _name(entry, place), entry.get("datatype")
    if not isinstance(datatype, str) or datatype not in (*NUMBERS, BYTES):
        limit = [*NUMBERS, BYTES]
        raise _bad(f"`{place}.datatype` must be one of {', '.join(limit)}; got {_shown(datatype)}", place, limit)
    shape = _shape(entry.get("shape"), f"{place}.shape")
    size = _parameters(entry, f"{place}.parameters").get("binary_data_size")
    if size is None:
        if "data" not in entry:
            raise _bad(f"`{place}` has neither `data` nor `parameters.binary_data_size`", place)
        return _from_json(name, datatype, shape, entry["data"], f"{place}.data"), 0
    sized = f"{place}.parameters.binary_data_size"
    if "data" in entry:
        raise _bad(f"`{place}` has both `data` and `parameters.binary_data_size`", place)
    if tail is None:
        raise _bad(f"`{sized}` is given, but the header `{LENGTH_HEADER}` is missing", LENGTH_HEADER)
    if type(size) is not int or not 0 <= size <= len(tail) - offset:
        left = len(tail) - offset
        raise _bad(
            f"`{sized}` must be from 0 to {left}, what is left of the body; got {_shown(size)}", sized, [0, left]
        )
    return _from_bytes(name, datatype, shape, tail[offset : offset + size], place), size


def _shape(value: Any, place: str) -> tuple[int, ...]:
    fits = isinstance(value, list) and len(value) <= _MOST_AXES
    # Not isinstance: true is no length.
    if not fits or not all(type(axis) is int and 0 <= axis <= _LONGEST_AXIS for axis in value):
        raise _bad(f"`{place}` must be a list of whole numbers from 0; got {_shown(value)}", place, [0, _LONGEST_AXIS])
    shape = tuple(value)
    if math.prod(max(axis, 1) for axis in shape) > _MOST_ELEMENTS:
        raise _bad(f"`{place}` is {list(shape)}, more than any body holds", place, _MOST_ELEMENTS)
    return shape


def _from_bytes(name: str, datatype: str, shape: tuple[int, ...], data: memoryview, place: str) -> Tensor:
    count = math.prod(shape)
    if datatype == BYTES:
        return Tensor(name, datatype, shape, elements=_elements(data, count, place))
    wanted = count * NUMBERS[datatype].itemsize
    if len(data) != wanted:
        message = f"`{place}`: {datatype} {list(shape)} has {wanted} bytes; got {len(data)}"
        raise _bad(message, f"{place}.parameters.binary_data_size", wanted)
    # A view: whoever makes the batch copies it, once.
    return Tensor(name, datatype, shape, np.frombuffer(data, NUMBERS[datatype]).reshape(shape))


def _elements(data: memoryview, count: int, place: str) -> tuple[bytes, ...]:
    """BYTES: of each element four bytes of length, then itself."""
    elements, offset = [], 0
    for number in range(count):
        if len(data) - offset < 4:
            raise _bad(f"`{place}`: the data ends at element {number} of {count}", place, count)
        (length,) = struct.unpack_from("<I", data, offset)
        offset += 4
        if length > len(data) - offset:
            message = f"`{place}`: element {number} claims {length} bytes; {len(data) - offset} are left"
            raise _bad(message, place, len(data) - offset)
        elements.append(bytes(data[offset : offset + length]))
        offset += length
    if offset != len(data):
        raise _bad(f"`{place}`: {len(data) - offset} bytes are left after {count} elements", place, offset)
    return tuple(elements)


def _from_json(name: str, datatype: str, shape: tuple[int, ...], data: object, place: str) -> Tensor:
    if datatype in BINARY_ONLY:
        raise _bad(f"`{place}`: {datatype} has no form in JSON; send it binary", place, "binary")
    values = _flat(data, shape, place)
    kinds = set(map(type, values))
    of_datatype: dict[str, set[type]] = {"BOOL": {bool}, BYTES: {str}, "FP32": {int, float}, "FP64": {int, float}}
    known = of_datatype.get(datatype, {int})
    if not kinds <= known:
        wrong = next(value for value in values if type(value) not in known)
        raise _bad(f"`{place}` must hold {datatype} values; got {_shown(wrong)}", place, datatype)
    if datatype == BYTES:
        return Tensor(name, datatype, shape, elements=tuple(text.encode() for text in values))
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, NUMBERS[datatype]).reshape(shape)
    except OverflowError:
        raise _bad(f"`{place}` has a number outside {datatype}", place, datatype) from None
    if datatype.startswith("FP") and not np.isfinite(array).all():
        raise _bad(f"`{place}` has a number outside {datatype}", place, datatype)
    return Tensor(name, datatype, shape, array)


def _flat(data: object, shape: tuple[int, ...], place: str) -> list[Any]:
    """The elements of flat data, or of lists nested as the shape says."""
    if not isinstance(data, list):
        raise _bad(f"`{place}` must be a list; got {_shown(data)}", place)
    values = data
    if values and isinstance(values[0], list):
        level, last = [values], len(shape) - 1
        for depth, axis in enumerate(shape):
            if not all(isinstance(each, list) and len(each) == axis for each in level):
                raise _bad(f"`{place}` is not nested as its shape {list(shape)} says", place, list(shape))
            values = list(chain.from_iterable(level))
            if depth < last:
                level = values
    count = math.prod(shape)
    if len(values) != count:
        message = f"`{place}` must have {count} elements for the shape {list(shape)}; got {len(values)}"
        raise _bad(message, place, count)
    return values


def _raw(body: bytes, inputs: Sequence[TensorSpec]) -> Tensor:
    """The body as the model's only input; its one open axis is as long as the bytes say."""
    wrong = f"`{LENGTH_HEADER}` 0 says that the body is one raw tensor, but this model "
    if len(inputs) != 1:
        raise _bad(f"{wrong}has {len(inputs)} inputs", LENGTH_HEADER, 1)
    (spec,) = inputs
    if spec.datatype == BYTES:
        return Tensor(spec.name, BYTES, (1,), elements=(body,))
    if spec.shape.count(-1) > 1:
        raise _bad(f"{wrong}has an input of {spec.shape.count(-1)} open axes", LENGTH_HEADER, 1)
    one = NUMBERS[spec.datatype].itemsize * math.prod(axis for axis in spec.shape if axis != -1)
    if not body or len(body) % one or (-1 not in spec.shape and len(body) != one):
        raise _bad(
            f"a raw {spec.datatype} {list(spec.shape)} has a multiple of {one} bytes; got {len(body)}", "body", one
        )
    shape = tuple(len(body) // one if axis == -1 else axis for axis in spec.shape)
    return Tensor(spec.name, spec.datatype, shape, np.frombuffer(body, NUMBERS[spec.datatype]).reshape(shape))


# ---- Answers


def write_response(
    model: str, version: str, request: InferRequest, outputs: Sequence[Tensor]
) -> tuple[bytes, int | None]:
    """The answer's body, and how many bytes of it are JSON where binary tensors follow."""
    entries, tails = [], []
    listed = request.outputs or {}
    for tensor in outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        said = listed.get(tensor.name)
        if request.binary if said is None else said:
            data = _binary(tensor)
            tails.append(data)
            entry["parameters"] = {"binary_data_size": len(data)}
        elif tensor.datatype == BYTES:
            entry["data"] = [element.decode() for element in tensor.elements]
        else:
            entry["data"] = np.ascontiguousarray(tensor.array.ravel())
        entries.append(entry)
    values: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id:
        values["id"] = request.id
    text = orjson.dumps(values | {"outputs": entries}, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([text, *tails]), len(text) if tails else None


def _binary(tensor: Tensor) -> bytes:
    if tensor.datatype == BYTES:
        return b"".join(struct.pack("<I", len(element)) + element for element in tensor.elements)
    return tensor.array.astype(NUMBERS[tensor.datatype], copy=False).tobytes()
