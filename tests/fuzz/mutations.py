"""Bodies out of order, from bodies in order: bits, cuts, splices, lengths, and texts with other values in them.

Everything comes of one random generator, so a number names a body for ever.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from typing import Any

from .corpus import Body

# Where formats keep lengths, counts and sizes, these are what parsers trip over.
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1,
        2**31,
        2**63,
        2**64,
        -(2**65),
        1e-320,
        1e308,
        0.5,
        "",
        "NaN",
        "\u0000",
        "\ud800",
        "x" * 300,
    ),
    *([], {}, [[]], [None], {"": 0}, [1, [2, [3]]], "../../etc/passwd", "1e999", "coco17", "BYTES", "FP16"),
)
HEADERS = {
    "Content-Type": (
        "image/png",
        "video/mp4",
        "text/plain",
        "multipart/form-data",
        "application/json;charset=x",
        "\x7f",
    ),
    "Inference-Header-Content-Length": ("-1", "0", "1", "99999999999999999999", "abc", "1.5", " 7"),
    "Content-Encoding": ("gzip", "deflate", "br", "gzip, gzip", ""),
    "Accept": ("image/png", "image/*", "application/json", "*/*;q=x", ","),
    "Accept-Encoding": ("gzip", "deflate;q=", "br", "gzip;q=nan"),
    "Request-Timeout-Ms": ("0", "1", "-5", "1e3", "600001", "\u0663".encode().decode("latin-1")),
    "X-Request-Id": ("a" * 500, "\t", "ok"),
}
QUERIES = (
    *("max_people=0", "max_people=1e9", "boxes=[[0,0,0,0]]", "boxes=[[-1e9,0,1,1]]", "boxes=[[NaN,0,1,1]]", "boxes=[]"),
    *("camera={}", "camera={%22focal_px%22:1e-300}", "camera={%22distortion%22:[1e6,1e6,1e6,1e6]}", "stature=0.3"),
    *("models={%22pose%22:%22x%22}", "%00=1", "a=1&a=1", "=", "&&", "lift=maybe", "start=5&end=1", "every=1000"),
    *("format=bvh", "format=trc&person=9", "format=mp4", "states=1", "mirrored=true&flip_test=true", "%ff=%fe"),
)


def mutated(body: Body, chance: random.Random, others: list[Body]) -> Body:
    """The body with one change or several; now and then the headers or the query are what changes."""
    content, headers, query = body.content, dict(body.headers), body.query
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        content = chance.choice(BYTES)(content, chance, others)
    if chance.random() < 0.3 and (values := _values(body)) is not None:
        content = _put_back(body, _other_value(values, chance))
    if chance.random() < 0.1:
        name = chance.choice(list(HEADERS))
        headers[name] = chance.choice(HEADERS[name])
    if chance.random() < 0.1:
        query = chance.choice(QUERIES)
    elif body.headers.get("Inference-Header-Content-Length", "0") != "0" and chance.random() < 0.2:
        headers["Inference-Header-Content-Length"] = str(chance.randrange(len(content) + 2))
    return replace(body, content=content, headers=headers, query=query)


# ---- Bytes


def _bits(content: bytes, chance: random.Random, others: list[Body]) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 3, 30))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _head_bits(content: bytes, chance: random.Random, others: list[Body]) -> bytes:
    """As `_bits`, where formats say what they are."""
    return _bits(content[:64], chance, others) + content[64:]


def _cut(content: bytes, chance: random.Random, others: list[Body]) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _without(content: bytes, chance: random.Random, others: list[Body]) -> bytes:
    begin = chance.randrange(len(content) + 1)
    return content[:begin] + content[begin + chance.randrange(1, 200) :]


def _again(content: bytes, chance: random.Random, others: list[Body]) -> bytes:
    begin = chance.randrange(len(content) + 1)
    piece = content[begin : begin + chance.randrange(1, 400)]
    return content[:begin] + piece * chance.choice((2, 3, 20)) + content[begin:]


def _length(content: bytes, chance: random.Random, others: list[Body]) -> bytes:
    size, place = chance.choice((1, 2, 4, 8)), chance.randrange(len(content) + 1)
    number = chance.choice(NUMBERS) % (1 << 8 * size)
    return content[:place] + number.to_bytes(size, chance.choice(("little", "big"))) + content[place + size :]


def _noise(content: bytes, chance: random.Random, others: list[Body]) -> bytes:
    begin = chance.randrange(len(content) + 1)
    return content[:begin] + chance.randbytes(chance.randrange(1, 64)) + content[begin:]


def _spliced(content: bytes, chance: random.Random, others: list[Body]) -> bytes:
    other = chance.choice(others).content
    return content[: chance.randrange(len(content) + 1)] + other[chance.randrange(len(other) + 1) :]


BYTES = (_bits, _bits, _head_bits, _cut, _without, _again, _length, _length, _noise, _spliced)


# ---- Values


def _values(body: Body) -> Any:
    """The JSON of a body, or of the part of it that is JSON."""
    match = re.match(rb"\{.*\}", body.content, re.DOTALL)
    length = int(body.headers.get("Inference-Header-Content-Length", "0")) or None
    if match is None:
        return None
    try:
        return json.loads(body.content[:length])
    except ValueError:
        return None


def _other_value(values: Any, chance: random.Random) -> Any:
    """The same values with one exchanged, taken away or added, at any depth."""
    if isinstance(values, dict) and values and chance.random() < 0.85:
        name = chance.choice(list(values))
        if chance.random() < 0.1:
            return {key: value for key, value in values.items() if key != name}
        if chance.random() < 0.05:
            return values | {chance.choice(("extra", "", "inputs", "boxes", "id")): chance.choice(VALUES)}
        return values | {name: _other_value(values[name], chance)}
    if isinstance(values, list) and values and chance.random() < 0.85:
        place = chance.randrange(len(values))
        if chance.random() < 0.15:
            return values[:place] + values[place + 1 :]
        return [*values[:place], _other_value(values[place], chance), *values[place + 1 :]]
    return chance.choice(VALUES)


def _put_back(body: Body, values: Any) -> bytes:
    text = json.dumps(values).encode()
    length = int(body.headers.get("Inference-Header-Content-Length", "0"))
    if not length:
        return text
    # As long as it was, or the header would say something else: that is another mutation.
    return text[:length].ljust(length) + body.content[length:]
