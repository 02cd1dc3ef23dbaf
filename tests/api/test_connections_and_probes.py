"""What the doors are made of: connections, middleware, routes and probes, as they must be under load."""

from __future__ import annotations

import asyncio
import gc
import inspect
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.app import Door, create_app
from service.api.lifecycle import Server

from .conftest import Served, client_of, wait_until
from .fake import FakeService

if TYPE_CHECKING:
    from tests.conftest import Started

Serve = Callable[[FakeService], AbstractContextManager[Served]]

RESETS = 300


def test_idle_connections_outlive_the_idle_time_of_a_proxy_and_streams_are_not_deflated() -> None:
    service = FakeService()
    config = Server(service.as_service, service.settings).config
    assert config.timeout_keep_alive >= 75  # nginx' and Envoy's pools let go after 60
    assert config.ws_per_message_deflate is False
    assert config.ws_ping_interval is not None


def test_no_middleware_stands_between_a_caller_who_leaves_and_the_work() -> None:
    """BaseHTTPMiddleware hides `http.disconnect` from the doors, and queues an answer without bound."""
    app = create_app(FakeService(origins=("https://poselift.test",)).as_service)
    layers = []
    for outermost in (app.front, app.build_middleware_stack()):
        layer: Any = outermost
        while layer is not None:
            layers.append(type(layer))
            layer = getattr(layer, "app", None)
    assert {CORSMiddleware, ExceptionMiddleware} <= set(layers)
    assert not any(issubclass(each, BaseHTTPMiddleware) for each in layers)


def test_every_door_runs_on_the_loop_and_answers_with_ready_made_bytes() -> None:
    """A `def` door would wait for one of forty threads that it shares with others; a model would be walked twice."""
    app = create_app(FakeService().as_service)
    doors = 0
    for route in app.routes:
        assert not isinstance(route, APIRoute), route.path
        if isinstance(route, Door):
            assert inspect.iscoroutinefunction(route.endpoint), route.path
            returned = inspect.signature(route.endpoint, eval_str=False).return_annotation
            assert str(returned).endswith("Response") or returned is Response, route.path
            doors += 1
        elif isinstance(route, Route | WebSocketRoute) and inspect.isfunction(route.endpoint):
            assert inspect.iscoroutinefunction(route.endpoint), route.path
    assert doors >= 3


def test_probes_answer_while_every_decoder_is_busy(started: Started) -> None:
    service, release = started.service, threading.Event()

    async def story() -> list[int]:
        busy = [asyncio.ensure_future(service.in_decode_pool(release.wait, 60)) for _ in range(100)]
        transport = httpx.ASGITransport(app=create_app(service))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                paths = ("/livez", "/readyz", "/metrics", "/v1/info", "/v2/health/live", "/v2/health/ready")
                statuses = [(await client.get(path)).status_code for path in paths]
                assert not any(each.done() for each in busy)
                return statuses
        finally:
            release.set()
            await asyncio.gather(*busy)

    assert started.run(story()) == [200] * 6


@pytest.mark.anyio
async def test_probes_leave_nothing_behind() -> None:
    async with client_of(FakeService()) as client:

        async def probe(times: int) -> int:
            for _ in range(times):
                for path in ("/livez", "/readyz", "/metrics"):
                    assert (await client.get(path)).status_code == 200
            gc.collect()
            return len(gc.get_objects())

        await probe(30)
        before = await probe(30)
        assert await probe(300) < before + 200


def test_connections_that_are_reset_are_not_kept(served: Serve) -> None:
    """A server whose timer for idle connections outlives a reset holds each of them for as long as that runs."""
    with served(FakeService()) as here:
        for _ in range(RESETS):
            with socket.create_connection(("127.0.0.1", here.port)) as peer:
                peer.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert peer.recv(4096).startswith(b"HTTP/1.1 200")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends RST

        def kept() -> int:
            gc.collect()
            return sum(issubclass(type(each), HttpToolsProtocol) for each in gc.get_objects())

        wait_until(lambda: kept() < RESETS // 10, 10)
