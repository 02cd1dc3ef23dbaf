"""POST /v1/lift: sequences of 2D keypoints to 3D joints. Parses bodies as arrays; knows no networks.

Keypoints are pixels, answers metres in the camera's axes, times seconds.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.errors import OutOfRange, TooLarge, UnknownKind, Unreadable
from service.geometry.skeletons import skeleton_named
from service.people import Array
from service.pipelines.call import Class, check_models
from service.pipelines.lift import FASTEST, SLOWEST, Lifted, LiftOptions
from service.pipelines.photo import joint_states

from .access import begin_call
from .images import metre_values
from .long_bodies import BLOCK_FRAMES, dumps_blocks, loads_json, loads_msgpack
from .points import read_points
from .problems import openapi_responses
from .schemas import (
    FARTHEST_PX,
    LiftFields,
    camera_options,
    checked,
    given_twice,
    model_names,
    openapi_schema,
    query_values,
    shown,
)
from .uploads import MEGABYTE, read_body

if TYPE_CHECKING:
    from service.assembly import Service

# 20,000 frames of 33 joints come to about half of it.
MAX_BODY_BYTES = 64 * MEGABYTE
# Parsing so much takes about a millisecond; what is larger is parsed in the pool.
_PARSED_AT_ONCE = 64 * 1024
_ANSWERED_AT_ONCE = 1000  # frames
_FAR_S = 1e10  # a clock in seconds since 1970 is well below
_MSGPACK = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")
_JSON = ("", "application/json", "application/x-www-form-urlencoded")  # the last is what curl -d says of everything


async def lift_sequences(request: Request) -> Response:
    """One person's keypoints (`keypoints`) or several people's (`people`) over time, lifted to 3D."""
    service: Service = request.app.state.service
    settings = service.settings
    call = begin_call(request, Class.PHOTO)
    query = request.query_params.multi_items() if request.scope["query_string"] else ()
    body = await read_body(request, MAX_BODY_BYTES, "body", wait_until=call.deadline)
    service.lift.knock(call)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    read = functools.partial(read_sequences, body, kind, settings.max_frames, settings.max_people, query)
    if len(body) <= _PARSED_AT_ONCE:
        asked = read()
    else:
        asked = await service.in_decode_pool(read)
    if asked.others:
        check_models(asked.others, service.photo.models)
    work = service.lift.lift_people(asked.people, asked.options, call)
    lifted = await request.app.state.doors.see_through(request, call.deadline, work)
    if sum(map(len, asked.people)) <= _ANSWERED_AT_ONCE:
        content = lift_answer(lifted, asked)
    else:
        content = await service.in_decode_pool(lift_answer, lifted, asked)
    return Response(content, media_type="application/json")


@dataclass(frozen=True)
class Sequences:
    """What a body asks for.

    people: (frames, joints, 3) points each, pixels and score; unknown joints are NaN.
    one: a single person came, as `keypoints`.
    states: each person's and frame's joint states are wanted, too.
    others: models that are named and lift nothing, by role.
    """

    people: list[Array]
    options: LiftOptions
    one: bool
    states: bool
    others: Mapping[str, str] = field(default_factory=dict)


def read_sequences(
    body: bytes, kind: str, max_frames: int, max_people: int, query: Iterable[tuple[str, str]] = ()
) -> Sequences:
    """A body's people and options, of which the query may have some.

    Raises Unreadable, UnknownKind, TooLarge or OutOfRange; each names its field.
    """
    values = _parse(body, kind)
    for name, value in query_values(LiftFields, query):
        if name in values:
            raise given_twice(name)
        values[name] = value
    given = {name: values.pop(name) for name in ("keypoints", "people", "times") if values.get(name) is not None}
    for name in ("keypoints", "people", "times"):
        values.pop(name, None)
    fields = checked(LiftFields, values, also=("keypoints", "people", "times"))
    skeleton = skeleton_named(fields.skeleton)
    one = "keypoints" in given
    if one == ("people" in given):
        raise OutOfRange("the body needs either `keypoints` or `people`, not both and not neither", field="keypoints")
    sequences = [given["keypoints"]] if one else given["people"]
    if not isinstance(sequences, list) or not sequences:
        raise OutOfRange("`people` must be a list of one person or more", field="people", limit=[1, max_people])
    if len(sequences) > max_people:
        message = f"`people` has {len(sequences)} people; at most {max_people} are lifted"
        raise TooLarge(message, field="people", limit=max_people)
    names = ["keypoints"] if one else [f"people[{index}]" for index in range(len(sequences))]
    frames = sum(len(sequence) for sequence in sequences if isinstance(sequence, list | np.ndarray))
    if frames > max_frames:
        field = "keypoints" if one else "people"
        message = f"`{field}` has {frames} frames in all; at most {max_frames} are lifted"
        raise TooLarge(message, field=field, limit=max_frames)
    people = [read_points(each, len(skeleton.joints), name) for name, each in zip(names, sequences, strict=True)]
    times = None
    if "times" in given:
        if "fps" in values:
            raise OutOfRange("`fps` and `times` cannot both be given", field="fps", limit=["fps", "times"])
        times = _read_times(given["times"], people)
    _check_span(max(map(len, people)), fields.fps, times, max_frames)
    options = LiftOptions(
        skeleton=skeleton.name,
        image_size=(fields.image_size[0], fields.image_size[1]),
        fps=fields.fps,
        times=times,
        centre=fields.frames == "centre",
        smooth=fields.smooth,
        mirrored=fields.mirrored,
        flip_test=fields.flip_test,
        stature=fields.stature,
        camera=camera_options(fields.camera),
        models=model_names(fields.models),
    )
    others = {role: name for role, name in options.models.items() if role != "lift"}
    return Sequences(people, options, one, fields.states, others)


def _parse(body: bytes, kind: str) -> dict[str, Any]:
    values: Any
    if kind in _JSON or (kind in _MSGPACK and len(body) > _PARSED_AT_ONCE):
        values = loads_json(body) if kind in _JSON else loads_msgpack(body)
        if values is not None and all(isinstance(name, str) for name in values):
            return dict(values)
    if kind in _MSGPACK:
        try:
            values = msgpack.unpackb(body)
        except Exception as error:  # a body of a stranger: the unpacker raises many kinds
            message = f"the body is not msgpack: {str(error) or type(error).__name__}"
            raise Unreadable(message, field="body", limit="msgpack") from None
    elif kind in _JSON:
        values = _parse_json(body)
    else:
        limit = ["application/json", _MSGPACK[0]]
        message = f"`Content-Type` must be {' or '.join(limit)}; got {kind[:80]!r}"
        raise UnknownKind(message, field="Content-Type", limit=limit)
    if not isinstance(values, dict):
        message = f"the body must be one object with named fields; got {type(values).__name__}"
        raise Unreadable(message, field="body", limit="one object")
    if odd := [name for name in values if not isinstance(name, str)]:
        message = f"the body must be one object with named fields; got the name {shown(odd[0])}"
        raise Unreadable(message, field="body", limit="one object")
    return values


def _parse_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # Some writers put NaN, which is no JSON, where they mean null: say so by field rather than by byte.
        if b"NaN" in body or b"Infinity" in body:
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                pass
        raise Unreadable(f"the body is not JSON: {error}", field="body", limit="JSON") from None


def _read_times(value: object, people: list[Array]) -> NDArray[np.float64]:
    frames = {len(each) for each in people}
    count = len(people[0])
    if len(frames) > 1:
        raise OutOfRange("with `times` all `people` must have the same number of frames", field="people", limit=count)
    if not isinstance(value, list) or len(value) != count or not {type(time) for time in value} <= {int, float}:
        came = f"{len(value)} of them" if isinstance(value, list) and len(value) != count else shown(value)
        message = f"`times` must be one number of seconds for each of the {count} frames; got {came}"
        raise OutOfRange(message, field="times", limit=count)
    times = np.array([min(max(time, -_FAR_S), _FAR_S) for time in value], np.float64)
    # Under a microsecond apart, frames have no time of their own.
    if not np.isfinite(times).all() or (np.diff(times) < 1e-6).any() or np.abs(times).max() >= _FAR_S:
        message = f"`times` must be seconds under {_FAR_S:g} that rise by a microsecond or more from frame to frame"
        raise OutOfRange(f"{message}; got {shown(value)}", field="times", limit="rising")
    return times


def _check_span(frames: int, fps: float, times: NDArray[np.float64] | None, max_frames: int) -> None:
    """What is slower than the lifter has learned is resampled: a long pause may cost more than all frames."""
    step_s = 1 / fps if times is None or frames < 2 else float(np.median(np.diff(times)))
    span_s = (frames - 1) / fps if times is None else float(times[-1] - times[0])
    rate = min(max(1 / step_s, SLOWEST), FASTEST)
    if span_s * rate > max_frames:
        name = "fps" if times is None else "times"
        message = f"`{name}` spans {span_s:.0f} s, which at {rate:.0f} frames a second is over {max_frames} frames"
        raise TooLarge(message, field=name, limit=max_frames)


def lift_answer(lifted: list[Lifted], asked: Sequences) -> bytes:
    """The JSON document, long arrays written in blocks."""
    people = []
    for each, points in zip(lifted, asked.people, strict=True):
        fields: dict[str, tuple[Array, Callable[[Array], Any]]] = {
            "joints3d": (each.joints, metre_values),
            "position": (each.position, metre_values),
        }
        if asked.states:
            shown = points[len(points) // 2][None] if asked.options.centre else points
            fields["states"] = shown, functools.partial(_states, size=asked.options.image_size)
        scale = {"stature": round(each.scale.stature, 4), "source": each.scale.source}
        written: dict[str, Any] = {
            name: orjson.Fragment(dumps_blocks(array, values)) if len(array) > BLOCK_FRAMES else values(array)
            for name, (array, values) in fields.items()
        }
        people.append(written | {"scale": scale})
    longest = max(lifted, key=lambda each: len(each.times))
    document = people[0] if asked.one else {"people": people}
    return orjson.dumps(
        document | {"times": longest.times.round(6), "models": longest.models}, option=orjson.OPT_SERIALIZE_NUMPY
    )


def _states(frames: Array, size: tuple[int, int]) -> list[list[str]]:
    return [joint_states(points, *size) for points in frames]


# ---- The OpenAPI document


def _body_schema() -> dict[str, Any]:
    schema = openapi_schema(LiftFields)
    point = {
        "type": "array",
        "nullable": True,
        "minItems": 2,
        "maxItems": 3,
        "items": {"type": "number", "minimum": -FARTHEST_PX, "maximum": FARTHEST_PX},
        "description": "[x, y] or [x, y, score]; null is a joint that is not known",
    }
    sequence = {"type": "array", "minItems": 1, "items": {"type": "array", "items": point}}
    schema["properties"] |= {
        "keypoints": sequence | {"description": "frames x joints x 2 or 3: one person"},
        "people": {"type": "array", "minItems": 1, "items": sequence, "description": "a list of such"},
        "times": {"type": "array", "items": {"type": "number"}, "description": "seconds, rising; instead of fps"},
    }
    return schema


OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": _body_schema()} for kind in ("application/json", "application/msgpack")},
    }
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Joints relative to the pelvis, and where it stands; with `people` a list of these",
        "content": {
            "application/json": {
                "example": {
                    "joints3d": [[[0, 0, 0], [-0.13, 0.01, 0.02]]],
                    "position": [[-0.31, 0.12, 3.4]],
                    "scale": {"stature": 1.7, "source": "assumed"},
                    "times": [0.0],
                    "models": {"lift": "lift-27@4"},
                }
            }
        },
    },
    **openapi_responses(
        errors.Unreadable,
        errors.Unknown,
        errors.TooLarge,
        errors.UnknownKind,
        errors.OutOfRange,
        errors.ShareUsedUp,
        errors.QueueFull,
        errors.NotReady,
        errors.DeadlinePassed,
    ),
}
