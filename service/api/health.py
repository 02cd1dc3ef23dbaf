"""What the service says of itself: alive, ready, its models, limits and metrics. All answer at once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.geometry.skeletons import SKELETONS

from .images import LEAST_SIDE_PX, LONGEST_SIDE_PX
from .lift import MAX_BODY_BYTES
from .live import MAX_MESSAGE_BYTES
from .live_frames import MAX_FRAME_MESSAGE_BYTES
from .open_inference.routes import max_body_bytes
from .open_inference.wire import MAX_JSON_BYTES
from .uploads import MAX_OPTIONS_BYTES, MEGABYTE

if TYPE_CHECKING:
    from service.assembly import Service

# The settings that a caller can run into.
_LIMITS = (
    "max_image_mb",
    "max_image_mpx",
    "max_clip_mb",
    "max_clip_s",
    "max_clip_frames",
    "max_spool_mb",
    "max_frames",
    "max_people",
    "queue_rows",
    "queue_mb",
    "caller_share",
    "deadline_ms",
    "max_deadline_ms",
    "live_streams",
    "live_idle_s",
    "live_max_s",
)
_SKELETONS = orjson.dumps({"skeletons": [dataclasses.asdict(skeleton) for skeleton in SKELETONS.values()]})


def _json(values: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(values, default=str), status, {"Cache-Control": "no-store"}, "application/json")


async def livez(request: Request) -> Response:
    """200 while the process and its loop are alive, also while loading and draining."""
    service: Service = request.app.state.service
    return _json({"alive": True, "state": service.state})


async def readyz(request: Request) -> Response:
    """200 once every model is warm; 503 with the reason while starting, draining, or without the device."""
    service: Service = request.app.state.service
    ready = service.state == "ready"
    values = {"ready": ready, "state": service.state, "reason": service.reason, "engines": service.engines_in_use()}
    return _json(values, 200 if ready else 503)


async def metrics(request: Request) -> Response:
    """Prometheus text, or OpenMetrics for who asks for it."""
    service: Service = request.app.state.service
    body, content_type = service.metrics.render(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})


async def models(request: Request) -> Response:
    """Every model of the store: role, scores, licence, and how the loaded ones run."""
    service: Service = request.app.state.service
    return _json({"models": await service.in_decode_pool(service.models)})


async def skeletons(request: Request) -> Response:
    """Joints, edges, left/right pairs and parents of every skeleton that comes in or goes out."""
    return Response(_SKELETONS, media_type="application/json")


async def info(request: Request) -> Response:
    """Version, the engines in use, and every limit."""
    service: Service = request.app.state.service
    limits: dict[str, Any] = {name: getattr(service.settings, name) for name in _LIMITS}
    limits |= {
        "min_image_side_px": LEAST_SIDE_PX,
        "max_image_side_px": LONGEST_SIDE_PX,
        "max_sequence_mb": MAX_BODY_BYTES // MEGABYTE,
        "max_options_mb": MAX_OPTIONS_BYTES // MEGABYTE,
        "max_message_mb": MAX_MESSAGE_BYTES // MEGABYTE,
        "max_frame_message_mb": MAX_FRAME_MESSAGE_BYTES // MEGABYTE,
        "max_tensors_mb": max_body_bytes(service.settings) // MEGABYTE,
        "max_tensors_json_mb": MAX_JSON_BYTES // MEGABYTE,
    }
    engines = service.engines_in_use()
    device = next((engine["device"] for engine in engines.values()), None)
    values = {"name": "poselift", "version": service.version, "device": device, "engines": engines, "limits": limits}
    return _json(values)
