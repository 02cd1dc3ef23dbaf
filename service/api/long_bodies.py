"""Sequences of points read as arrays, and read and written in blocks of frames where they are long.

A C parser lets no other thread run until it has ended, the event loop's neither: ten megabytes at once are a tenth of a
second. Knows JSON and msgpack, and points as nested lists; no networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import msgpack
import numpy as np
import orjson
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCK_BYTES = 128 * 1024
BLOCK_FRAMES = 256
FIELDS = {"keypoints": 3, "people": 4}  # levels of lists


def loads_json(body: bytes) -> dict[str, Any] | None:
    """A body whose `keypoints`, or each of whose `people`, is an array, a null joint as NaN.

    Returns None for whatever is not plainly so: who reads it then in one go also says what is wrong.
    """
    try:
        begin = body.find(b"[[[")
        name = "people" if body.startswith(b"[[[[", begin) else "keypoints"
        depth = FIELDS[name]
        end = body.rfind(b"]" * depth) + depth
        if begin < 0 or end < begin or body.find(b'"', begin, end) >= 0:
            return None
        # A text in their place: it cannot become one thing with what stands beside it, as a number would.
        values = orjson.loads(b'%b"@"%b' % (body[:begin], body[end:]))
        if not isinstance(values, dict) or values.get(name) != "@":
            return None
        if name == "keypoints":
            values[name] = joined(_json_blocks(body, begin, end))
            return None if values[name] is None else values
        people = [joined(_json_blocks(body, first, last)) for first, last in _people(body, begin + 1, end - 1)]
        values[name] = people
        return None if any(person is None for person in people) else values
    except (orjson.JSONDecodeError, RecursionError):
        return None


def _people(body: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Where each person begins and ends."""
    while begin < end:
        last = body.find(b"]]]", begin, end)
        if last < 0:
            raise RecursionError
        yield begin, last + 3
        begin = body.find(b"[", last + 3, end)
        if begin < 0:
            return


def _json_blocks(body: bytes, begin: int, end: int) -> Iterator[Floats | list[Any]]:
    """The frames of `[[[x, y], ...], ...]`, some at a time: an array where they are plain, else as they are."""
    at = begin + 1
    while at < end - 1:
        cut = body.find(b"]]", min(at + BLOCK_BYTES, end - 3), end) + 2  # a frame's end, and perhaps the last one's
        frames = b"[%b]" % body[at:cut]
        numbers = _even_numbers(frames)
        yield orjson.loads(frames) if numbers is None else numbers
        at = cut
        rest = body[at : at + 16].lstrip()
        if rest.startswith(b","):
            at = body.find(b",", at) + 1
        elif at < end - 1 and not body[at : end - 1].isspace():
            raise RecursionError


_NUMBERS = b"0123456789.-+eE \t\r\n"  # and what stands between them: what is left are brackets and commas
_UNBRACKETED = bytes.maketrans(b"[]", b"  ")


def _even_numbers(frames: bytes) -> Floats | None:
    """`[[[x, y], ...], ...]` as an array, if it holds numbers alone and every frame and joint as many; else None.

    A parser makes a list of each joint, for nothing: here the brackets are compared with what they should be, and the
    numbers parsed as one list, which takes half the time.
    """
    marks = frames.translate(None, _NUMBERS)
    frame = marks[1 : marks.find(b"]]") + 2]
    joint = frame[1 : frame.find(b"]") + 1]
    numbers_each = joint.count(b",") + 1
    count, joints = len(marks) // (len(frame) + 1), frame.count(b"[") - 1
    if joint != _listed(b"", numbers_each) or frame != _listed(joint, joints) or marks != _listed(frame, count):
        return None
    # Nor may a number stand outside of its joint: between two brackets there is a comma and nothing else.
    comma = b", " if b"], [" in frames[: BLOCK_BYTES // 64] else b","
    if frames.count(b"]%b[" % comma) != count * joints - 1 or frames.count(b"]]%b[[" % comma) != count - 1:
        return None
    if not (frames.startswith(b"[[[") and frames.endswith(b"]]]")):
        return None
    try:
        numbers = orjson.loads(b"[%b]" % frames.translate(_UNBRACKETED))
        return np.fromiter(numbers, np.float64, len(numbers)).reshape(count, joints, numbers_each)
    except (ValueError, OverflowError):
        return None


def _listed(element: bytes, count: int) -> bytes:
    return b"[%b]" % b",".join([element] * count)


def loads_msgpack(body: bytes) -> dict[str, Any] | None:
    """As `loads_json`, for msgpack."""
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(body), 1))
    unpacker.feed(body)
    try:
        values: dict[str, Any] = {}
        for _ in range(unpacker.read_map_header()):
            name = unpacker.unpack()
            if name == "keypoints":
                values[name] = joined(_msgpack_blocks(unpacker))
            elif name == "people":
                values[name] = [joined(_msgpack_blocks(unpacker)) for _ in range(unpacker.read_array_header())]
            else:
                values[name] = unpacker.unpack()
        if unpacker.tell() != len(body):
            return None
    except Exception:  # a body of a stranger: the unpacker raises many kinds
        return None
    sequences = [values.get("keypoints", ()), *(values.get("people") or ())]
    return None if any(each is None for each in sequences) else values


def _msgpack_blocks(unpacker: Any) -> Iterator[Floats | list[Any]]:
    left = unpacker.read_array_header()
    while left:
        count = min(left, BLOCK_FRAMES)
        left -= count
        yield [unpacker.unpack() for _ in range(count)]


def joined(blocks: Iterator[Floats | list[Any]]) -> Floats | None:
    """(frames, joints, 2 or 3) of blocks of frames, a null joint as NaN, NaN, 0; None where they are not that."""
    arrays: list[Floats] = []
    for block in blocks:
        # An array is of JSON, in which all numbers are finite.
        array = block if isinstance(block, np.ndarray) else _numbers_or_nulls(block)
        if array is None or array.ndim != 3 or (arrays and array.shape[1:] != arrays[0].shape[1:]):
            return None
        arrays.append(array)
    return np.concatenate(arrays) if len(arrays) > 1 else next(iter(arrays), None)


def _numbers_or_nulls(frames: list[Any]) -> Floats | None:
    unknown, array = 0, as_numbers(frames)
    if array is None:
        frames, unknown = _without_nulls(frames)
        array = as_numbers(frames)
    if array is None or array.ndim != 3 or not array.shape[2]:
        return None
    if np.count_nonzero(~np.isfinite(array)) != unknown * array.shape[2]:
        return None  # NaN of the sender's own
    if unknown:
        array[np.isnan(array[..., 0]), 2:] = 0
    return array


def _without_nulls(frames: list[Any]) -> tuple[list[Any], int]:
    """Unknown joints as NaN, as many numbers as the first known joint has, and how many; the odd is left as it is."""
    if not all(isinstance(frame, list) for frame in frames):
        return frames, 0
    points = (point for frame in frames for point in frame if isinstance(point, list) and None not in point)
    nothing = [np.nan] * len(next(points, [0, 0]))
    known = [[nothing if _unknown(point) else point for point in frame] for frame in frames]
    return known, sum(point is nothing for frame in known for point in frame)


def _unknown(point: Any) -> bool:
    return point is None or (isinstance(point, list) and point[:2] == [None, None])


def as_numbers(value: list[Any]) -> Floats | None:
    """Three levels of lists of numbers as an array; None if there is anything else in them."""
    try:
        points = list(chain.from_iterable(value))
        numbers = list(chain.from_iterable(points))
        # Looked at first: NumPy would read "1" and true as numbers.
        if not set(map(type, numbers)) <= {int, float}:
            return None
        sizes = {(type(each), len(each)) for each in value}, set(map(type, points)), set(map(len, points))
        if not numbers or any(len(each) != 1 for each in sizes) or (list, len(value[0])) not in sizes[0]:
            return np.asarray(value, np.float64)
        # What is even is read flat, three times as fast.
        if list not in sizes[1]:
            return None
        return np.fromiter(numbers, np.float64, len(numbers)).reshape(len(value), len(value[0]), len(points[0]))
    except (TypeError, ValueError, OverflowError):
        return None


def dumps_blocks(points: NDArray[Any], values: Callable[[NDArray[Any]], Any]) -> bytes:
    """A JSON list of what `values` makes of a long array, a block of its rows at a time."""
    pieces = (
        orjson.dumps(values(points[first : first + BLOCK_FRAMES]), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        for first in range(0, len(points), BLOCK_FRAMES)
    )
    return b"[" + b",".join(pieces) + b"]"
