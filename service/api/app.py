"""The HTTP application: its routes, its documents, and the one frame around every request. Knows no pipeline.

Only pure ASGI middleware: Starlette's BaseHTTPMiddleware would hide a caller's leaving.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Match, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from swagger_ui_bundle import swagger_ui_path

from service import errors, logs
from service.metrics import exemplar, exemplar_of
from service.tracing import OFF

from . import clips, health, images, lift, live, live_frames, messages, problems
from .access import EXEMPT, Doors, guard
from .keys import Keyring
from .open_inference import routes as open_inference
from .open_inference.wire import LENGTH_HEADER
from .openapi import openapi_document
from .problems import CALLER_LEFT_STATUS, CallerLeft, problem_answer
from .uploads import MEGABYTE, Room, give_back

if TYPE_CHECKING:
    from service.assembly import Service

Page = Callable[[Request], Coroutine[Any, Any, Response]]


HEADERS_ALLOWED = ["Authorization", "Content-Type", "X-Request-Id", "Request-Timeout-Ms", LENGTH_HEADER]
HEADERS_EXPOSED = ["X-Request-Id", "Server-Timing", "Retry-After", LENGTH_HEADER]
# A page of ours loads what lies beside it and nothing else; pictures and clips that a reader chose are blobs.
PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    b"font-src 'self'; connect-src 'self'; worker-src 'self'; form-action 'self'; base-uri 'none'; "
    b"frame-ancestors 'none'"
)
NO_PAGE_POLICY = b"default-src 'none'; frame-ancestors 'none'; sandbox"
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), geolocation=(), microphone=()"),
)
POLICY = b"content-security-policy"
# Its files are served from here: no request leaves for elsewhere, and the page works without a network.
DOCS_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>poselift: the API</title>
<link rel="icon" href="docs/assets/favicon-32x32.png"><link rel="stylesheet" href="docs/assets/swagger-ui.css"></head>
<body><div id="ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body></html>
"""
# A file of its own, since no page may hold a script.
DOCS_SCRIPT = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#ui", validatorUrl: null, deepLinking: true});\n'
WEB = Path(__file__).parent.parent / "web" / "built"


def create_app(service: Service) -> App:
    """The application around a service, which may still be starting."""
    app = App(title="poselift", version=service.version, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service, app.state.doors, app.state.keys = service, Doors(), Keyring(service.settings)
    app.state.uploads = Room(service.settings.max_uploads_mb * MEGABYTE, "max_uploads_mb")
    app.state.clips_on_disk = Room(service.settings.max_clips_mb * MEGABYTE, "max_clips_mb")
    app.add_exception_handler(HTTPException, problems.http_exception)
    app.front = Frame(app.within, service, app.state.doors, app.state.keys, app.short_ways)
    if service.settings.origins:
        app.front = CORSMiddleware(
            app.front,
            allow_origins=service.settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=HEADERS_ALLOWED,
            expose_headers=HEADERS_EXPOSED,
        )
    for path, door, module in (
        ("/v1/images", images.estimate_photo, images),
        ("/v1/lift", lift.lift_sequences, lift),
        ("/v1/clips", clips.estimate_clip, clips),
    ):
        app.add_api_route(
            path, door, methods=["POST"], responses=module.RESPONSES, openapi_extra=module.OPENAPI, tags=["poses"]
        )
    app.router.routes.append(WebSocketRoute("/v1/live/keypoints", live.live_keypoints))
    app.router.routes.append(WebSocketRoute("/v1/live/frames", live_frames.live_frames))
    said: tuple[tuple[str, Page], ...] = (
        ("/v1/models", health.models),
        ("/v1/skeletons", health.skeletons),
        ("/v1/info", health.info),
        ("/v1/schemas", messages.schemas),
        ("/v1/schemas/{name}", messages.schema),
        ("/livez", health.livez),
        ("/readyz", health.readyz),
        ("/metrics", health.metrics),
    )
    for path, page in said:
        app.add_api_route(path, page, tags=["service"])
    open_inference.add_to(app)
    document = openapi_document(app)
    for path, page in (
        ("/problems/{slug}", problems.problem_page),
        ("/openapi.json", _constant(orjson.dumps(document), "application/json")),
        ("/docs", _constant(DOCS_PAGE.encode(), HTMLResponse.media_type)),
        ("/docs/start.js", _constant(DOCS_SCRIPT.encode(), "text/javascript")),
        ("/", _constant((WEB / "index.html").read_bytes(), HTMLResponse.media_type)),
    ):
        app.add_api_route(path, page, include_in_schema=False)
    app.router.routes[:] = [Door.of(route) if isinstance(route, APIRoute) else route for route in app.router.routes]
    app.short_ways |= {route.path: route for route in app.router.routes if isinstance(route, Door) and route.hot}
    app.mount("/docs/assets", StaticFiles(directory=str(swagger_ui_path)))
    app.mount("/page", StaticFiles(directory=WEB))
    return app


class App(FastAPI):
    """FastAPI behind our own front.

    A hot door goes from the front straight to its endpoint: what FastAPI and Starlette do around a call (errors, exit
    stacks, telemetry, the search for a route) costs as much as reading a body, and the front does what of it is needed.
    """

    front: ASGIApp
    short_ways: dict[str, Door]

    def __init__(self, **named: Any) -> None:
        self.short_ways = {}
        super().__init__(**named)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.front(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        """Starlette's, without its outermost layer, which would answer an error before the front can."""
        stack = super().build_middleware_stack()
        assert isinstance(stack, ServerErrorMiddleware)
        return stack.app

    async def within(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application without its front."""
        await super().__call__(scope, receive, send)


class Door(Route):
    """A route without what FastAPI does around each call (it looks for dependencies, of which there are none): a tenth
    of what a small request costs. FastAPI has told the document by then."""

    @classmethod
    def of(cls, route: APIRoute) -> Door:
        return cls(route.path, route.endpoint, methods=list(route.methods or ()), include_in_schema=False)

    @property
    def hot(self) -> bool:
        """Whether it is a door for poses, which `Frame` goes to without looking through all routes."""
        return self.methods == {"POST"} and not self.param_convertors

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        response: Response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, {**found, "route": self}  # whose path is the metrics' label


def _constant(body: bytes, media_type: str | None) -> Page:
    async def page(request: Request) -> Response:
        return Response(body, media_type=media_type)

    return page


class Frame:
    """Around every request: its id, who may come in, the answer to its error, its headers, metrics, and log line."""

    def __init__(
        self, app: ASGIApp, service: Service, doors: Doors, keys: Keyring, short_ways: Mapping[str, Door]
    ) -> None:
        """short_ways: by path, the doors that need not be looked for."""
        self._app, self._service, self._doors, self._keys = app, service, doors, keys
        self._short_ways = short_ways

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = logs.accepted_request_id(headers.get("x-request-id"))
        scope["request_id"] = request_id
        token = logs.request_id.set(request_id)
        counted = scope["path"] not in EXEMPT
        self._doors.inside += counted
        answer = self._http if scope["type"] == "http" else self._websocket
        # Probes and scrapes come every few seconds, for ever: nobody follows one.
        tracing = OFF if scope["path"] in logs.QUIET_ROUTES else self._service.tracing
        try:
            with tracing.request(scope.get("method", "GET"), scope["path"], headers, request_id):
                beside = exemplar.set(exemplar_of(request_id, tracing.trace_id))
                try:
                    await answer(scope, receive, send, request_id)
                finally:
                    exemplar.reset(beside)
        finally:
            self._doors.inside -= counted
            logs.request_id.reset(token)

    async def _http(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started = time.perf_counter()
        status: int | None = None

        async def send_framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(message, scope, request_id, time.perf_counter() - started)
            await send(message)

        try:
            guard(scope, self._service.settings, self._keys)
            door = self._short_ways.get(scope["path"]) if scope["method"] == "POST" else None
            await (door.answer if door else self._app)(scope, receive, send_framed)
        except CallerLeft:
            status = CALLER_LEFT_STATUS
        except Exception as error:
            if status is not None:  # half an answer is out: only a broken connection tells that it ends there
                raise
            await problem_answer(error, request_id, scope["path"])(scope, receive, send_framed)
        finally:
            give_back(scope)
            self._tell(scope, status or CALLER_LEFT_STATUS, time.perf_counter() - started)

    def _add_headers(self, message: Message, scope: Scope, request_id: str, seconds: float) -> None:
        headers = [*message["headers"], (b"x-request-id", request_id.encode("ascii"))]
        there = dict(headers)
        headers += [header for header in SECURITY_HEADERS if header[0] not in there]
        if POLICY not in there:
            page = there.get(b"content-type", b"").startswith(b"text/html")
            headers.append((POLICY, PAGE_POLICY if page else NO_PAGE_POLICY))
        spent = {**_spent_ms(scope), "total": 1000 * seconds}
        timing = ", ".join([f"{stage};dur={ms:.1f}" for stage, ms in spent.items()])
        headers.append((b"server-timing", timing.encode("ascii")))
        if self._doors.closing.is_set():
            headers = [header for header in headers if header[0] != b"connection"] + [(b"connection", b"close")]
        message["headers"] = headers

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None)
        metrics, spent = self._service.metrics, _spent_ms(scope)
        metrics.observe_request(route, status, seconds)
        for stage, ms in spent.items():
            metrics.observe_stage(stage, ms / 1000)
        self._service.tracing.tell(scope["method"], route, status, spent)
        trace_id = self._service.tracing.trace_id
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        logs.log_request(
            method=scope["method"],
            route=route or "unmatched",
            path=raw.decode("ascii", "replace"),
            status=status,
            duration_ms=1000 * seconds,
            spent_ms=spent,
            **({"trace_id": trace_id} if trace_id else {}),
        )

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started = time.perf_counter()

        async def send_framed(message: Message) -> None:
            if message["type"] == "websocket.http.response.start":  # an upgrade's refusal is an answer like any
                self._add_headers(message, scope, request_id, time.perf_counter() - started)
            await send(message)

        try:
            guard(scope, self._service.settings, self._keys)
            if not any(route.matches(scope)[0] is Match.FULL for route in scope["app"].routes):
                raise HTTPException(404)
        except (errors.Refused, HTTPException) as error:
            answer = problem_answer(error, request_id)
            if "websocket.http.response" in scope.get("extensions", {}):
                await answer(scope, receive, send_framed)  # Starlette sends it as the refusal of the upgrade
            else:
                await send({"type": "websocket.close", "code": live.RULES_BROKEN, "reason": str(error)[:100]})
            self._service.tracing.tell("GET", None, answer.status_code, {})
            return
        try:
            await self._app(scope, receive, send_framed)
        finally:
            route = scope["path"] if "endpoint" in scope else None  # the paths of streams hold no parameters
            self._service.tracing.tell("GET", route, 101 if route else 403, {})


def _spent_ms(scope: MutableMapping[str, Any]) -> dict[str, float]:
    call = scope.get("call")
    return {} if call is None else call.spent_ms
