"""POST /v1/clips: a clip in, one JSON line a frame out, while it is still being decoded; or a file. Knows no networks.

What goes wrong before the first line is an ordinary problem; after it, the last line is an `error`. A file is made at
the clip's end, and a clip that breaks gives none. Times are seconds of the clip, pixels those of the upright frames.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import errors
from service.formats import FORMATS
from service.media.videos import Clip, ClipLimits, open_clip
from service.people import Track, World
from service.pipelines.call import Call, Class
from service.pipelines.clip import ClipFrame, ClipOptions, ClipPerson, ClipProgress, ClipStart, Item

from .access import NO_DEADLINE_S, begin_call
from .clip_files import Bounded, ClipSpool, check_file_options, write_file
from .images import SKELETONS_OUT, camera_fields, keypoint_values, person_fields
from .problems import CallerLeft, openapi_responses, problem_document
from .schemas import ClipFields, clip_options, openapi_schema, options_from_query, query_parameters
from .uploads import MEGABYTE, spooled_upload

if TYPE_CHECKING:
    from service.assembly import Service
    from service.settings import Settings

MEDIA_TYPE = "application/x-ndjson"
FILE_STEM = "clip"  # of the names of files; nobody's own file name is repeated in a header
SENT_BYTES = 256 * 1024
# Proxies give up on what is silent; the interface promises a line at least every 10 s.
PROGRESS_S = 8.0
UNITS = {"keypoints": "pixels", "joints3d": "metres", "time": "seconds"}

T = TypeVar("T")


async def estimate_clip(request: Request) -> Response:
    """Everyone in a clip, frame by frame, as NDJSON lines. The body is the clip, or a form with `clip`."""
    return _ClipAnswer(request)


class _ClipAnswer(Response):
    """Reads, computes and sends at once: each block of lines waits until the one before it has left."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self._request = request
        self._service: Service = request.app.state.service
        self._request_id: str = request.scope.get("request_id", "")
        self._begun = False
        self._last_frame: int | None = None
        self._last_time = 0.0
        self._frames = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, settings, service = self._request, self._service.settings, self._service
        call = begin_call(request, Class.CLIP, 1000 * NO_DEADLINE_S)
        query = request.query_params.multi_items()
        fields = options_from_query(ClipFields, query)
        limit = int(settings.max_clip_mb * MEGABYTE)
        async with spooled_upload(request, "clip", limit, wait_until=call.deadline) as (path, part):
            if part:
                fields = options_from_query(ClipFields, query, part)
            options = clip_options(fields, settings.max_people)
            check_file_options(options, fields.format, fields.person)
            doors = request.app.state.doors
            opening = service.in_decode_pool(open_clip, path, clip_limits(settings))
            clip = await doors.see_through(request, call.deadline, opening)
            try:
                if fields.format is not None:
                    work = self._file(clip, path, options, fields.format, fields.person, call, send)
                else:
                    work = self._stream(clip, options, call, send)
                await doors.see_through(request, call.deadline, work)
            except Exception as error:
                # Of a file that has begun nothing can be said any more but that it ends here.
                if not self._begun or fields.format is not None or isinstance(error, CallerLeft):
                    raise
                await self._send(json_line(error_line(error, self._request_id, self._last_frame)), send)
            finally:
                await asyncio.shield(asyncio.to_thread(clip.close))
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _file(
        self, clip: Clip, path: Path, options: ClipOptions, name: str, person: int | None, call: Call, send: Send
    ) -> None:
        """Keeps everybody on disk until the clip's end, makes the file there, and sends it."""
        in_pool, limits = self._service.in_decode_pool, clip_limits(self._service.settings)
        limit_mb = self._service.settings.max_spool_mb
        with (
            closing(ClipSpool(limit_mb)) as spool,
            closing(Bounded(limit_mb * MEGABYTE, "the file")) as file,
        ):
            async with aclosing(self._service.clip.run(clip, options, call)) as items:
                async for item in items:
                    spool.add(item)
                    if spool.full:
                        await in_pool(spool.flush)
            await in_pool(clip.close)
            started = time.perf_counter()
            steps = write_file(spool, name, FILE_STEM, file, path, limits, options.every, person)
            told = ("", "")
            while (step := await _finished(in_pool(next, steps, None), file)) is not None:
                told = step
            call.spent_ms["encode"] += 1000 * (time.perf_counter() - started)
            await self._send_file(file, *told, send)

    async def _send_file(self, file: Bounded, name: str, media_type: str, send: Send) -> None:
        size = file.seek(0, 2)
        file.seek(0)
        headers = [
            (b"content-type", media_type.encode()),
            (b"content-length", str(size).encode()),
            (b"content-disposition", f'attachment; filename="{name}"'.encode()),
            (b"cache-control", b"no-store"),
        ]
        self._begun = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while piece := await asyncio.to_thread(file.read, SENT_BYTES):
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _stream(self, clip: Clip, options: ClipOptions, call: Call, send: Send) -> None:
        # Both are closed, the inner one first: who leaves while progress is told leaves the next block being made.
        async with (
            aclosing(self._service.clip.blocks(clip, options, call)) as blocks,
            aclosing(_with_progress(blocks)) as told,
        ):
            async for block in told:
                if block is None:
                    await self._send(_encoded([ClipProgress(self._frames, self._last_time)], self._request_id), send)
                    continue
                # Many people make a block of lines long work, of which the loop must know nothing.
                await self._send(await self._service.in_decode_pool(_encoded, block, self._request_id), send)
                for item in block:
                    if isinstance(item, ClipFrame):
                        self._last_frame, self._last_time = item.index, item.time
                        self._frames += 1

    async def _send(self, body: bytes, send: Send) -> None:
        if not self._begun:
            self._begun = True
            headers = [(b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"no-store")]
            # nginx gathers answers unless it is told not to.
            headers.append((b"x-accel-buffering", b"no"))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _finished(step: Coroutine[Any, Any, T], file: Bounded) -> T:
    """The step's result; a thread that works on the file has ended, even where nobody waits for it any more."""
    working = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(working)
    finally:
        if not working.done():
            file.give_up()
            await asyncio.wait({working})
            if not working.cancelled():
                working.exception()


async def _with_progress(blocks: AsyncIterator[list[Item]]) -> AsyncGenerator[list[Item] | None, None]:
    """The blocks, and None whenever there was none for PROGRESS_S."""
    while True:
        following = asyncio.ensure_future(anext(blocks))
        try:
            while not (await asyncio.wait({following}, timeout=PROGRESS_S))[0]:
                yield None
            yield following.result()
        except StopAsyncIteration:
            return
        finally:
            if not following.done():
                following.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await following
            # Its error's traceback holds this frame, and the clip's last pictures with it, until a collection.
            del following


def clip_limits(settings: Settings) -> ClipLimits:
    """What is read at all. A frame may have as many pixels as a photo."""
    return ClipLimits(int(settings.max_image_mpx * 1e6), settings.max_clip_frames, settings.max_clip_s)


# ---- Lines


def _encoded(items: Sequence[Item], request_id: str) -> bytes:
    return b"".join(json_line(line_of(item, request_id)) for item in items)


def json_line(line: dict[str, Any]) -> bytes:
    return orjson.dumps(line, default=str, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def error_line(error: Exception, request_id: str, last_frame: int | None) -> dict[str, Any]:
    """The last line of a clip that did not come to its end."""
    return {"type": "error", "problem": problem_document(error, request_id), "last_frame": last_frame}


def line_of(item: Item, request_id: str) -> dict[str, Any]:
    """One line of the answer."""
    if isinstance(item, ClipFrame):
        people = [_person(person) for person in item.people]
        return {"type": "frame", "index": item.index, "time": round(item.time, 6), "people": people}
    if isinstance(item, ClipProgress):
        return {"type": "progress", "frames": item.frames, "time": round(item.time, 6)}
    if isinstance(item, ClipStart):
        return {
            "type": "start",
            "request_id": request_id,
            "size": [item.width, item.height],
            "rate": round(item.rate, 4),
            "frames": item.frames,
            "duration": item.duration,
            "camera": camera_fields(item.camera),
            "models": item.models,
            "skeletons": SKELETONS_OUT,
            "units": UNITS,
        }
    return {
        "type": "end",
        "frames": item.frames,
        "seconds": round(item.seconds, 6),
        "tracks": [_track(track) for track in item.tracks],
        "merged": {str(later): first for later, first in item.merged.items()},
        "camera_to_world": _world(item.camera_to_world),
        "reason": item.reason,
        "timings_ms": {stage: round(ms, 1) for stage, ms in item.timings_ms.items()},
    }


def _person(one: ClipPerson) -> dict[str, Any]:
    fields = person_fields(one.person) | {"track": one.track, "swapped": one.swapped, "filled": one.filled}
    if one.feet is not None:
        fields["feet"] = one.feet
    if one.states is not None:
        fields["states"] = one.states
    if one.raw is not None:
        fields["keypoints_raw"] = keypoint_values(one.raw)
    return fields


def _world(world: World | None) -> dict[str, Any] | None:
    if world is None:
        return None
    return {"rotation": world.rotation.round(6).tolist(), "translation": world.translation.round(4).tolist()}


def _track(track: Track) -> dict[str, Any]:
    scale = {"stature": round(track.scale.stature, 4), "source": track.scale.source}
    told = {"id": track.id, "first": track.first, "last": track.last, "frames": track.frames, "scale": scale}
    return told | {"factor": round(track.factor, 4)}


# ---- The OpenAPI document

OPENAPI: dict[str, Any] = {
    "parameters": query_parameters(ClipFields),
    "requestBody": {
        "required": True,
        "content": {
            **{
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in (
                    "video/mp4",
                    "video/quicktime",
                    "video/webm",
                    "video/x-matroska",
                    "video/x-msvideo",
                    "image/gif",
                )
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["clip"],
                    "properties": {
                        "clip": {"type": "string", "format": "binary"},
                        "options": openapi_schema(ClipFields),
                    },
                }
            },
        },
    },
}
FILE_KINDS = sorted({form.media_type for form in FORMATS.values()} | {"application/zip", "video/mp4"})
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One JSON object a line: `start`, then `frame` and `progress`, at last one of `end` and `error` "
        "(GET /v1/schemas/clip-line has their schema); with `format` a file, or a zip of files",
        "content": {
            MEDIA_TYPE: {"schema": {"type": "string"}},
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in FILE_KINDS},
        },
    },
    **openapi_responses(
        errors.Unreadable,
        errors.Unknown,
        errors.TooLarge,
        errors.UnknownKind,
        errors.OutOfRange,
        errors.ShareUsedUp,
        errors.QueueFull,
        errors.NotReady,
        errors.DeadlinePassed,
    ),
}
