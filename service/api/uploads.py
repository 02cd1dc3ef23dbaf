"""Bodies, counted by the byte as they come: raw or as multipart parts, into memory or onto disk. Knows no pictures.

A limit is told as soon as it is known: by Content-Length, else while reading. Nothing uploaded outlives its request.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import tempfile
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import Any, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from service.errors import DeadlinePassed, OutOfRange, QueueFull, TooLarge, UnknownKind, Unreadable

from .problems import CallerLeft

log = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024
MAX_OPTIONS_BYTES = MEGABYTE
# A body of which nothing comes for so long is given up: whoever sends it holds memory.
STALL_S = 30.0
# And one that trickles: after the first STALL_S it must have come at this rate on the whole, a bad telephone line's.
SLOWEST_BYTES_PER_S = 2048
_HELD = "poselift.body"  # in a request's scope: its body, until the request has ended
_WRITE_BYTES = MEGABYTE  # how much is gathered before a thread writes it: a disk may stall, the loop must not


class Sink(Protocol):
    """Where the bytes of the picture or clip go."""

    size: int

    async def write(self, chunk: bytes) -> None: ...


class Room:
    """What bodies may hold of memory, or of the disk, all requests together: each by itself may be small and a thousand
    too much."""

    def __init__(self, limit_bytes: int, setting: str) -> None:
        self.limit_bytes, self.held_bytes = limit_bytes, 0
        self._setting = setting

    def take(self, size: int) -> None:
        """Raises QueueFull where it does not fit."""
        if self.held_bytes + size > self.limit_bytes:
            message = f"bodies hold {self.held_bytes} of {self.limit_bytes} bytes; {size} more do not fit now"
            raise QueueFull(message, field=self._setting, limit=self.limit_bytes, retry_after_s=2.0)
        self.held_bytes += size


def give_back(scope: MutableMapping[str, Any]) -> None:
    """At the end of a request: what its body held is free for others."""
    if sink := scope.pop(_HELD, None):
        sink.room.held_bytes -= sink.size


@dataclass
class InMemory:
    """Gathers the bytes; counted in `room` until the request has ended."""

    room: Room
    size: int = 0
    chunks: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, request: Request) -> InMemory:
        sink = request.scope[_HELD] = cls(request.app.state.uploads)
        return sink

    async def write(self, chunk: bytes) -> None:
        self.room.take(len(chunk))
        self.size += len(chunk)
        self.chunks.append(chunk)

    def body(self) -> bytes:
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)


class OnDisk:
    """Writes the bytes to a file, in a thread; counted in `room` until the request has ended."""

    def __init__(self, file: RawIOBase, room: Room) -> None:
        self.room, self.size = room, 0
        self._file = file
        self._gathered = bytearray()

    async def write(self, chunk: bytes) -> None:
        self.room.take(len(chunk))
        self.size += len(chunk)
        self._gathered += chunk
        if len(self._gathered) >= _WRITE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        gathered, self._gathered = self._gathered, bytearray()
        try:
            await asyncio.to_thread(_write_all, self._file, gathered)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            log.error("the disk for uploads is full: %s", error)
            raise QueueFull("the disk for uploads is full just now", field="body", retry_after_s=10.0) from error


def _write_all(file: RawIOBase, gathered: bytearray) -> None:
    left = memoryview(gathered)
    while left:
        left = left[file.write(left) or 0 :]


async def read_body(request: Request, limit_bytes: int, part: str, *, wait_until: float) -> bytes:
    """The whole body, as it is. Raises TooLarge, Unreadable (empty), DeadlinePassed, CallerLeft."""
    sink = InMemory.of(request)
    await _read_raw(request, sink, limit_bytes, part, wait_until)
    return sink.body()


async def read_upload(request: Request, part: str, limit_bytes: int, *, wait_until: float) -> tuple[bytes, bytes]:
    """A picture's bytes, and those of the part `options` (empty if there is none); raw or multipart.

    Args:
        part: the multipart part, and the field that errors name.
        wait_until: the loop's time at which reading is given up.
    """
    sink = InMemory.of(request)
    options = await _read(request, sink, part, ("image/",), limit_bytes, wait_until)
    return sink.body(), options


@asynccontextmanager
async def spooled_upload(
    request: Request, part: str, limit_bytes: int, *, wait_until: float
) -> AsyncIterator[tuple[Path, bytes]]:
    """As `read_upload`, but onto disk: the path of a file that is gone after the `async with`, and the options."""
    handle, name = await asyncio.to_thread(tempfile.mkstemp, prefix="poselift-")
    path = Path(name)
    try:
        # Unbuffered: what a full disk did not take would be tried again when the file is closed.
        with os.fdopen(handle, "wb", buffering=0) as file:
            sink = request.scope[_HELD] = OnDisk(file, request.app.state.clips_on_disk)
            options = await _read(request, sink, part, ("video/", "image/gif"), limit_bytes, wait_until)
            await sink.flush()
        yield path, options
    finally:
        path.unlink(missing_ok=True)


async def _read(
    request: Request, sink: Sink, part: str, kinds: tuple[str, ...], limit_bytes: int, wait_until: float
) -> bytes:
    content_type, parameters = parse_options_header(request.headers.get("content-type"))
    kind = content_type.decode("latin-1").lower()
    if kind == "multipart/form-data":
        boundary = parameters.get(b"boundary")
        if not boundary:
            raise Unreadable("`Content-Type` is multipart/form-data without a boundary", field="Content-Type")
        return await _read_form(request, sink, part, boundary, limit_bytes, wait_until)
    if kind and kind != "application/octet-stream" and not kind.startswith(kinds):
        known = [f"{name}*" if name.endswith("/") else name for name in kinds]
        limit = [*known, "application/octet-stream", "multipart/form-data"]
        message = f"`Content-Type` must be one of {', '.join(limit)}; got {kind[:80]!r}"
        raise UnknownKind(message, field="Content-Type", limit=limit)
    await _read_raw(request, sink, limit_bytes, part, wait_until)
    return b""


async def _read_raw(request: Request, sink: Sink, limit_bytes: int, part: str, wait_until: float) -> None:
    _check_length(request, limit_bytes, part)
    chunks, more = _Chunks(request, wait_until), True
    while more:
        chunk, more = await chunks.next()
        if sink.size + len(chunk) > limit_bytes:
            raise _too_large(part, limit_bytes, "more")
        if chunk:
            await sink.write(chunk)
    if not sink.size:
        raise Unreadable(f"`{part}` is empty: 0 bytes came", field=part, limit=[1, limit_bytes])


async def _read_form(
    request: Request, sink: Sink, part: str, boundary: bytes, limit_bytes: int, wait_until: float
) -> bytes:
    _check_length(request, limit_bytes, part, around=2 * MAX_OPTIONS_BYTES)
    try:
        form = _Form(boundary, (part, "options"))
        chunks, more = _Chunks(request, wait_until), True
        while more:
            chunk, more = await chunks.next()
            for name, piece in form.feed(chunk):
                if name == "options":
                    form.options += piece
                    if len(form.options) > MAX_OPTIONS_BYTES:
                        raise _too_large("options", MAX_OPTIONS_BYTES, "more")
                else:
                    if sink.size + len(piece) > limit_bytes:
                        raise _too_large(part, limit_bytes, "more")
                    await sink.write(piece)
    except FormParserError as error:
        raise Unreadable(f"the multipart body is broken: {error}", field=part) from error
    if not form.ended:
        raise Unreadable("the multipart body is cut off: its last boundary is missing", field=part)
    if part not in form.seen:
        raise Unreadable(f"the multipart body has no part `{part}`", field=part, limit=[part, "options"])
    if not sink.size:
        raise Unreadable(f"`{part}` is empty: 0 bytes came", field=part, limit=[1, limit_bytes])
    return bytes(form.options)


class _Form:
    """The pieces of a multipart body, part by part, as they come. Raises FormParserError where it is broken."""

    def __init__(self, boundary: bytes, names: tuple[str, ...]) -> None:
        self.options = bytearray()
        self.seen: set[str] = set()
        self.ended = False
        self._names = names
        self._name = ""
        self._header, self._value, self._disposition = b"", b"", b""
        self._pieces: list[tuple[str, bytes]] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> list[tuple[str, bytes]]:
        """The (part, bytes) pieces that this chunk completes."""
        self._parser.write(chunk)
        pieces, self._pieces = self._pieces, []
        return pieces

    def _begin(self) -> None:
        self._header, self._value, self._disposition = b"", b"", b""

    def _header_field(self, chunk: bytes, start: int, end: int) -> None:
        self._header += chunk[start:end]

    def _header_value(self, chunk: bytes, start: int, end: int) -> None:
        self._value += chunk[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        name = parameters.get(b"name", b"").decode("utf-8", "replace")
        if name not in self._names:
            known = ", ".join(self._names)
            raise OutOfRange(f"unknown part `{name[:80]}`; known are {known}", field=name[:80], limit=list(self._names))
        if name in self.seen:
            raise OutOfRange(f"the part `{name}` came twice", field=name, limit=1)
        self.seen.add(name)
        self._name = name

    def _part_data(self, chunk: bytes, start: int, end: int) -> None:
        self._pieces.append((self._name, chunk[start:end]))

    def _end(self) -> None:
        self.ended = True


class _Chunks:
    """The body's chunks, each with whether more will come."""

    def __init__(self, request: Request, wait_until: float) -> None:
        self._request, self._until = request, wait_until
        self._loop = asyncio.get_running_loop()
        self._began, self._came = self._loop.time(), 0

    async def next(self) -> tuple[bytes, bool]:
        """Raises CallerLeft, and DeadlinePassed for a body that is late or stands still."""
        now, slowest = self._loop.time(), self._began + STALL_S + self._came / SLOWEST_BYTES_PER_S
        patience = max(0.0, min(STALL_S, self._until - now, slowest - now))
        try:
            async with asyncio.timeout(patience):
                message = await self._request.receive()
        except TimeoutError:
            raise DeadlinePassed(f"the body was still incomplete after {patience:.1f} s of waiting for more") from None
        if message["type"] == "http.disconnect":
            raise CallerLeft
        chunk: bytes = message.get("body", b"")
        self._came += len(chunk)
        return chunk, message.get("more_body", False)


def _check_length(request: Request, limit_bytes: int, part: str, around: int = 0) -> None:
    """Refuses by the header alone what cannot fit. around: bytes that the form may have beside the part."""
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > limit_bytes + around:
        raise _too_large(part, limit_bytes, length[:20])


def _too_large(part: str, limit_bytes: int, came: str) -> TooLarge:
    return TooLarge(f"`{part}` may have at most {limit_bytes} bytes; {came} came", field=part, limit=limit_bytes)
