"""The application around a fake service: called in process, or served on a free port in a thread."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from service.api.app import create_app
from service.api.lifecycle import Server

from .fake import FakeService


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(service) as made:
        yield made


def client_of(service: FakeService) -> httpx.AsyncClient:
    """Calls the application in this process; what leaves it as an exception fails the test."""
    transport = httpx.ASGITransport(app=create_app(service.as_service))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@dataclass
class Served:
    """A server on a free port of this machine."""

    server: Server
    port: int
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """As the first signal does it; returns at once."""
        self.server.handle_exit(15, None)


@contextmanager
def _served(service: FakeService) -> Iterator[Served]:
    server = Server(service.as_service, service.settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield Served(server, server.servers[0].sockets[0].getsockname()[1], thread)
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def served() -> Callable[[FakeService], AbstractContextManager[Served]]:
    return _served


def wait_until(true: Callable[[], bool], within_s: float = 5.0) -> None:
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until, "it did not become true in time"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG of 64 x 48 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (120, 90, 60)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="session")
def clip() -> bytes:
    """An MP4 of 12 frames of 64 x 48 pixels."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade * 20, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
