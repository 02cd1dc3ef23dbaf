"""WS /v1/live/keypoints: keypoints in, poses out. The newest frame wins; what is dropped is counted and told.

Three tasks a stream: one reads, one computes, one sends. Whoever ends first names the close code. Times are seconds,
ages milliseconds.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from typing import TYPE_CHECKING, Any

import msgpack
import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from service.errors import Busy, OutOfRange, QueueFull, ServiceError, TooLarge
from service.geometry.skeletons import skeleton_named
from service.people import Array
from service.pipelines.call import Call, Class
from service.pipelines.live import LiveKeypoints, LiveOptions, LivePose

from .access import Doors, begin_call
from .images import lifted_fields
from .problems import problem_document
from .schemas import LiveFields, camera_options, checked, read_points

if TYPE_CHECKING:
    from service.assembly import Service

JSON, MSGPACK = "poselift.v1.json", "poselift.v1.msgpack"
MAX_MESSAGE_BYTES = 1024 * 1024  # parsed on the loop, which it may hold for some milliseconds
INBOX_FRAMES = 2  # one being computed, and the newest two behind it
OUTBOX_POSES = 8  # for a reader that pauses; one that is slow for good must see what is new
SEND_STALL_S = 10.0  # a reader that takes nothing for so long is gone
GOODBYE_S = 2.0
FRAME_DEADLINE_S = 5.0  # an older pose is worth nothing
PAUSE_S = 2.0  # of stream time: after it, people are followed anew rather than across the gap

DONE, GOING_AWAY, NOT_PARSED, RULES_BROKEN, OUR_FAULT, DRAINING, FULL = 1000, 1001, 1007, 1008, 1011, 1012, 1013


class _Close(Exception):
    """Ends the stream with a close code and a reason of at most 123 bytes."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


@dataclasses.dataclass(frozen=True)
class _Frame:
    seq: int
    time: float
    people: list[Array]
    arrived: float


async def live_keypoints(socket: WebSocket) -> None:
    """Serves one stream from its acceptance to its close code."""
    service: Service = socket.app.state.service
    doors: Doors = socket.app.state.doors
    offered = socket.scope.get("subprotocols", [])
    protocol = next((one for one in offered if one in (JSON, MSGPACK)), None)
    await socket.accept(protocol)
    stream = _Stream(socket, service, doors, protocol)
    if offered and protocol is None:
        await stream.close(_Close(RULES_BROKEN, f"subprotocols are {JSON} and {MSGPACK}"))
        return
    try:
        call = begin_call(socket, Class.LIVE)
        service.open_stream()
    except ServiceError as error:
        if isinstance(error, QueueFull):
            service.metrics.shed_total.labels(type(error).__name__).inc()
        await stream.say(stream.problem(error))
        code = DRAINING if doors.closing.is_set() else FULL if isinstance(error, Busy) else RULES_BROKEN
        await stream.close(_Close(code, str(error)))
        return
    try:
        await stream.run(call)
    finally:
        service.close_stream()


class _Stream:
    def __init__(self, socket: WebSocket, service: Service, doors: Doors, protocol: str | None) -> None:
        self._socket, self._service, self._doors = socket, service, doors
        self._binary: bool | None = None if protocol is None else protocol == MSGPACK
        self._request_id: str = socket.scope.get("request_id", "")
        self._inbox: deque[_Frame] = deque(maxlen=INBOX_FRAMES)
        self._outbox: deque[dict[str, Any]] = deque()
        self._news, self._answers = asyncio.Event(), asyncio.Event()
        self._ended = False  # the client said `end`
        self._arrivals: dict[int, float] = {}  # seq to when it came, of the last thousand
        self._dropped = 0
        self._answered = 0
        self._last_seq: int | None = None
        self._last_time = 0.0
        self._joints = 0
        self._fps = 0.0
        self._options: LiveOptions | None = None
        self._live: LiveKeypoints | None = None

    async def run(self, call: Call) -> None:
        """Until the client ends or leaves, breaks a rule, stays silent, or the service drains."""
        tasks = [
            asyncio.create_task(part)
            for part in (self._read(), self._compute(call), self._send(), self._wait_for_the_end())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        failures = [result for result in results if isinstance(result, Exception)]
        if any(isinstance(failure, WebSocketDisconnect) for failure in failures):
            return
        close = next((failure for failure in failures if isinstance(failure, _Close)), None)
        if close is None:
            error = failures[0] if failures else RuntimeError("a stream's task ended without a word")
            await self.say(self.problem(error))
            close = _Close(OUR_FAULT, "the fault is on our side")
        if close.code == DRAINING:
            await self.say(self._goodbye("draining"))
        await self.close(close)

    async def _wait_for_the_end(self) -> None:
        await self._doors.closing.wait()
        raise _Close(DRAINING, "the service drains: come back to another replica")

    # ---- Reading

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        idle_s = self._service.settings.live_idle_s
        while True:
            try:
                async with asyncio.timeout(idle_s):
                    message = await self._socket.receive()
            except TimeoutError:
                raise _Close(GOING_AWAY, f"nothing came for {idle_s:g} s") from None
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            values = self._parse(message)
            kind = values.pop("type", None)
            if self._ended:
                raise _Close(RULES_BROKEN, "a message came after `end`")
            if kind == "start" and self._live is None:
                self._start(values)
            elif kind == "frame" and self._live is not None:
                self._take(values, loop.time())
            elif kind == "end":
                self._ended = True
                self._news.set()
            else:
                wanted = "`start` first" if self._live is None else "`frame` or `end`"
                raise _Close(RULES_BROKEN, f"a message's type must be {wanted}; got {str(kind)[:30]!r}")

    def _parse(self, message: Any) -> dict[str, Any]:
        text, body = message.get("text"), message.get("bytes")
        binary = text is None
        if self._binary is None:  # no subprotocol: the first message decides
            self._binary = binary
        if binary != self._binary:
            raise _Close(NOT_PARSED, "text is JSON, binary is msgpack, and a stream speaks one of them")
        if len(body if text is None else text) > MAX_MESSAGE_BYTES:
            raise _Close(1009, f"a message may have at most {MAX_MESSAGE_BYTES} bytes")
        try:
            values = msgpack.unpackb(body) if text is None else orjson.loads(text)
        except Exception:  # a stranger's message: the unpacker raises many kinds
            raise _Close(NOT_PARSED, f"a message is not {'msgpack' if binary else 'JSON'}") from None
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise _Close(NOT_PARSED, "a message must be one object with named fields")
        return values

    def _start(self, values: dict[str, Any]) -> None:
        try:
            fields = checked(LiveFields, values)
            self._joints = len(skeleton_named(fields.skeleton).joints)
            self._fps = fields.fps
            self._options = LiveOptions(
                skeleton=fields.skeleton,
                image_size=(fields.image_size[0], fields.image_size[1]),
                fps=fields.fps,
                latency=fields.latency,
                smooth=fields.smooth,
                stature=fields.stature,
                camera=camera_options(fields.camera),
            )
            self._live = self._service.live(self._options)
        except ServiceError as error:
            self._put(self.problem(error))
            return
        self._put({"type": "started", "request_id": self._request_id, "models": self._live.lift.models})

    def _take(self, values: dict[str, Any], now: float) -> None:
        """Puts a frame into the inbox; the oldest there gives way."""
        seq = values.get("seq")
        try:
            frame = self._frame(values, now)
        except ServiceError as error:
            self._put(self.problem(error) | {"seq": seq if isinstance(seq, int) else None})
            return
        self._last_seq = frame.seq
        if len(self._inbox) == INBOX_FRAMES:
            self._drop()
        self._inbox.append(frame)
        self._news.set()

    def _frame(self, values: dict[str, Any], now: float) -> _Frame:
        known = ["seq", "time", "keypoints", "people"]
        if unknown := [name for name in values if name not in known]:
            message = f"unknown field `{unknown[0][:80]}`; known are {', '.join(known)}"
            raise OutOfRange(message, field=unknown[0][:80], limit=known)
        seq, time = values.get("seq"), values.get("time")
        least = 0 if self._last_seq is None else self._last_seq + 1
        if not isinstance(seq, int) or isinstance(seq, bool) or not least <= seq < 2**53:
            message = f"`seq` must be a whole number from {least} on, rising from frame to frame; got {str(seq)[:40]}"
            raise OutOfRange(message, field="seq", limit=least)
        if time is None:
            time = seq / self._fps
        elif isinstance(time, bool) or not isinstance(time, int | float) or not abs(time) <= 1e12:
            raise OutOfRange(f"`time` must be finite seconds; got {str(time)[:40]}", field="time", limit="finite")
        one, several = values.get("keypoints"), values.get("people")
        if (one is None) == (several is None):
            message = "a frame needs either `keypoints` or `people`, not both and not neither"
            raise OutOfRange(message, field="keypoints")
        limit = self._service.settings.max_people
        if several is not None and (not isinstance(several, list) or len(several) > limit):
            raise TooLarge(f"`people` must be a list of at most {limit} people", field="people", limit=limit)
        named = [("keypoints", one)] if several is None else [(f"people[{n}]", each) for n, each in enumerate(several)]
        people = [read_points([each], self._joints, name)[0] for name, each in named]
        return _Frame(seq, float(time), people, now)

    # ---- Computing

    async def _compute(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._inbox:
                if self._ended:
                    await self._tell_the_rest(dataclasses.replace(call, deadline=loop.time() + FRAME_DEADLINE_S))
                    self._put(self._goodbye("done"))
                    await asyncio.Event().wait()  # the sender closes once that is out
                self._news.clear()
                await self._news.wait()
                continue
            frame = self._inbox.popleft()
            one = dataclasses.replace(call, deadline=frame.arrived + FRAME_DEADLINE_S)
            if self._options and abs(frame.time - self._last_time) > PAUSE_S:
                await self._tell_the_rest(one)
                self._live = self._service.live(self._options)
            self._last_time = frame.time
            assert self._live is not None
            self._arrivals[frame.seq] = frame.arrived
            if len(self._arrivals) > 1000:
                del self._arrivals[next(iter(self._arrivals))]
            try:
                poses = await self._live.add(frame.seq, frame.time, frame.people, one)
            except ServiceError as error:
                self._put(self.problem(error) | {"seq": frame.seq})
                continue
            for pose in poses:
                self._tell(pose)

    async def _tell_the_rest(self, call: Call) -> None:
        """The poses that still waited for frames to come; none is dropped for another of them."""
        if self._live is None:
            return
        try:
            poses = await self._live.rest(call)
        except ServiceError as error:
            self._put(self.problem(error))
            return
        for pose in poses:
            while len(self._outbox) >= OUTBOX_POSES:  # the sender's own time-out ends this where nobody reads
                await asyncio.sleep(0.005)
            self._tell(pose)

    def _tell(self, pose: LivePose) -> None:
        now = asyncio.get_running_loop().time()
        age_s = now - self._arrivals.get(pose.seq, now)
        self._service.metrics.live_frame_age_seconds.observe(age_s)
        people = [lifted_fields(person) for person in pose.people]
        self._answered += 1
        age_ms = round(1000 * age_s, 2)
        self._put({"type": "pose", "seq": pose.seq, "time": pose.time, "people": people, "age_ms": age_ms})

    def _drop(self) -> None:
        self._dropped += 1
        self._service.metrics.dropped_frames_total.inc()

    # ---- Sending

    def problem(self, error: Exception) -> dict[str, Any]:
        """An `error` message; the stream goes on after it."""
        return {"type": "error", "problem": problem_document(error, self._request_id)}

    def _goodbye(self, reason: str) -> dict[str, Any]:
        return {"type": "ended", "reason": reason, "frames": self._answered}

    def _put(self, message: dict[str, Any]) -> None:
        """Queues a message. A slow reader loses the oldest poses first, then whatever is oldest."""
        if len(self._outbox) >= OUTBOX_POSES:
            poses = [index for index, queued in enumerate(self._outbox) if queued["type"] == "pose"]
            del self._outbox[poses[0] if poses else 0]
            self._drop()
        self._outbox.append(message)
        self._answers.set()

    async def _send(self) -> None:
        while True:
            while self._outbox:
                message = self._outbox.popleft()
                try:
                    async with asyncio.timeout(SEND_STALL_S):
                        await self._write(message)
                except TimeoutError:
                    raise _Close(RULES_BROKEN, f"nothing was read for {SEND_STALL_S:g} s") from None
                if message["type"] == "ended":
                    raise _Close(DONE, "")
            self._answers.clear()
            await self._answers.wait()

    async def _write(self, message: dict[str, Any]) -> None:
        if message["type"] in ("pose", "ended"):
            message = message | {"dropped": self._dropped}
        body = orjson.dumps(message, default=str, option=orjson.OPT_SERIALIZE_NUMPY)
        if self._binary:
            await self._socket.send_bytes(msgpack.packb(orjson.loads(body)))
        else:
            await self._socket.send_text(body.decode())

    async def say(self, message: dict[str, Any]) -> None:
        """A last message, for as long as somebody may still read it."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._write(message)
        except (TimeoutError, RuntimeError, WebSocketDisconnect):
            return

    async def close(self, close: _Close) -> None:
        """Closes with its code; a reader that has stopped reading gets no more than GOODBYE_S."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._socket.close(close.code, close.reason.encode()[:120].decode(errors="ignore"))
        except (TimeoutError, RuntimeError, WebSocketDisconnect):
            return
