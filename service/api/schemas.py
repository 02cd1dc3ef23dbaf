"""What a request may say, in one shape for every door: query, JSON part, message. Strict, and each rule told in words.

Sizes are pixels of the upright picture, times seconds, statures metres. The description of an option begins with the
words that follow "must be" in a refusal; so document and message say the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from service.errors import OutOfRange, TooLarge, Unreadable
from service.formats import FORMATS
from service.people import Array
from service.pipelines.call import CameraOptions
from service.pipelines.clip import ClipOptions
from service.pipelines.photo import PhotoOptions

CLIP_FORMATS = (*FORMATS, "mp4")  # what a clip may be answered as, beside lines
_SHOWN = 80  # characters of a wrong value that are told back

M = TypeVar("M", bound="Options")
FARTHEST_PX = 1e6  # points may lie outside the picture, but not where 32-bit arithmetic ends
Number = Annotated[float, Field(ge=-FARTHEST_PX, le=FARTHEST_PX)]


class Options(BaseModel):
    """Nothing is guessed: no unknown names, no numbers in quotes, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class ModelNames(Options):
    """Which model does what."""

    person: str | None = Field(None, description="a model's `name` or `name@version`")
    pose: str | None = Field(None, description="a model's `name` or `name@version`")
    lift: str | None = Field(None, description="a model's `name` or `name@version`")


NO_MODEL_NAMED = ModelNames.model_validate({})  # the store's defaults


class CameraFields(Options):
    """The camera of the picture; without one EXIF tells, else it is assumed."""

    focal_px: float | None = Field(None, ge=1, le=FARTHEST_PX, description=f"pixels from 1 to {FARTHEST_PX:g}")
    field_of_view: float | None = Field(
        None, ge=0.1, lt=180, description="degrees from 0.1 to under 180: on the longer side"
    )
    center: list[Number] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="[x, y] in pixels: the optical axis; the picture's middle if absent",
    )
    distortion: list[Number] | None = Field(
        None, min_length=4, max_length=5, description="4 or 5 numbers: k1, k2, p1, p2 and k3, as OpenCV has them"
    )


class CommonOptions(Options):
    """The options of every door."""

    models: ModelNames = Field(
        default_factory=lambda: NO_MODEL_NAMED, description="an object with person, pose or lift: models by name"
    )
    camera: CameraFields | None = Field(None, description="an object with focal_px or field_of_view: the camera")
    stature: float | None = Field(
        None, ge=0.3, le=3.0, description="metres from 0.3 to 3: standing height; 1.70 is assumed if absent"
    )
    max_people: int = Field(20, ge=1, le=100, description="a whole number from 1 to 100: the likeliest so many people")
    min_person_score: float = Field(
        0.4, ge=0.01, le=1, description="a number from 0.01 to 1: people under this chance are left out"
    )
    smooth: bool = Field(False, description="true or false: smooth over time (a photo has none)")
    states: bool = Field(False, description="true or false: tell of each joint whether it was seen")
    mirrored: bool = Field(False, description="true or false: the picture is mirrored, as selfies are")


class PhotoFields(CommonOptions):
    """Options of POST /v1/images."""

    boxes: list[Annotated[list[Number], Field(min_length=4, max_length=4)]] | None = Field(
        None, description="a list of [x, y, width, height] in pixels: these people instead of the finder's"
    )
    flip_test: bool = Field(False, description="true or false: average with the mirrored picture")
    lift: bool = Field(True, description="true or false: make 3D joints, too")


class ClipFields(CommonOptions):
    """Options of POST /v1/clips."""

    flip_test: bool = Field(False, description="true or false: average with the mirrored picture")
    lift: bool = Field(True, description="true or false: make 3D joints, too")
    every: int = Field(1, ge=1, le=1000, description="a whole number from 1 to 1000: every so many frames is answered")
    start: float = Field(0.0, ge=0, le=1e6, description="seconds from 0 on: where to begin")
    end: float | None = Field(None, gt=0, le=1e6, description="seconds over `start`: where to end")
    smooth: bool = Field(True, description="true or false: smooth over time")
    raw: bool = Field(False, description="true or false: also the keypoints before smoothing")
    inferred: bool = Field(False, description="true or false: also the 3D of joints that are never seen, else null")
    format: str | None = Field(
        None,
        json_schema_extra={"enum": list(CLIP_FORMATS)},
        description=f"one of {', '.join(CLIP_FORMATS)}: answer with that file instead of lines",
    )
    person: int | None = Field(
        None, ge=0, le=2**31 - 1, description="a whole number from 0 on: the file of that person's id alone"
    )

    @field_validator("format")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in CLIP_FORMATS:
            raise ValueError("unknown format")
        return name


class SequenceFields(Options):
    """What POST /v1/lift and the first message of a live stream both say of the keypoints."""

    skeleton: str = Field(description="the name of a skeleton: GET /v1/skeletons lists them")
    image_size: list[Annotated[int, Field(ge=1, le=FARTHEST_PX)]] = Field(
        min_length=2, max_length=2, description="[width, height] in whole pixels, each 1 or more"
    )
    fps: float = Field(30.0, ge=1, le=240, description="frames a second from 1 to 240")


class LiftFields(CommonOptions, SequenceFields):
    """Options of POST /v1/lift."""

    flip_test: bool = Field(False, description="true or false: average with the mirror image; a lone frame always is")

    frames: Literal["all", "centre"] = Field("all", description='"all" or "centre": which frames are answered')


class FileFields(Options):
    """What the command line's `lift` says of a file of keypoints."""

    image_size: list[Annotated[int, Field(ge=1, le=FARTHEST_PX)]] | None = Field(
        None, min_length=2, max_length=2, description="W and H in whole pixels, each 1 or more"
    )
    fps: float | None = Field(None, ge=1, le=240, description="frames a second from 1 to 240")
    stature: float | None = Field(None, ge=0.3, le=3.0, description="metres from 0.3 to 3: standing height")


class StreamFields(Options):
    """What both live doors' `start` messages have."""

    latency: Literal["low", "full"] = Field("low", description='"low" or "full": the newest frame, or the centre one')
    smooth: bool = Field(False, description="true or false: smooth over time")
    camera: CameraFields | None = Field(None, description="an object with focal_px or field_of_view: the camera")
    stature: float | None = Field(None, ge=0.3, le=3.0, description="metres from 0.3 to 3: standing height")
    mirrored: bool = Field(False, description="true or false: the picture is mirrored, as selfies are")
    models: ModelNames = Field(
        default_factory=lambda: NO_MODEL_NAMED, description="an object with person, pose or lift: models by name"
    )


class LiveFields(SequenceFields, StreamFields):
    """The `start` message of WS /v1/live/keypoints."""


class LiveFrameFields(StreamFields):
    """The `start` message of WS /v1/live/frames."""

    skeleton: Literal["coco17"] = Field("coco17", description='"coco17": what the detector answers')
    image_size: list[Annotated[int, Field(ge=1, le=FARTHEST_PX)]] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="[width, height] in whole pixels, each 1 or more: of every frame; the first one tells if absent",
    )
    fps: float = Field(30.0, ge=1, le=240, description="frames a second from 1 to 240")
    states: bool = Field(False, description="true or false: tell of each joint whether it was seen")
    lift: bool = Field(True, description="true or false: make 3D joints, too")
    max_people: int = Field(20, ge=1, le=100, description="a whole number from 1 to 100: the likeliest so many people")
    min_person_score: float = Field(
        0.4, ge=0.01, le=1, description="a number from 0.01 to 1: people under this chance are left out"
    )


# ---- Reading options


def options_from_query(model: type[M], query: Iterable[tuple[str, str]], part: bytes = b"") -> M:
    """Options from the query (what is not a plain text is JSON text) and from a multipart JSON part, checked.

    Raises Unreadable for a part that is no JSON object, OutOfRange for everything else.
    """
    values: dict[str, Any] = {}
    if part.strip():
        values = json_object(part, "options")
    for name, value in query_values(model, query):
        if name in values:
            raise given_twice(name)
        values[name] = value
    return checked(model, values)


def query_values(model: type[Options], query: Iterable[tuple[str, str]]) -> Iterator[tuple[str, object]]:
    """The query's names and values, read as the options that they name want them."""
    for name, text in query:
        field = model.model_fields.get(name)
        yield name, text if field is None else _from_text(text, field)


def given_twice(name: str) -> OutOfRange:
    return OutOfRange(f"`{name[:_SHOWN]}` is given twice", field=name[:_SHOWN], limit=1)


def _from_text(text: str, field: FieldInfo) -> object:
    if field.annotation is bool and text in ("0", "1"):
        return text == "1"
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def json_object(body: bytes, part: str) -> dict[str, Any]:
    """A JSON object's fields. Raises Unreadable."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"`{part}` is not JSON: {error}", field=part, limit="a JSON object") from None
    if not isinstance(value, dict):
        raise Unreadable(f"`{part}` must be a JSON object; got {shown(value)}", field=part, limit="a JSON object")
    return value


def checked(model: type[M], values: Mapping[str, Any], also: tuple[str, ...] = ()) -> M:
    """The values as `model`; OutOfRange names the first field that is wrong, its rule, and what came.

    also: fields beside the model's that the caller has read already, for the list of known ones.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _refusal(model, error, also) from None


def _refusal(model: type[BaseModel], error: ValidationError, also: tuple[str, ...]) -> OutOfRange:
    first = error.errors(include_url=False)[0]
    names: list[str] = []
    indices = ""
    owner, field = model, None
    for step in first["loc"]:
        if isinstance(step, int):
            indices += f"[{step}]"
        elif not indices:
            names.append(step[:_SHOWN])
            field = owner.model_fields.get(step)
            owner = _nested(field) or owner
    name = ".".join(names)
    if first["type"] == "extra_forbidden":
        known = [".".join([*names[:-1], option]) for option in owner.model_fields]
        known += also if len(names) == 1 else ()
        return OutOfRange(f"unknown option `{name}`; known are {', '.join(known)}", field=name, limit=known)
    rule = (field.description or "" if field else "an object").partition(": ")[0]
    if indices and first["type"].endswith(("_equal", "_than")):  # an element's own bound, not the list's form
        rule = first["msg"].removeprefix("Input should be ")
    came = "it is missing" if first["type"] == "missing" else f"got {shown(first['input'])}"
    return OutOfRange(f"`{name}{indices}` must be {rule}; {came}", field=name, limit=_limit(field) or rule)


def _nested(field: FieldInfo | None) -> type[BaseModel] | None:
    """The model inside an annotation, as `CameraFields` in `CameraFields | None`."""
    annotation = field.annotation if field else None
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _limit(field: FieldInfo | None) -> list[float] | None:
    """[lowest, highest] of a number, where it has both."""
    ends = {name: value for rule in (field.metadata if field else ()) for name, value in _ends(rule)}
    return [ends["low"], ends["high"]] if len(ends) == 2 else None


def _ends(rule: object) -> Iterable[tuple[str, float]]:
    for end, names in (("low", ("ge", "gt")), ("high", ("le", "lt"))):
        yield from ((end, value) for name in names if (value := getattr(rule, name, None)) is not None)


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


# ---- Options as the pipelines take them


def camera_options(fields: CameraFields | None) -> CameraOptions:
    """Raises OutOfRange unless exactly one of focal length and field of view is given."""
    if fields is None:
        return CameraOptions()
    if (fields.focal_px is None) == (fields.field_of_view is None):
        message = "`camera` must be an object with either focal_px or field_of_view, not both and not neither"
        raise OutOfRange(message, field="camera", limit=["focal_px", "field_of_view"])
    center = (fields.center[0], fields.center[1]) if fields.center else None
    distortion = tuple(fields.distortion) if fields.distortion else None
    return CameraOptions(fields.focal_px, fields.field_of_view, center, distortion)


def model_names(fields: ModelNames) -> dict[str, str]:
    """Those that were named, by role."""
    return {} if fields is NO_MODEL_NAMED else fields.model_dump(exclude_none=True)


def photo_options(fields: PhotoFields, max_people: int) -> PhotoOptions:
    """Raises TooLarge for more boxes than `max_people`, OutOfRange for one without a size."""
    boxes: Array | None = None
    if fields.boxes is not None:
        if len(fields.boxes) > max_people:
            message = f"`boxes` has {len(fields.boxes)} people; at most {max_people} are answered"
            raise TooLarge(message, field="boxes", limit=max_people)
        boxes = np.array(fields.boxes, np.float32).reshape(-1, 4)
        for index, (_, _, width, height) in enumerate(boxes):
            if not (width > 0 and height > 0):
                message = f"`boxes[{index}]` must be wider and higher than 0; got {shown(fields.boxes[index])}"
                raise OutOfRange(message, field="boxes", limit="width and height over 0")
    return PhotoOptions(
        boxes=boxes,
        max_people=min(fields.max_people, max_people),
        min_person_score=fields.min_person_score,
        flip_test=fields.flip_test,
        lift=fields.lift,
        states=fields.states,
        mirrored=fields.mirrored,
        stature=fields.stature,
        camera=camera_options(fields.camera),
        models=model_names(fields.models),
    )


def clip_options(fields: ClipFields, max_people: int) -> ClipOptions:
    """Raises OutOfRange for an end before the start."""
    if fields.end is not None and fields.end <= fields.start:
        message = f"`end` must be over `start`, which is {fields.start:g} s; got {fields.end:g}"
        raise OutOfRange(message, field="end", limit=fields.start)
    common = fields.model_dump(include={"max_people", "min_person_score", "flip_test", "lift", "states", "mirrored"})
    photo = PhotoFields(models=fields.models, camera=fields.camera, stature=fields.stature, **common)
    return ClipOptions(
        photo_options(photo, max_people),
        every=fields.every,
        start=fields.start,
        end=fields.end,
        smooth=fields.smooth,
        raw=fields.raw,
        inferred=fields.inferred,
    )


# ---- The OpenAPI document


def query_parameters(model: type[Options]) -> list[dict[str, Any]]:
    """The options of a door as query parameters; nested ones are JSON text."""
    schema = openapi_schema(model)
    parameters = []
    for name, one in schema["properties"].items():
        parameter: dict[str, Any] = {"name": name, "in": "query", "description": one.get("description", "")}
        nested = one.get("type") in ("object", "array")
        parameters.append(
            parameter | ({"content": {"application/json": {"schema": one}}} if nested else {"schema": one})
        )
    return parameters


def openapi_schema(model: type[Options]) -> dict[str, Any]:
    """The options as an object, in OpenAPI 3.0's words (pydantic speaks 3.1)."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    translated: dict[str, Any] = _to_openapi_30(schema, definitions)
    return translated


def _to_openapi_30(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_to_openapi_30(one, definitions) for one in node]
    if not isinstance(node, dict):
        return node
    node = dict(node)
    if "$ref" in node:
        node = {**definitions[node.pop("$ref").rpartition("/")[2]], **node}
    if "anyOf" in node:
        kinds = [kind for kind in node.pop("anyOf") if kind != {"type": "null"}]
        node = {**node, **_to_openapi_30(kinds[0], definitions), "nullable": True} | {
            name: node[name] for name in ("description",) if name in node
        }
        node.pop("default", None)
    for end, name in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if end in node and not isinstance(node[end], bool):
            node[name], node[end] = node[end], True
    node.pop("title", None)
    return {name: _to_openapi_30(value, definitions) for name, value in node.items()}
