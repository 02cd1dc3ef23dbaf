"""The doors of the Open Inference Protocol under /v2: health, metadata, infer, statistics, the repository.

What a body must look like is `wire`'s business, what a model does with it `repository`'s. Errors are problem documents
with the protocol's member `error` beside; nothing but an infer answer is ever compressed.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from service.errors import OutOfRange, Unknown, Unreadable
from service.pipelines.call import Call, Class

from ..access import begin_call, require_admin
from ..schemas import json_object
from ..uploads import MEGABYTE, read_body
from . import models as kinds
from . import repository
from .models import KINDS
from .repository import Model, Served
from .statistics import Statistics
from .wire import (
    LENGTH_HEADER,
    InferRequest,
    Parameters,
    Tensor,
    TensorSpec,
    compressed,
    decompressed,
    read_request,
    wanted_coding,
    write_response,
)

if TYPE_CHECKING:
    from service.assembly import Service
    from service.settings import Settings

# Those that are really here: `timeout` is honoured and `priority` is not, so schedule_policy is none of them.
EXTENSIONS = ["binary_tensor_data", "parameters", "statistics", "model_repository", "model_configuration"]
ALIASES = ("pose", "lift", "photo")
MAX_TENSORS_BYTES = 64 * MEGABYTE
_HANDLED_AT_ONCE = 64 * 1024  # bytes that the loop reads, writes or packs itself
_LEAST_PACKED = 1024  # bytes; what is smaller fits one packet anyway
_MAX_SMALL_BYTES = 64 * 1024

Door = Callable[[Request], Coroutine[Any, Any, Response]]


def add_to(app: FastAPI) -> None:
    """Adds the doors, and where they count. They are the protocol's, so the OpenAPI document leaves them out."""
    app.state.open_inference = Statistics()
    doors: list[tuple[str, str, Door]] = [
        ("GET", "", server_metadata),
        ("GET", "/health/live", live),
        ("GET", "/health/ready", ready),
        ("GET", "/models", models),
        ("GET", "/models/stats", all_statistics),
        ("POST", "/repository/index", repository_index),
        ("POST", "/repository/models/{model}/load", load_model),
        ("POST", "/repository/models/{model}/unload", unload_model),
    ]
    for version in ("", "/versions/{version}"):
        doors += [
            ("GET", f"/models/{{model}}{version}", model_metadata),
            ("GET", f"/models/{{model}}{version}/ready", model_ready),
            ("GET", f"/models/{{model}}{version}/config", model_config),
            ("GET", f"/models/{{model}}{version}/stats", model_statistics),
            ("POST", f"/models/{{model}}{version}/infer", infer),
        ]
    for method, path, door in doors:
        app.add_api_route(f"/v2{path}", door, methods=[method], include_in_schema=False)


def max_body_bytes(settings: Settings) -> int:
    """The most of a body, also unpacked: room for tensors, and for any picture that the service reads."""
    return max(MAX_TENSORS_BYTES, (settings.max_image_mb + 1) * MEGABYTE)


def _json(values: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(values), status, {"Cache-Control": "no-store"}, "application/json")


def _found(request: Request) -> Served:
    return repository.find(request.app.state.service, request.path_params["model"], request.path_params.get("version"))


# ---- Health and metadata


async def server_metadata(request: Request) -> Response:
    """Name, version, and the extensions that are really here."""
    version = request.app.state.service.version
    return _json({"name": "poselift", "version": version, "extensions": EXTENSIONS})


async def live(request: Request) -> Response:
    """200 while the process and its loop are alive."""
    return _json({"live": True})


async def ready(request: Request) -> Response:
    """200 once every model is warm, else 503."""
    return _readiness(request, {})


async def model_ready(request: Request) -> Response:
    """As `ready`, for one model."""
    return _readiness(request, {"name": _found(request).name})


def _readiness(request: Request, values: dict[str, Any]) -> Response:
    service: Service = request.app.state.service
    if service.state == "ready":
        return _json(values | {"ready": True})
    return _json(values | {"ready": False, "error": service.reason or service.state}, 503)


async def models(request: Request) -> Response:
    """The names that answer."""
    return _json({"models": sorted(repository.served(request.app.state.service))})


async def model_metadata(request: Request) -> Response:
    """A model's tensors."""
    return _json(repository.metadata(request.app.state.service, _found(request)))


async def model_config(request: Request) -> Response:
    """A model's configuration, in Triton's words."""
    return _json(repository.config(request.app.state.service, _found(request)))


async def repository_index(request: Request) -> Response:
    """What is in the store, and whether it is in use; `{"ready": true}` leaves out what is not."""
    service: Service = request.app.state.service
    only_ready = (await _small_body(request)).get("ready") is True
    return _json(await service.in_decode_pool(functools.partial(repository.index, service, only_ready=only_ready)))


async def load_model(request: Request) -> Response:
    """A version of the store takes over its role, once it is warm; the body may name it. One that breaks does not."""
    require_admin(request)
    service: Service = request.app.state.service
    parameters = (await _small_body(request)).get("parameters") or {}
    if not isinstance(parameters, dict):
        message = f"`parameters` must be an object; got {type(parameters).__name__}"
        raise Unreadable(message, field="parameters")
    label = repository.asked_version(_own_name(request), parameters)
    # Whoever asked may leave: half a change would help nobody.
    await asyncio.shield(asyncio.ensure_future(service.load_model(label)))
    return _json({})


async def unload_model(request: Request) -> Response:
    """The role goes back to the model that had it at the start."""
    require_admin(request)
    await _small_body(request)
    service: Service = request.app.state.service
    await asyncio.shield(asyncio.ensure_future(service.unload_model(_own_name(request))))
    return _json({})


def _own_name(request: Request) -> str:
    """The name in the path; an alias stands for whatever serves it, so it is none that could be loaded."""
    name: str = request.path_params["model"]
    if name in ALIASES:
        message = f"`{name}` stands for the model in use: load or unload one of the store by its own name"
        raise Unknown(message, field="model")
    return name


async def _small_body(request: Request) -> dict[str, Any]:
    """A JSON object that need not be there."""
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return {}
    settings = request.app.state.service.settings
    wait_until = asyncio.get_running_loop().time() + settings.deadline_ms / 1000
    body = await read_body(request, _MAX_SMALL_BYTES, "body", wait_until=wait_until)
    return json_object(body, "body")


# ---- Statistics


async def all_statistics(request: Request) -> Response:
    """Of every model in use and of `photo`, once each."""
    served = repository.served(request.app.state.service).values()
    return _statistics(request, [found for found in served if found.name == found.models[0].name])


async def model_statistics(request: Request) -> Response:
    """Of one model, under the name that was asked for."""
    return _statistics(request, [_found(request)])


def _statistics(request: Request, asked: list[Served]) -> Response:
    metrics, kept = request.app.state.service.metrics, request.app.state.open_inference
    return _json({"model_stats": [kept.of(found, metrics) for found in asked]})


# ---- Infer


async def infer(request: Request) -> Response:
    """Tensors in, tensors out."""
    started = time.perf_counter()
    call = begin_call(request, Class.PHOTO)
    model = _found(request)
    kept: Statistics = request.app.state.open_inference
    try:
        return await _infer(request, model, call, started, kept)
    except BaseException:
        kept.failed(model.models[0].name, time.perf_counter() - started)
        raise


async def _infer(request: Request, model: Served, call: Call, started: float, kept: Statistics) -> Response:
    service: Service = request.app.state.service
    began = asyncio.get_running_loop().time()
    limit = max_body_bytes(service.settings)
    body = await read_body(request, limit, "body", wait_until=call.deadline)
    # Again: it may have been replaced while the body came. What is named now is what will answer.
    model, used = _found(request), kinds.InUse(service.photo, service.lift)
    came = time.perf_counter()
    inputs, _ = KINDS[model.role].tensors(service)
    coding = request.headers.get("content-encoding", "")
    read = functools.partial(_read, body, coding, limit, request.headers.get(LENGTH_HEADER), inputs)
    # Packed, a few bytes may be many.
    if len(body) <= _HANDLED_AT_ONCE and not coding:
        asked = read()
    else:
        asked = await service.in_decode_pool(read)
    call = _until(asked.parameters, call, began, service.settings, "request-timeout-ms" in request.headers)
    read_s = time.perf_counter() - came
    work = kinds.answer(service, used, model.role, model.label, asked, call, request.scope.get("request_id", ""))
    answered = await request.app.state.doors.see_through(request, call.deadline, work)
    worked = time.perf_counter()
    tensors = list(answered.tensors.values())
    packing = wanted_coding(request.headers.get("accept-encoding", ""))
    by = model.answered_by(answered.model)
    write = functools.partial(_write, by, asked, tensors, packing)
    size = sum(tensor.array.nbytes + sum(map(len, tensor.elements)) for tensor in tensors)
    content, headers = write() if size <= _HANDLED_AT_ONCE else await service.in_decode_pool(write)
    now = time.perf_counter()
    kept.succeeded(by.name, answered.items, now - started, call.spent_ms, read_s, now - worked)
    return Response(content, headers=headers)


def _read(body: bytes, coding: str, limit: int, header: str | None, inputs: list[TensorSpec]) -> InferRequest:
    return read_request(decompressed(body, coding, limit), header, inputs)


def _write(
    model: Model, asked: InferRequest, tensors: list[Tensor], packing: str | None
) -> tuple[bytes, dict[str, str]]:
    content, json_bytes = write_response(model.name, model.version, asked, tensors)
    headers = {"Content-Type": "application/json" if json_bytes is None else "application/octet-stream"}
    if json_bytes is not None:
        headers[LENGTH_HEADER] = str(json_bytes)
    if packing and len(content) >= _LEAST_PACKED:
        content = compressed(content, packing)
        headers["Content-Encoding"] = packing
    return content, headers


def _until(parameters: Parameters, call: Call, began: float, settings: Settings, has_header: bool) -> Call:
    """The call with the deadline of the parameter `timeout`, in microseconds; 0 is none.

    It stands in place of the default; with Request-Timeout-Ms, the sooner of the two.
    """
    timeout = parameters.get("timeout", 0)
    most = settings.max_deadline_ms * 1000
    if type(timeout) is not int or not 0 <= timeout <= most:
        message = f"`timeout` must be a whole number of microseconds from 0 to {most}; got {str(timeout)[:40]!r}"
        raise OutOfRange(message, field="timeout", limit=[0, most])
    if not timeout:
        return call
    deadline = began + timeout / 1e6
    return replace(call, deadline=min(call.deadline, deadline) if has_header else deadline)
