"""POST /v1/images: everyone in one photo, as JSON bytes or as a drawing. Knows no networks.

Answers are rounded to what they are worth: pixels to 0.01, scores to 0.0001, metres to 0.1 mm. A joint that is not
known is null; NaN never leaves here.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.geometry.cameras import Camera
from service.media.drawing import encode, side_by_side
from service.media.pictures import PictureLimits, read_picture
from service.people import Array, Joints3D, Person
from service.pipelines.call import Call, Class
from service.pipelines.photo import PhotoAnswer, PhotoOptions

from .access import begin_call
from .problems import openapi_responses
from .schemas import PhotoFields, openapi_schema, options_from_query, photo_options, query_parameters
from .uploads import MEGABYTE, read_upload

if TYPE_CHECKING:
    from service.assembly import Service

SKELETONS_OUT = {"keypoints": "coco17", "joints3d": "h36m17"}
LEAST_SIDE_PX, LONGEST_SIDE_PX = 16, 30_000
_DRAWINGS = {"image/png": "png", "image/jpeg": "jpeg"}


async def estimate_photo(request: Request) -> Response:
    """Everyone in one photo, as 2D keypoints and 3D joints. The body is the picture, or a form with `image`."""
    service: Service = request.app.state.service
    settings = service.settings
    call = begin_call(request, Class.PHOTO)
    query = request.query_params.multi_items()
    fields = options_from_query(PhotoFields, query)  # what is wrong already is told before megabytes are read
    body, part = await read_upload(request, "image", int(settings.max_image_mb * MEGABYTE), wait_until=call.deadline)
    if part:
        fields = options_from_query(PhotoFields, query, part)
    options = photo_options(fields, settings.max_people)
    kind = wanted_kind(request.headers.get("accept", ""))
    work = _answer(service, body, options, call, kind, request.scope.get("request_id", ""))
    content = await request.app.state.doors.see_through(request, call.deadline, work)
    return Response(content, media_type=kind)


def wanted_kind(accept: str) -> str:
    """Of the kinds in an Accept header that are answered here the most wanted, of equals the first; JSON if none is."""
    best, most = "application/json", 0.0
    for one in accept.split(","):
        named, *parameters = (part.strip().lower() for part in one.split(";"))
        kind = "image/jpeg" if named == "image/*" else named
        if (kind in _DRAWINGS or kind == "application/json") and (quality := _quality(parameters)) > most:
            best, most = kind, quality
    return best


def _quality(parameters: list[str]) -> float:
    """0 to 1, RFC 9110 12.4.2; what cannot be read is not wanted."""
    told = next((part[2:] for part in parameters if part.startswith("q=")), "1")
    return float(told) if re.fullmatch(r"[01](\.\d{0,3})?", told) else 0.0


async def _answer(
    service: Service, body: bytes, options: PhotoOptions, call: Call, kind: str, request_id: str
) -> bytes:
    service.photo.knock(options, call)
    started = time.perf_counter()
    picture = await service.in_decode_pool(read_picture, body, picture_limits(service.settings.max_image_mpx))
    call.spent_ms["decode"] += 1000 * (time.perf_counter() - started)
    answer = await service.photo.find_people(picture, options, call)
    if kind in _DRAWINGS:
        drawn: bytes = await service.in_decode_pool(_draw, picture.pixels, answer.people, _DRAWINGS[kind])
        return drawn
    return photo_answer(answer, request_id)


def picture_limits(max_image_mpx: float) -> PictureLimits:
    """What is read at all, from the setting in millions of pixels."""
    return PictureLimits(int(max_image_mpx * 1e6), LEAST_SIDE_PX, LONGEST_SIDE_PX)


def _draw(pixels: NDArray[np.uint8], people: tuple[Person, ...], kind: str) -> bytes:
    return encode(side_by_side(pixels, people), kind)


# ---- People as JSON


def photo_answer(answer: PhotoAnswer, request_id: str) -> bytes:
    """The JSON document of a photo's people."""
    people = [person_fields(person) for person in answer.people]
    if answer.states is not None:
        people = [fields | {"states": states} for fields, states in zip(people, answer.states, strict=True)]
    document = {
        "request_id": request_id,
        "image": {"width": answer.width, "height": answer.height},
        "camera": camera_fields(answer.camera),
        "people": people,
        "skeletons": SKELETONS_OUT,
        "models": answer.models,
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def camera_fields(camera: Camera) -> dict[str, Any]:
    """A camera as the answers have it; the lens only where it was given."""
    fields = {
        "focal_px": round(camera.focal_px, 2),
        "center": [round(coordinate, 2) for coordinate in camera.center],
        "source": camera.source,
    }
    return fields if camera.distortion is None else fields | {"distortion": list(camera.distortion)}


def person_fields(person: Person) -> dict[str, Any]:
    """One person, without states; 3D only where it was made."""
    box = person.box
    fields: dict[str, Any] = {
        "id": person.id,
        "box": [round(edge, 2) for edge in (box.x, box.y, box.width, box.height)],
        "score": round(box.score, 4),
        "keypoints": keypoint_values(person.keypoints.points),
    }
    return fields | (lifted_fields(person.lifted) if person.lifted else {})


def lifted_fields(lifted: Joints3D) -> dict[str, Any]:
    """One pose in 3D."""
    position = None if lifted.position is None else metre_values(lifted.position[None])[0]
    scale = {"stature": round(lifted.scale.stature, 4), "source": lifted.scale.source}
    return {"joints3d": metre_values(lifted.joints), "position": position, "scale": scale}


def keypoint_values(points: Array) -> Any:
    """(..., joints, 3) x, y and score, for JSON."""
    exact = points.astype(np.float64)  # else a list of what was 32 bits has digits that mean nothing
    return _or_null(np.concatenate([exact[..., :2].round(2), exact[..., 2:].round(4)], axis=-1))


def metre_values(points: Array) -> Any:
    """(..., 3) metres, for JSON."""
    return _or_null(points.round(4))  # of 32 bits: an array of these is written without digits that mean nothing


def _or_null(points: NDArray[np.floating]) -> Any:
    """The array itself if all its points are known, else lists in which a point that is not is None."""
    finite = np.isfinite(points)
    if finite.all():
        return np.ascontiguousarray(points + points.dtype.type(0))  # -0.0 reads oddly
    return _listed(points.astype(np.float64).round(4).tolist(), finite.all(axis=-1).tolist())


def _listed(points: list[Any], known: Any) -> list[Any] | None:
    if not isinstance(known, list):
        return points if known else None
    if not isinstance(known[0], list):  # no call for each point
        return [point if each else None for point, each in zip(points, known, strict=True)]
    return [_listed(point, each) for point, each in zip(points, known, strict=True)]


# ---- The OpenAPI document

OPENAPI: dict[str, Any] = {
    "parameters": query_parameters(PhotoFields),
    "requestBody": {
        "required": True,
        "content": {
            **{
                f"image/{kind}": {"schema": {"type": "string", "format": "binary"}}
                for kind in ("jpeg", "png", "webp", "bmp", "gif", "tiff", "heic", "avif")
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "options": openapi_schema(PhotoFields),
                    },
                }
            },
        },
    },
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Everyone in the photo; `image/png` and `image/jpeg` are the photo with its skeletons beside 3D",
        "content": {
            "application/json": {
                "example": {
                    "request_id": "5f0c3a9d1e7b42c8",
                    "image": {"width": 640, "height": 427},
                    "camera": {"focal_px": 614.7, "center": [320, 213.5], "source": "assumed"},
                    "people": [
                        {
                            "id": 0,
                            "box": [211.3, 40.2, 120.0, 350.9],
                            "score": 0.97,
                            "keypoints": [[270.1, 71.4, 0.95]],
                            "joints3d": [[0, 0, 0]],
                            "position": [-0.31, 0.12, 3.4],
                            "scale": {"stature": 1.7, "source": "assumed"},
                        }
                    ],
                    "skeletons": SKELETONS_OUT,
                    "models": {"person": "rtmdet-nano@1", "pose": "lite-hrnet@2", "lift": "lift-1@2"},
                }
            },
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
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
