"""The connections beneath the requests: how many there may be, how long a head may take and how large it may be.

uvicorn bounds none of the three: an idler would hold a socket for ever, and a head without end fill the memory. Knows
no routes; what it refuses, it refuses in plain text, before there is a request that could be answered properly.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

log = logging.getLogger(__name__)

# The longest query is a camera's and some boxes'; the longest header a cookie that is none of ours.
MAX_HEAD_BYTES = 32 * 1024
# In a request's scope: a future that is done once its connection is lost. To wait for `receive()` takes a task each.
LEFT = "poselift.left"


def bounded_protocol(max_sockets: int, header_timeout_s: float) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with bounds.

    Args:
        max_sockets: connections at once; one more is told 503 and closed.
        header_timeout_s: seconds that a head may take, from the connection or from its own first byte; then 408.
    """

    class Bounded(HttpToolsProtocol):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._head_bytes = 0
            self._in_head = True
            self._refused = False
            self._patience: asyncio.TimerHandle | None = None
            self._left: asyncio.Future[None] = self.loop.create_future()

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(HeadWithBody(transport, self.loop))  # type: ignore[arg-type]  # it does as one
            if len(self.connections) > max_sockets:
                log.warning("%d connections are open, as many as may be: one more is refused", max_sockets)
                self._refuse(503, f"all {max_sockets} connections are taken", b"retry-after: 2\r\n")
                return
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            # uvicorn does so only for an orderly end: after a reset its timer would hold all of this till it rings.
            self._unset_keepalive_if_required()
            super().connection_lost(exc)
            self._left.set_result(None)

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            if self._in_head:
                self._head_bytes += len(data)
            super().data_received(data)
            if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse_head()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.scope[LEFT] = self._left  # type: ignore[literal-required]
            self._in_head = True
            self._wait()

        def on_headers_complete(self) -> None:
            self._in_head, self._head_bytes = False, 0
            self._stop_waiting()
            # What came in one piece with its end has not been counted by then, or with a body behind it.
            if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD_BYTES:
                self._refuse_head()
                return
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self._refused:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if self._refused:
                return
            super().on_message_complete()
            if not self.pipeline:
                # uvicorn stops reading at a large piece of a body until more is asked for. Behind the last piece nobody
                # asks, and a connection that is not read does not tell that its caller has left.
                self.flow.resume_reading()

        def _wait(self) -> None:
            self._stop_waiting()
            self._patience = self.loop.call_later(header_timeout_s, self._late)

        def _stop_waiting(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

        def _late(self) -> None:
            if not self.transport.is_closing():
                self._refuse(408, f"no head of a request came within {header_timeout_s:g} s")

        def _refuse_head(self) -> None:
            self._refuse(431, f"the head of a request may have at most {MAX_HEAD_BYTES} bytes")

        def _refuse(self, status: int, text: str, headers: bytes = b"") -> None:
            self._refused = True
            body = text.encode("ascii")
            self.transport.write(
                STATUS_LINE[status]
                + headers
                + b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n" % len(body)
                + b"connection: close\r\n\r\n"
                + body
            )
            self.transport.close()

    return Bounded


class HeadWithBody:
    """A transport that keeps an answer's head until its body comes, so that both leave as one.

    uvicorn writes them apart: two system calls, and the caller wakes to a head with nothing behind it. Without a body
    in the same turn of the loop the head leaves alone.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
