"""What each model does with a request of the Open Inference Protocol: its tensors, its options, its answer.

Pixels and metres are those of `pipelines.tensors`. Knows no bytes: tensors come read and go as arrays.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field

from service.errors import OutOfRange, TooLarge, Unreadable
from service.media.pictures import Picture, read_picture
from service.people import Array
from service.pipelines.call import Call
from service.pipelines.lift import LiftPipeline
from service.pipelines.photo import PhotoPipeline
from service.pipelines.placing import TRAINED_STATURE
from service.pipelines.tensors import crop_size, detect_in_crops, find_boxes, lift_tensor

from ..images import photo_answer, picture_limits
from ..schemas import FARTHEST_PX, Options, PhotoFields, options_from_query, photo_options
from .wire import BYTES, InferRequest, Parameters, Tensor, TensorSpec

if TYPE_CHECKING:
    from service.assembly import Service

# What every request may say: for whom the answer is, and until when. `priority` is taken and has no effect.
COMMON_PARAMETERS = ("timeout", "priority", "binary_data_output")
_CONVERTED_AT_ONCE = 256 * 1024  # elements that the loop converts itself
_FEW_BOXES = "all that the finder takes for possible, by falling score"


class NoFields(Options):
    """A model without options."""


class LiftTensorFields(Options):
    """Options of a lifter."""

    stature: float = Field(
        TRAINED_STATURE, ge=0.3, le=3.0, description="metres from 0.3 to 3: standing height that the answer is for"
    )


@dataclass(frozen=True)
class Asked:
    """A request as a model sees it: `outputs` are the names to answer, in order; `options` the text of its own.

    photo, lift: those in use when it began; a model may be replaced meanwhile.
    model: name@version of the one that is to answer; None where the request decides.
    """

    service: Service
    photo: PhotoPipeline
    lift: LiftPipeline
    model: str | None
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    options: Sequence[tuple[str, str]]
    call: Call
    request_id: str


@dataclass(frozen=True)
class Answered:
    """items: how many pictures, crops or sequences were answered.

    model: name@version of the one that did, from kinds where a request may decide.
    """

    tensors: Mapping[str, Tensor]
    items: int
    model: str | None = None


@dataclass(frozen=True)
class InUse:
    """The pipelines at one moment: what begins with them ends with them."""

    photo: PhotoPipeline
    lift: LiftPipeline


async def answer(
    service: Service, used: InUse, role: str, model: str | None, request: InferRequest, call: Call, request_id: str
) -> Answered:
    """Runs a request. Its outputs are those asked for, in that order; without a list, the model's usual ones.

    Args:
        model: see `Asked`.

    Raises:
        Unreadable: a tensor is missing, unknown, or of another type or shape than the model takes.
        OutOfRange: an unknown parameter, or one out of its range. Else what the pipelines raise.
    """
    kind = KINDS[role]
    inputs, outputs = kind.tensors(service)
    _check_names(request.inputs, inputs, kind)
    names = tuple(spec.name for spec in outputs)
    for name in request.outputs or ():
        if name not in names:
            limit = list(names)
            raise Unreadable(
                f"`outputs`: the model gives {', '.join(names)}; got {name[:80]!r}", field="outputs", limit=limit
            )
    wanted = tuple(request.outputs or names[: kind.usual])
    options = _options(request.parameters, kind.fields)
    answered = await kind.run(
        Asked(service, used.photo, used.lift, model, request.inputs, wanted, options, call, request_id)
    )
    return replace(answered, tensors={name: answered.tensors[name] for name in wanted})


def _check_names(given: Mapping[str, Tensor], specs: Sequence[TensorSpec], kind: Kind) -> None:
    names = [spec.name for spec in specs]
    for name in given:
        if name not in names:
            message = f"`inputs`: the model takes {', '.join(names)}; got {name[:80]!r}"
            raise Unreadable(message, field="inputs", limit=names)
    for spec in specs:
        if spec.name not in given:
            came = ", ".join(given) or "none"
            raise Unreadable(f"`inputs` lack `{spec.name}`; got {came}", field=spec.name, limit=names)
        if spec.name in kind.free:
            continue
        tensor = given[spec.name]
        if tensor.datatype != spec.datatype or not _fits(tensor.shape, spec.shape):
            raise _misshaped(tensor, f"{spec.datatype} {list(spec.shape)}")


def _fits(shape: tuple[int, ...], spec: tuple[int, ...]) -> bool:
    return len(shape) == len(spec) and all(axis in (-1, length) for length, axis in zip(shape, spec, strict=True))


def _misshaped(tensor: Tensor, wanted: str) -> Unreadable:
    message = f"`{tensor.name}` must be {wanted}; got {tensor.datatype} {list(tensor.shape)}"
    return Unreadable(message, field=tensor.name, limit=wanted)


def _options(parameters: Parameters, fields: type[Options]) -> list[tuple[str, str]]:
    """The model's own parameters, as a query would have them."""
    own = {name: value for name, value in parameters.items() if name not in COMMON_PARAMETERS}
    for name in own:
        if name not in fields.model_fields:
            known = [*COMMON_PARAMETERS, *fields.model_fields]
            message = f"unknown parameter `{name[:80]}`; known are {', '.join(known)}"
            raise OutOfRange(message, field=name[:80], limit=known)
    return [(name, value if isinstance(value, str) else orjson.dumps(value).decode()) for name, value in own.items()]


# ---- pose


def _pose_tensors(service: Service) -> tuple[list[TensorSpec], list[TensorSpec]]:
    height, width = crop_size(service.photo)
    outputs = [TensorSpec("keypoints", "FP32", (-1, 17, 3)), TensorSpec("heatmaps", "FP32", (-1, 17, -1, -1))]
    return [TensorSpec("crops", "UINT8", (-1, height, width, 3))], outputs


async def _pose(asked: Asked) -> Answered:
    crops = asked.inputs["crops"]
    height, width = crop_size(asked.photo)
    as_bytes = crops.datatype == "UINT8" and _fits(crops.shape, (-1, height, width, 3))
    if not as_bytes and not (crops.datatype == "FP32" and _fits(crops.shape, (-1, 3, height, width))):
        raise _misshaped(crops, f"UINT8 [n, {height}, {width}, 3] or FP32 [n, 3, {height}, {width}]")
    pixels = crops.array
    if not as_bytes:
        if pixels.size > _CONVERTED_AT_ONCE:
            pixels = await asked.service.in_decode_pool(_pixels, pixels)
        else:
            pixels = _pixels(pixels)
    wants_heatmaps = "heatmaps" in asked.outputs
    points, heatmaps = await detect_in_crops(asked.photo, pixels, wants_heatmaps, asked.call)
    tensors = {"keypoints": Tensor.of("keypoints", points)}
    if heatmaps is not None:
        tensors["heatmaps"] = Tensor.of("heatmaps", heatmaps)
    return Answered(tensors, len(points))


def _pixels(crops: Array) -> NDArray[np.uint8]:
    """FP32 (n, 3, height, width), RGB from 0 to 255, as the network takes it."""
    rule = "RGB from 0 to 255"
    if not crops.size:
        return np.zeros((0, *crops.shape[2:], 3), np.uint8)
    lowest, highest = float(crops.min()), float(crops.max())
    if not (lowest >= 0 and highest <= 255):  # not so either, if one is NaN
        message = f"`crops` in FP32 must be {rule}; got values from {lowest:g} to {highest:g}"
        raise OutOfRange(message, field="crops", limit=[0, 255])
    if highest <= 1 and (crops % 1).any():
        raise OutOfRange(f"`crops` in FP32 must be {rule}; these look like 0 to 1", field="crops", limit=[0, 255])
    return np.ascontiguousarray(np.rint(crops).astype(np.uint8).transpose(0, 2, 3, 1))


# ---- lift


def _lift_tensors(service: Service) -> tuple[list[TensorSpec], list[TensorSpec]]:
    inputs = [TensorSpec("keypoints", "FP32", (-1, -1, 17, 3)), TensorSpec("image_size", "INT32", (-1, 2))]
    return inputs, [TensorSpec("joints3d", "FP32", (-1, -1, 17, 3))]


async def _lift(asked: Asked) -> Answered:
    points, sizes = asked.inputs["keypoints"], asked.inputs["image_size"]
    count, frames = points.shape[:2]
    if not frames:
        raise _misshaped(points, "FP32 [n, frames, 17, 3] with a frame or more")
    numeric = sizes.datatype.startswith(("INT", "UINT")) or sizes.datatype in ("FP32", "FP64")
    if not numeric or sizes.shape != (count, 2):
        raise _misshaped(sizes, f"whole numbers [{count}, 2]: width and height of each sequence's picture")
    most = asked.service.settings.max_frames
    if count * frames > most:
        message = f"`keypoints` has {count * frames} frames in all; at most {most} are lifted"
        raise TooLarge(message, field="keypoints", limit=most)
    whole = sizes.array.astype(np.int64) if _within(sizes.array, 1, FARTHEST_PX) else None
    if whole is None or (whole != sizes.array).any():
        raise OutOfRange("`image_size` must be whole pixels from 1", field="image_size", limit=[1, FARTHEST_PX])
    stature = options_from_query(LiftTensorFields, asked.options).stature
    known = _known(points.array)
    joints, lifter = await lift_tensor(asked.lift, known, whole, stature, asked.call, asked.model)
    return Answered({"joints3d": Tensor.of("joints3d", joints)}, count, lifter)


def _within(values: NDArray[Any], low: float, high: float) -> bool:
    """Whether all are, NaN not."""
    return bool(((values >= low) & (values <= high)).all())


def _known(points: Array) -> Array:
    """(n, frames, 17, 3) checked. A joint whose x and y are both NaN is unknown, whatever its score."""
    unknown: NDArray[np.bool_] = np.asarray(np.isnan(points[..., :2]).all(axis=-1))
    if not _within(points[..., :2][~unknown], -FARTHEST_PX, FARTHEST_PX):
        message = f"`keypoints` must lie within {FARTHEST_PX:g} pixels; an unknown joint has NaN for both x and y"
        raise OutOfRange(message, field="keypoints", limit=[-FARTHEST_PX, FARTHEST_PX])
    if not _within(points[..., 2][~unknown], 0, 1):
        raise OutOfRange("the scores of `keypoints` must be from 0 to 1", field="keypoints", limit=[0, 1])
    return np.where(unknown[..., None], np.array([np.nan, np.nan, 0], np.float32), points)


# ---- person and photo: one picture


def _person_tensors(service: Service) -> tuple[list[TensorSpec], list[TensorSpec]]:
    outputs = [TensorSpec("boxes", "FP32", (-1, 4)), TensorSpec("scores", "FP32", (-1,))]
    return [TensorSpec("image", BYTES, (1,))], outputs


async def _person(asked: Asked) -> Answered:
    picture = await _picture(asked)
    found = await find_boxes(asked.photo, picture.pixels, asked.call)
    tensors = {"boxes": Tensor.of("boxes", found.boxes), "scores": Tensor.of("scores", found.scores)}
    return Answered(tensors, 1)


def _photo_tensors(service: Service) -> tuple[list[TensorSpec], list[TensorSpec]]:
    return [TensorSpec("image", BYTES, (1,))], [TensorSpec("answer", BYTES, (1,))]


async def _photo(asked: Asked) -> Answered:
    fields = options_from_query(PhotoFields, asked.options)
    options = photo_options(fields, asked.service.settings.max_people)
    picture = await _picture(asked)
    people = await asked.photo.find_people(picture, options, asked.call)
    return Answered({"answer": Tensor.of_bytes("answer", photo_answer(people, asked.request_id))}, 1)


async def _picture(asked: Asked) -> Picture:
    (body,) = asked.inputs["image"].elements
    settings = asked.service.settings
    most = settings.max_image_mb * 2**20
    if len(body) > most:
        raise TooLarge(f"`image` may have at most {most} bytes; got {len(body)}", field="image", limit=most)
    started = time.perf_counter()
    picture: Picture = await asked.service.in_decode_pool(read_picture, body, picture_limits(settings.max_image_mpx))
    asked.call.spent_ms["decode"] += 1000 * (time.perf_counter() - started)
    return picture


@dataclass(frozen=True)
class Kind:
    """What the models of one role have in common.

    usual: how many of the outputs are answered where none are listed. batches: 1 if the first axis is one's own rows.
    free: inputs whose type and shape `run` checks itself. fields: its options. note: what the tensors' list cannot say.
    """

    tensors: Callable[[Any], tuple[list[TensorSpec], list[TensorSpec]]]
    run: Callable[[Asked], Awaitable[Answered]]
    usual: int
    batches: int
    note: str
    free: tuple[str, ...] = ()
    fields: type[Options] = NoFields


KINDS: dict[str, Kind] = {
    "person": Kind(_person_tensors, _person, 2, 0, f"boxes x, y, width, height in pixels: {_FEW_BOXES}"),
    "pose": Kind(
        _pose_tensors,
        _pose,
        1,
        1,
        "crops RGB; also FP32 [n, 3, height, width] from 0 to 255; heatmaps only if listed in `outputs`",
        ("crops",),
    ),
    "lift": Kind(
        _lift_tensors,
        _lift,
        1,
        1,
        "keypoints of h36m17 at 30 frames a second, NaN for x and y of an unknown joint; joints3d in metres",
        ("image_size",),
        LiftTensorFields,
    ),
    "photo": Kind(
        _photo_tensors, _photo, 1, 0, "answers as POST /v1/images; its options are parameters", (), PhotoFields
    ),
}
