"""The OpenAPI document: the routes as FastAPI tells them, and what it does not: WebSocket doors and those of /v2."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.routing import Route

DESCRIPTION = (
    "A photo, a clip or a stream of keypoints goes in; people come out, with 2D keypoints in pixels of the upright "
    "picture and 3D joints in metres (x right, y down, z away from the camera). Errors are problem documents."
)
PROTOCOL = "https://github.com/kserve/open-inference-protocol"
# Path, name of the schemas, what it does, in which forms messages come.
SOCKETS = (
    ("/v1/live/keypoints", "live-keypoints", "Keypoints in, 3D poses out", ("json", "msgpack")),
    ("/v1/live/frames", "live-frames", "JPEG pictures in, tracked people out", ("msgpack",)),
)


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the routes so far; 3.0, which the bundled Swagger UI reads."""
    document = get_openapi(
        title=app.title, version=app.version, openapi_version="3.0.3", description=DESCRIPTION, routes=app.routes
    )
    for path, operations in document["paths"].items():  # FastAPI sees none, since the doors take the request itself
        for operation in operations.values() if "{" in path else ():
            operation.setdefault("parameters", _path_parameters(path))
    document["paths"] |= _websocket_paths() | _protocol_paths(app)
    schemes = {"key": {"type": "http", "scheme": "bearer", "description": "only where the operator has set keys"}}
    document.setdefault("components", {})["securitySchemes"] = schemes
    document["security"] = [{}, {"key": []}]
    return document


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)\}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _websocket_paths() -> dict[str, Any]:
    """A GET that is upgraded, for which OpenAPI has no words, and where the messages' schemas are."""
    paths = {}
    for path, name, summary, forms in SOCKETS:
        sent, answered = f"/v1/schemas/{name}-sent", f"/v1/schemas/{name}-answered"
        protocols = [f"poselift.v1.{form}" for form in forms]
        paths[path] = {
            "get": {
                "tags": ["live"],
                "summary": summary,
                "operationId": name.replace("-", "_"),
                "description": f"A WebSocket that speaks {' or '.join(forms)} (subprotocols {', '.join(protocols)}): "
                f"`start`, then `frame` after `frame`, then `end`. Schemas: GET {sent} and GET {answered}.",
                "responses": {"101": {"description": "the protocol is switched to WebSocket"}},
                "x-websocket": {"sent": sent, "answered": answered, "subprotocols": protocols},
            }
        }
    return paths


def _protocol_paths(app: FastAPI) -> dict[str, Any]:
    """The doors of the Open Inference Protocol, whose bodies its own texts describe."""
    paths: dict[str, Any] = {}
    for route in app.routes:
        if not isinstance(route, Route) or not route.path.startswith("/v2"):
            continue
        words = (route.endpoint.__doc__ or "").strip().partition("\n")[0]
        for method in sorted((route.methods or set()) - {"HEAD"}):
            operation = {
                "tags": ["open inference"],
                "summary": words,
                "operationId": f"{method.lower()}{route.path}".translate(str.maketrans("/{}", "___")),
                "parameters": _path_parameters(route.path),
                "responses": {"200": {"description": "as the protocol has it"}},
                "externalDocs": {"url": PROTOCOL},
            }
            paths.setdefault(route.path, {})[method.lower()] = operation
    return paths
