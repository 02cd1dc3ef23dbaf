"""Keypoints as a request holds them to an array: JSON's lists, or what `long_bodies` made of a long one.

Pixels of the upright picture, x right and y down; scores 0..1. Every refusal names the place and what came.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import OutOfRange

from .long_bodies import as_numbers
from .schemas import FARTHEST_PX, shown

Array = NDArray[np.float32]


def read_points(value: object, joints: int, name: str) -> Array:
    """Keypoints as they came (lists of frames of joints of x, y and perhaps a score, or an array of `long_bodies`) to
    an array.

    Args:
        joints: how many the skeleton has.
        name: the field that errors name.

    Returns:
        (frames, joints, 3) float32; a joint that is null is (NaN, NaN, 0), a score that is absent 1.
    """
    if not isinstance(value, list | np.ndarray) or not len(value):
        raise OutOfRange(f"`{name}` must be a list of one frame or more; got {shown(value)}", field=name, limit=1)
    return _read(value, joints, name, "frames x ", 0)


def read_frame(value: object, joints: int, name: str) -> Array:
    """One frame's keypoints, as `read_points` reads several: (joints, 3)."""
    points: Array = _read([value], joints, name, "", 1)[0]
    return points


def _read(value: list[Any] | NDArray[np.float64], joints: int, name: str, several: str, first: int) -> Array:
    """several: how a refusal calls frames; first: the level of lists from which on it tells where."""
    if isinstance(value, np.ndarray):
        given: NDArray[np.float64] = value
    elif (numbers := as_numbers(value)) is None:  # nulls, ragged lists, or what is no number
        given = _read_each(value, joints, name, first)
    elif (finite := np.isfinite(numbers)).all():
        given = numbers
    else:
        at = "".join(f"[{index}]" for index in np.argwhere(~finite)[0][first:])
        raise OutOfRange(f"`{name}{at}` must be a number; got NaN or an infinity", field=name, limit="finite")
    if given.ndim != 3 or given.shape[1] != joints or given.shape[2] not in (2, 3):
        wanted = f"{several}{joints} joints x 2 or 3"
        raise OutOfRange(f"`{name}` must be {wanted}; got {_size(given.shape[first:])}", field=name, limit=wanted)

    distances = np.abs(given[..., :2])
    farthest = distances.max()
    some_unknown = np.isnan(farthest)
    if (np.fmax.reduce(distances, None) if some_unknown else farthest) > FARTHEST_PX:
        limit = [-FARTHEST_PX, FARTHEST_PX]
        raise OutOfRange(f"`{name}` must lie within {FARTHEST_PX:g} pixels", field=name, limit=limit)
    points = np.empty((*given.shape[:2], 3), np.float32)
    points[..., 2] = 1
    points[..., : given.shape[2]] = given
    if given.shape[2] == 3 and not ((points[..., 2] >= 0) & (points[..., 2] <= 1)).all():
        worst = points[..., 2].flat[np.abs(points[..., 2] - 0.5).argmax()]
        raise OutOfRange(f"the scores of `{name}` must be from 0 to 1; got {worst:g}", field=name, limit=[0, 1])
    if some_unknown:
        points[np.isnan(points[..., 0]), 2] = 0
    return points


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _read_each(frames: list[Any], joints: int, name: str, first: int) -> NDArray[np.float64]:
    """The slow way, number by number, which knows nulls and says where something is wrong."""
    rows: list[list[float]] = []
    width = 0
    for number, frame in enumerate(frames):
        place = name if first else f"{name}[{number}]"
        if not isinstance(frame, list) or len(frame) != joints:
            came = f"{len(frame)}" if isinstance(frame, list) else shown(frame)
            raise OutOfRange(f"`{place}` must have {joints} joints; got {came}", field=name, limit=joints)
        for joint, point in enumerate(frame):
            unknown = point is None or (isinstance(point, list) and point[:2] == [None, None])
            if not unknown:
                if not isinstance(point, list) or len(point) not in (2, 3) or not all(map(_is_number, point)):
                    rule = "null, or 2 or 3 numbers: x, y, score"
                    message = f"`{place}[{joint}]` must be {rule}; got {shown(point)}"
                    raise OutOfRange(message, field=name, limit=rule)
                if width not in (0, len(point)):
                    message = f"`{place}[{joint}]` must have {width} numbers like the ones before it"
                    raise OutOfRange(f"{message}; got {len(point)}", field=name, limit=width)
                width = len(point)
            rows.append([math.nan, math.nan, 0.0] if unknown else [*map(float, point), 1.0][:3])
    return np.array(rows, np.float64).reshape(len(frames), joints, 3)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= 1e300  # no NaN, no infinity, nothing that a float cannot hold
