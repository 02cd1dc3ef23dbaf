"""C3D, the laboratories' binary: 512-byte blocks, one person a file.

Millimetres as 32-bit floats, y up (POINT:X_SCREEN +X, POINT:Y_SCREEN +Y). One rate, so frames are brought to an even
grid. A point's fourth number is its residual: -1 where the joint is unknown, else 0 (filtered, as all is).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from service.geometry.skeletons import H36M17

from .recording import Floats, RecordedPerson, Recording, whole_clip

BLOCK = 512
INTEL = 84  # the processor byte that says little-endian
MOST_FRAMES = 65535  # what a word holds; longer files count in TRIAL and POINT:LONG_FRAMES
FRAMES_A_CHUNK = 1024

Value = str | float | int | Sequence[str]


def chunks(recording: Recording, person: RecordedPerson) -> Iterator[bytes]:
    """The file: header, parameters, and points a thousand frames at a time. Source: c3d.org, "The C3D File Format"."""
    joints = whole_clip(recording, person)[1] * 1000
    largest = float(np.nanmax(np.abs(joints), initial=1.0))
    scale = largest / 32000  # read as the size of a step where a program makes whole numbers of the floats
    parameters = _parameters(recording.rate, len(joints), scale, data_block=2)
    blocks = len(parameters) // BLOCK
    data_block = 2 + blocks
    yield _header(recording.rate, len(joints), scale, data_block)
    yield _parameters(recording.rate, len(joints), scale, data_block)
    written = 0
    for first in range(0, len(joints), FRAMES_A_CHUNK):
        body = _points(joints[first : first + FRAMES_A_CHUNK])
        written += len(body)
        yield body
    yield bytes(-written % BLOCK)


def _header(rate: float, frames: int, scale: float, data_block: int) -> bytes:
    first, last = (1, min(frames, MOST_FRAMES)) if frames else (1, 0)
    begin = struct.pack("<BBHHHHHfHHf", 2, 0x50, len(H36M17.joints), 0, first, last, 0, -scale, data_block, 0, rate)
    return begin.ljust(BLOCK, b"\0")


def _parameters(rate: float, frames: int, scale: float, data_block: int) -> bytes:
    joints = len(H36M17.joints)
    groups: dict[str, dict[str, Value]] = {
        "POINT": {
            "USED": joints,
            "SCALE": -scale,
            "RATE": rate,
            "DATA_START": data_block,
            "FRAMES": min(frames, MOST_FRAMES),
            "LABELS": H36M17.joints,
            "DESCRIPTIONS": H36M17.joints,
            "UNITS": "mm",
            "X_SCREEN": "+X",
            "Y_SCREEN": "+Y",
            **({"LONG_FRAMES": float(frames)} if frames > MOST_FRAMES else {}),
        },
        "ANALOG": {"USED": 0, "GEN_SCALE": 1.0, "RATE": 0.0},
    }
    body = b""
    for number, (group, parameters) in enumerate(groups.items(), start=1):
        body += _named(group, -number, b"\0")
        for name, value in parameters.items():
            body += _named(name, number, _typed(value) + b"\0")
    if frames > MOST_FRAMES:
        body += _named("TRIAL", -3, b"\0")
        for name, frame in (("ACTUAL_START_FIELD", 1), ("ACTUAL_END_FIELD", frames)):
            # Two words, the low one first.
            body += _named(name, 3, struct.pack("<bBBHH", 2, 1, 2, frame & 0xFFFF, frame >> 16) + b"\0")
    size = 4 + len(body) + 2
    blocks = -(-size // BLOCK)
    return (struct.pack("<BBBB", 1, 0x50, blocks, INTEL) + body).ljust(blocks * BLOCK, b"\0")


def _named(name: str, group: int, content: bytes) -> bytes:
    """A group (negative number) or a parameter, with the way to the next one counted from where it is written."""
    return struct.pack("<bb", len(name), group) + name.encode("ascii") + struct.pack("<h", len(content) + 2) + content


def _typed(value: Value) -> bytes:
    """Type, dimensions and content: text -1, whole numbers 2 bytes, others 4-byte floats."""
    if isinstance(value, str):
        return struct.pack("<bBB", -1, 1, len(value)) + value.encode("ascii")
    if isinstance(value, float):
        return struct.pack("<bBf", 4, 0, value)
    if isinstance(value, int):
        return struct.pack("<bBH", 2, 0, value)
    width = max(len(text) for text in value)
    padded = "".join(text.ljust(width) for text in value)
    return struct.pack("<bBBB", -1, 2, width, len(value)) + padded.encode("ascii")


def _points(joints: Floats) -> bytes:
    """(frames, joints, 3) millimetres as x, y, z, residual."""
    known = np.isfinite(joints).all(axis=-1, keepdims=True)
    points = np.where(known, joints, 0)
    return np.concatenate([points, np.where(known, 0, -1)], axis=-1).astype("<f4").tobytes()
