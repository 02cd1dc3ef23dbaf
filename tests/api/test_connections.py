"""Beneath the requests: idlers, trickled and endless heads, one connection too many. Spoken through bare sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import httpx
import pytest

from service.api import uploads
from service.api.connections import MAX_HEAD_BYTES, HeadWithBody

from .conftest import Served, wait_until
from .fake import FakeService

Serve = Callable[[FakeService], AbstractContextManager[Served]]
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def dial(here: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", here.port), timeout=5)


def heard(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    came = b""
    try:
        while piece := connection.recv(65536):
            came += piece
    except ConnectionResetError:
        pass
    return came


def test_who_sends_no_head_is_let_go(served: Serve) -> None:
    with served(FakeService(header_timeout_s=0.2)) as here:
        started = time.monotonic()
        with dial(here) as silent, dial(here) as trickling:
            for byte in b"GET /li":
                trickling.sendall(bytes([byte]))
                time.sleep(0.01)
            for connection in (silent, trickling):
                assert heard(connection).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started < 3
        wait_until(lambda: not here.server.server_state.connections)


def test_the_time_for_a_head_is_not_the_time_for_an_answer_or_between_requests(served: Serve) -> None:
    with served(FakeService(header_timeout_s=0.2)) as here, dial(here) as connection:
        for _ in range(2):
            connection.sendall(GET)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.4)


def test_the_second_head_on_a_connection_has_its_time_too(served: Serve) -> None:
    with served(FakeService(header_timeout_s=0.2)) as here, dial(here) as connection:
        connection.sendall(GET)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /livez HT")
        assert heard(connection).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "head", [b"GET /livez HTTP/1.1\r\nX-Long: ", b"GET /", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 9]
)
def test_a_head_without_end_is_refused_before_it_fills_the_memory(served: Serve, head: bytes) -> None:
    with served(FakeService()) as here, dial(here) as connection:
        connection.sendall(head + b"A" * MAX_HEAD_BYTES)
        assert heard(connection).startswith(b"HTTP/1.1 431 ")


def test_a_head_that_is_too_large_is_refused_though_it_comes_whole(served: Serve) -> None:
    with served(FakeService()) as here:
        for surplus in (0, 3 * MAX_HEAD_BYTES):
            with dial(here) as connection:
                padding = b"X-Long: " + b"A" * (MAX_HEAD_BYTES + surplus) + b"\r\n"
                connection.sendall(b"POST /v1/lift HTTP/1.1\r\n" + padding + b"Content-Length: 2\r\n\r\n{}")
                assert heard(connection).startswith(b"HTTP/1.1 431 ")
                assert heard(connection) == b""
        assert httpx.get(f"{here.url}/livez").status_code == 200


def test_a_long_body_is_no_head(served: Serve, photo: bytes) -> None:
    with served(FakeService()) as here:
        padded = photo + b"\0" * (3 * MAX_HEAD_BYTES)
        assert httpx.post(f"{here.url}/v1/images", content=padded).status_code == 200


def test_one_connection_too_many_is_told_so_and_a_place_that_is_free_again_is_taken(served: Serve) -> None:
    with served(FakeService(max_sockets=16)) as here, ExitStack() as stack:
        for _ in range(16):
            connection = stack.enter_context(dial(here))
            connection.sendall(GET)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        with dial(here) as refused:
            answer = heard(refused)
            assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 2" in answer
        connection.close()
        wait_until(lambda: len(here.server.server_state.connections) == 15)
        with dial(here) as welcome:
            welcome.sendall(GET)
            assert welcome.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_trickles_is_given_up(served: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "STALL_S", 0.3)
    with served(FakeService()) as here, dial(here) as connection:
        started = time.monotonic()
        connection.sendall(b"POST /v1/clips HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(8):
            time.sleep(0.1)
            try:
                connection.sendall(b"a")
            except OSError:
                break
        assert connection.recv(65536).startswith(b"HTTP/1.1 504 ")
        assert time.monotonic() - started < 3


def test_bodies_together_have_a_bound_and_what_one_held_is_free_when_it_ends(served: Serve, photo: bytes) -> None:
    with served(FakeService(max_uploads_mb=1)) as here, dial(here) as holder:
        holder.sendall(
            b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n" + b"a" * 1_000_000
        )
        app = here.server.config.app.state  # type: ignore[union-attr]
        wait_until(lambda: app.uploads.held_bytes == 1_000_000)
        refused = httpx.post(f"{here.url}/v1/images", content=photo + b"\0" * 100_000)
        assert refused.status_code == 503 and refused.json()["field"] == "max_uploads_mb"
        holder.close()
        wait_until(lambda: app.uploads.held_bytes == 0)
        assert httpx.post(f"{here.url}/v1/images", content=photo + b"\0" * 100_000).status_code == 200


def test_clips_on_disk_have_a_bound_together_and_what_one_held_is_free_when_it_ends(
    served: Serve, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_WRITE_BYTES", 1024)
    with served(FakeService(max_clips_mb=1, max_clip_mb=1)) as here, dial(here) as holder:
        holder.sendall(
            b"POST /v1/clips HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1040000\r\n\r\n" + b"a" * 1_030_000
        )
        app = here.server.config.app.state  # type: ignore[union-attr]
        wait_until(lambda: app.clips_on_disk.held_bytes == 1_030_000)
        more = clip + b"\0" * 100_000
        refused = httpx.post(f"{here.url}/v1/clips", content=more)
        assert refused.status_code == 503 and refused.json()["field"] == "max_clips_mb"
        assert int(refused.headers["retry-after"]) >= 1
        holder.close()
        wait_until(lambda: app.clips_on_disk.held_bytes == 0)
        assert httpx.post(f"{here.url}/v1/clips", content=more).status_code == 200
        wait_until(lambda: app.clips_on_disk.held_bytes == 0)


class Wire(asyncio.Transport):
    """What was written, call by call."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


def written(*steps: bytes | None) -> list[bytes]:
    """What leaves when these are written, None being a turn of the loop; then it is closed."""
    wire = Wire()

    async def main() -> None:
        transport = HeadWithBody(wire, asyncio.get_running_loop())
        for step in steps:
            if step is None:
                await asyncio.sleep(0)
            else:
                transport.write(step)
        transport.close()

    asyncio.run(main())
    assert wire.closed
    return wire.written


def test_an_answers_head_and_body_leave_as_one() -> None:
    assert written(HEAD, b"{}") == [HEAD + b"{}"]
    assert written(HEAD, b"{", b"}") == [HEAD + b"{", b"}"]
    assert written(HEAD, b"{}", None, HEAD, b"{}") == 2 * [HEAD + b"{}"]


def test_a_head_without_a_body_leaves_with_the_turn_or_the_connection() -> None:
    assert written(HEAD, None, b"{}") == [HEAD, b"{}"]
    assert written(HEAD) == [HEAD]


def test_what_is_no_head_leaves_at_once() -> None:
    assert written(b"0\r\n\r\n") == [b"0\r\n\r\n"]
