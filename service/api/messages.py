"""JSON Schemas of what the OpenAPI document cannot hold: a clip's lines and the live streams' messages. Pure data.

Pixels, seconds, and metres in the camera's axes. Additions alone may change them: tests hold them against docs/schemas
and against real streams. msgpack messages have the same fields; bytes are told as strings in base64.
"""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from service.errors import Unknown

from .schemas import FARTHEST_PX, LiveFields, LiveFrameFields

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
STATES = ["seen", "occluded", "outside", "inferred"]
TRACK_STATES = ["tentative", "confirmed", "lost"]


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(of: Schema, count: int | None = None, **more: Any) -> Schema:
    bounds = {} if count is None else {"minItems": count, "maxItems": count}
    return {"type": "array", "items": of, **bounds, **more}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None, **more: Any) -> Schema:
    """Readers must bear fields that they do not know, so further ones are allowed."""
    return {"type": "object", "required": list(required), "properties": required | (optional or {}), **more}


def _message(kind: str, required: dict[str, Schema], optional: dict[str, Schema] | None = None, **more: Any) -> Schema:
    return _object({"type": {"const": kind}} | required, optional, **more)


NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
SECONDS = NUMBER | {"description": "seconds"}
LABELS: Schema = {"type": "object", "additionalProperties": TEXT, "description": "role to name@version"}

COMMON: dict[str, Schema] = {
    "point": _list(NUMBER, 3, description="x, y, z"),
    "keypoint": _or_null(_list(NUMBER, 3, description="x and y in pixels, score from 0 to 1; null: not known at all")),
    "keypoints": _list(_ref("keypoint"), 17, description="coco17"),
    "joints3d": _list(
        _or_null(_ref("point")), 17, description="h36m17: metres in the camera's axes, relative to joint 0, the pelvis"
    ),
    "position": _or_null(_ref("point")) | {"description": "metres: joint 0 in the camera's frame; null: not told"},
    "box": _list(NUMBER, 4, description="x, y, width, height in pixels"),
    "scale": _object({"stature": NUMBER, "source": {"enum": ["given", "assumed"]}}),
    "states": _list({"enum": STATES}, 17),
    "problem": _object(
        {"type": TEXT, "title": TEXT, "status": {"type": "integer"}, "detail": TEXT, "request_id": TEXT},
        {"field": TEXT, "limit": {}},
        description="a problem document, RFC 9457",
    ),
}
LIFTED = {"joints3d": _ref("joints3d"), "position": _ref("position"), "scale": _ref("scale")}
FOUND = {"id": COUNT, "box": _ref("box"), "score": NUMBER, "keypoints": _ref("keypoints")}


def _schema(title: str, messages: dict[str, Schema], more: dict[str, Schema], definitions: dict[str, Schema]) -> Schema:
    """One of `messages`; each is a definition of its own."""
    return {
        "$schema": DIALECT,
        "title": title,
        "oneOf": [_ref(name) for name in messages],
        "$defs": definitions | more | messages,
    }


def _clip_line() -> Schema:
    camera = _object(
        {"focal_px": NUMBER, "center": _list(NUMBER, 2), "source": {"enum": ["given", "exif", "assumed"]}},
        {"distortion": _list(NUMBER)},
    )
    person = _object(
        FOUND | {"track": {"enum": TRACK_STATES}, "swapped": FLAG, "filled": FLAG},
        LIFTED
        | {
            "states": _ref("states"),
            "keypoints_raw": _ref("keypoints"),
            "feet": _list({"enum": ["down", "up", None]}, 2, description="left, right"),
        },
    )
    track = _object(
        {"id": COUNT, "first": COUNT, "last": COUNT, "frames": COUNT, "scale": _ref("scale")},
        {"factor": NUMBER | {"description": "what the track's joints and positions are to be multiplied by"}},
    )
    world = _object(
        {"rotation": _list(_ref("point"), 3), "translation": _ref("point")},
        description="world = rotation @ camera + translation; the world's y points up, the floor is at 0",
    )
    messages = {
        "start": _message(
            "start",
            {
                "request_id": TEXT,
                "size": _list(COUNT, 2, description="width, height of the upright frames, pixels"),
                "rate": NUMBER | {"description": "frames a second, nominal"},
                "frames": _or_null(COUNT),
                "duration": _or_null(SECONDS),
                "camera": _ref("camera"),
                "models": LABELS,
                "skeletons": _object({"keypoints": TEXT, "joints3d": TEXT}),
                "units": _object({"keypoints": TEXT, "joints3d": TEXT, "time": TEXT}),
            },
        ),
        "frame": _message("frame", {"index": COUNT, "time": SECONDS, "people": _list(_ref("person"))}),
        "progress": _message("progress", {"frames": COUNT, "time": SECONDS}),
        "end": _message(
            "end",
            {
                "frames": COUNT,
                "seconds": SECONDS,
                "tracks": _list(_ref("track")),
                "merged": {"type": "object", "additionalProperties": COUNT, "description": "later id to the first"},
                "camera_to_world": _or_null(_ref("world")),
                "reason": TEXT | {"description": "why there is no world"},
            },
            {
                "timings_ms": {
                    "type": "object",
                    "additionalProperties": NUMBER,
                    "description": "the whole clip's milliseconds by stage: decode, person, pose, lift, queue; stages "
                    "run beside each other, so that their sum may be more than the time that passed",
                }
            },
        ),
        "error": _message("error", {"problem": _ref("problem"), "last_frame": _or_null(COUNT)}),
    }
    more = {"camera": camera, "person": person, "track": track, "world": world}
    return _schema("A line of POST /v1/clips", messages, more, COMMON)


def _server_messages(door: str, person: Schema) -> Schema:
    messages = {
        "started": _message("started", {"request_id": TEXT, "models": LABELS}),
        "pose": _message(
            "pose",
            {
                "seq": COUNT | {"description": "the frame that is answered"},
                "time": SECONDS,
                "people": _list(_ref("person")),
                "age_ms": NUMBER | {"description": "from the frame's arrival to its answer"},
                "dropped": COUNT | {"description": "frames and answers lost so far"},
            },
        ),
        "error": _message(
            "error",
            {"problem": _ref("problem")},
            {"seq": _or_null({"type": "integer"})},
            description="the stream goes on",
        ),
        "ended": _message("ended", {"reason": {"enum": ["done", "draining"]}, "frames": COUNT, "dropped": COUNT}),
    }
    return _schema(f"What WS {door} answers", messages, {"person": person}, COMMON)


def _client_messages(door: str, start: type[BaseModel], frame: Schema, more: dict[str, Schema]) -> Schema:
    options = start.model_json_schema(ref_template="#/$defs/{model}")
    definitions = options.pop("$defs", {})
    required = {name: options["properties"][name] for name in options.get("required", [])}
    optional = {name: each for name, each in options["properties"].items() if name not in required}
    messages = {
        "start": _message("start", required, optional, additionalProperties=False),
        "frame": frame,
        "end": _message("end", {}),
    }
    return _schema(f"What WS {door} is sent", messages, more | definitions, {})


def _frame(content: dict[str, Schema], **more: Any) -> Schema:
    seq = COUNT | {"description": "rising from frame to frame"}
    time = SECONDS | {"description": "seconds of any clock; seq / fps if absent"}
    optional = content if more else {}
    required = {} if more else content
    return _message("frame", {"seq": seq} | required, {"time": time} | optional, additionalProperties=False, **more)


def _keypoint_messages() -> Schema:
    point = _or_null(_list({"type": "number", "minimum": -FARTHEST_PX, "maximum": FARTHEST_PX}, minItems=2, maxItems=3))
    points = _list(point, description="one person's joints in the skeleton's order: x, y and perhaps score; or null")
    several = _list(_ref("points"), description="instead: one entry a person, who is told apart by the place here")
    content = {"keypoints": _ref("points"), "people": several}
    either = [{"required": ["keypoints"]}, {"required": ["people"]}]
    return _client_messages("/v1/live/keypoints", LiveFields, _frame(content, oneOf=either), {"points": points})


def _picture_messages() -> Schema:
    image = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/jpeg"}
    image["description"] = "a JPEG; in msgpack the bytes themselves"
    return _client_messages("/v1/live/frames", LiveFrameFields, _frame({"image": image}), {})


SCHEMAS: dict[str, Schema] = {
    "clip-line": _clip_line(),
    "live-keypoints-sent": _keypoint_messages(),
    "live-keypoints-answered": _server_messages("/v1/live/keypoints", _object(LIFTED)),
    "live-frames-sent": _picture_messages(),
    "live-frames-answered": _server_messages(
        "/v1/live/frames", _object(FOUND | {"track": {"enum": TRACK_STATES}}, LIFTED | {"states": _ref("states")})
    ),
}


async def schemas(request: Request) -> Response:
    """The JSON Schemas of a clip's lines and of the live streams' messages, by name."""
    return Response(orjson.dumps({"schemas": SCHEMAS}), media_type="application/json")


async def schema(request: Request) -> Response:
    """One of these schemas."""
    name = request.path_params["name"]
    if name not in SCHEMAS:
        raise Unknown(
            f"there is no schema {name[:80]!r}; known are {', '.join(SCHEMAS)}", field="name", limit=list(SCHEMAS)
        )
    return Response(orjson.dumps(SCHEMAS[name]), media_type="application/schema+json")
