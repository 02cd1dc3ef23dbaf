"""What the live doors share: messages in and out, the inbox in which the newest wins, ages, limits, and the end.

Three tasks a stream: one reads, one computes, one sends. Whoever ends first names the close code. Times are seconds,
ages milliseconds. What a frame holds, and what is computed of it, a door's own class knows.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgpack
import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from service.errors import Busy, OutOfRange, QueueFull, ServiceError
from service.pipelines.call import Call, Class

from .access import KEY_PROTOCOL, Doors, begin_call
from .problems import problem_document
from .schemas import shown

if TYPE_CHECKING:
    from service.assembly import Service

JSON, MSGPACK = "poselift.v1.json", "poselift.v1.msgpack"
MESSAGES_A_S = 500  # more than any camera sends; they are parsed on the loop
INBOX_FRAMES = 2  # one being computed, and the newest two behind it
OUTBOX_POSES = 8  # for a reader that pauses; one that is slow for good must see what is new
SEND_PAUSE_S = 0.005  # in which the sender empties the outbox of whoever reads
SEND_STALL_S = 10.0  # a reader that takes nothing for so long is gone
GOODBYE_S = 2.0
FRAME_DEADLINE_S = 5.0  # an older pose is worth nothing
FARTHEST_S = 1e12  # of a frame's time from 0
PAUSE_S = 2.0  # of stream time: after it, people are followed anew rather than across the gap

DONE, GOING_AWAY, NOT_PARSED, RULES_BROKEN, TOO_BIG, OUR_FAULT, DRAINING, FULL = (
    *(1000, 1001, 1007, 1008, 1009),
    *(1011, 1012, 1013),
)


class Close(Exception):
    """Ends the stream with a close code and a reason of at most 123 bytes."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Answer(Protocol):
    """A frame that is answered."""

    @property
    def seq(self) -> int: ...

    @property
    def time(self) -> float: ...


class Live(Protocol):
    """A stream's pipeline: takes the frames' content, and answers those that are due."""

    async def add_all(self, frames: Sequence[tuple[int, float, Any]], call: Call, /) -> Sequence[Answer]: ...

    async def rest(self, call: Call) -> Sequence[Answer]: ...

    @property
    def pending(self) -> set[int]:
        """seq of the frames that it has taken and will answer."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """content: as the stream's pipeline takes it. arrived: on the loop's clock."""

    seq: int
    time: float
    content: Any
    arrived: float


async def serve_stream(socket: WebSocket, stream_of: Callable[..., Stream], protocols: tuple[str, ...]) -> None:
    """Serves one stream from its acceptance to its close code."""
    service: Service = socket.app.state.service
    doors: Doors = socket.app.state.doors
    offered = [one for one in socket.scope.get("subprotocols", []) if not one.startswith(KEY_PROTOCOL)]
    protocol = next((one for one in offered if one in protocols), None)
    await socket.accept(protocol)
    stream = stream_of(socket, service, doors, protocol if len(protocols) > 1 else protocols[0])
    if offered and protocol is None:
        await stream.close(Close(RULES_BROKEN, f"subprotocols are {' and '.join(protocols)}"))
        return
    try:
        call = begin_call(socket, Class.LIVE)
        service.open_stream()
    except ServiceError as error:
        if isinstance(error, QueueFull):
            service.metrics.shed_total.labels(type(error).__name__).inc()
        await stream.say(stream.problem(error))
        code = DRAINING if doors.closing.is_set() else FULL if isinstance(error, Busy) else RULES_BROKEN
        await stream.close(Close(code, str(error)))
        return
    try:
        await stream.run(call)
    finally:
        service.close_stream()


def _encoded(message: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(message, default=str, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # half a character or a number of more than 64 bits of the caller's, told back to it
        return json.dumps(message, ensure_ascii=False, default=str).encode("utf-8", "replace")


def _json(text: str) -> Any:
    """A message's values; NaN and numbers too large come through, to be refused by their field like any other value."""
    try:
        return orjson.loads(text)
    except ValueError:
        return json.loads(text)


class Stream(ABC):
    """One stream. A door says what its messages hold by the four abstract methods.

    live: the pipeline, once the start was right. fps: of the frames, which tells the times of those without one.
    """

    max_message_bytes: ClassVar[int]
    holds: ClassVar[tuple[str, ...]]  # the fields of a frame beside `seq` and `time`
    together: ClassVar[bool] = True  # frames that came while one was computed share a pass, and its error

    @abstractmethod
    def begin(self, values: dict[str, Any]) -> dict[str, str]:
        """Makes `live` and `fps` of a `start`, and tells the models by role. Raises ServiceError."""

    @abstractmethod
    def begin_anew(self) -> None:
        """After a pause of the stream's clock: nobody is followed across it."""

    @abstractmethod
    def content_of(self, values: dict[str, Any]) -> Any:
        """What the pipeline takes of a frame. Raises ServiceError."""

    @abstractmethod
    def people_of(self, answer: Any) -> list[dict[str, Any]]:
        """A pose's people."""

    # ---- The same for all

    def __init__(self, socket: WebSocket, service: Service, doors: Doors, protocol: str | None) -> None:
        self._socket, self.service, self._doors = socket, service, doors
        self._binary: bool | None = None if protocol is None else protocol == MSGPACK
        self._request_id: str = socket.scope.get("request_id", "")
        self._inbox: deque[Frame] = deque(maxlen=INBOX_FRAMES)
        self._outbox: deque[dict[str, Any]] = deque()
        self._news, self._answers = asyncio.Event(), asyncio.Event()
        self._ended = False  # the client said `end`
        self._arrivals: dict[int, float] = {}  # seq to when it came, of those that are computed and not told yet
        self._dropped = 0
        self._answered = 0
        self._last_seq: int | None = None
        self._last_time = 0.0
        self._second, self._messages = 0, 0  # how many came in this second of the loop's clock
        self.fps = 0.0
        self.live: Live | None = None

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
        close = next((failure for failure in failures if isinstance(failure, Close)), None)
        if close is None:
            error = failures[0] if failures else RuntimeError("a stream's task ended without a word")
            await self.say(self.problem(error))
            close = Close(OUR_FAULT, "the fault is on our side")
        if close.code == DRAINING:
            await self.say(self._goodbye("draining"))
        await self.close(close)

    async def _wait_for_the_end(self) -> None:
        longest_s = self.service.settings.live_max_s
        try:
            async with asyncio.timeout(longest_s):
                await self._doors.closing.wait()
        except TimeoutError:
            raise Close(GOING_AWAY, f"a stream may last {longest_s:g} s: begin a new one") from None
        raise Close(DRAINING, "the service drains: come back to another replica")

    # ---- Reading

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        idle_s = self.service.settings.live_idle_s
        while True:
            try:
                async with asyncio.timeout(idle_s):
                    message = await self._socket.receive()
            except TimeoutError:
                raise Close(GOING_AWAY, f"nothing came for {idle_s:g} s") from None
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            self._count(loop.time())
            values = self._parse(message)
            kind = values.pop("type", None)
            if self._ended:
                raise Close(RULES_BROKEN, "a message came after `end`")
            if kind == "end":
                self._ended = True
                self._news.set()
                continue
            try:
                self._obey(kind, values, loop.time())
            except ServiceError as error:
                seq = values.get("seq")
                whole = isinstance(seq, int) and not isinstance(seq, bool)
                told = {"seq": seq if whole else None} if kind == "frame" else {}
                self._put(self.problem(error) | told)

    def _obey(self, kind: object, values: dict[str, Any], now: float) -> None:
        """Does what a message says. Raises OutOfRange, and others, for one that is wrong: the stream goes on."""
        if kind == "start":
            if self.live is not None:
                raise OutOfRange("`start` comes once; this stream has begun", field="type", limit=["frame", "end"])
            models = self.begin(values)
            self._put({"type": "started", "request_id": self._request_id, "models": models})
        elif kind == "frame":
            if self.live is None:
                raise OutOfRange("`frame` came before `start`", field="type", limit=["start"])
            self._take(values, now)
        else:
            known = ["start", "frame", "end"]
            raise OutOfRange(f"`type` must be one of {', '.join(known)}; got {shown(kind)}", field="type", limit=known)

    def _count(self, now: float) -> None:
        second = int(now)
        self._messages = self._messages + 1 if second == self._second else 1
        self._second = second
        if self._messages > MESSAGES_A_S:
            raise Close(RULES_BROKEN, f"more than {MESSAGES_A_S} messages came in a second")

    def _parse(self, message: Any) -> dict[str, Any]:
        text, body = message.get("text"), message.get("bytes")
        binary = text is None
        if self._binary is None:  # no subprotocol: the first message decides
            self._binary = binary
        if binary != self._binary:
            raise Close(NOT_PARSED, "text is JSON, binary is msgpack, and a stream speaks one of them")
        if len(body if text is None else text) > self.max_message_bytes:
            raise Close(TOO_BIG, f"a message may have at most {self.max_message_bytes} bytes")
        try:
            values = msgpack.unpackb(body) if text is None else _json(text)
        except Exception:  # a stranger's message: the unpacker raises many kinds
            raise Close(NOT_PARSED, f"a message is not {'msgpack' if binary else 'JSON'}") from None
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise Close(NOT_PARSED, "a message must be one object with named fields")
        return values

    def _take(self, values: dict[str, Any], now: float) -> None:
        """Puts a frame into the inbox; the oldest there gives way."""
        frame = self._frame(values, now)
        self._last_seq = frame.seq
        if len(self._inbox) == INBOX_FRAMES:
            self._drop()
        self._inbox.append(frame)
        self._news.set()

    def _frame(self, values: dict[str, Any], now: float) -> Frame:
        known = ["seq", "time", *self.holds]
        if unknown := [name for name in values if name not in known]:
            message = f"unknown field `{unknown[0][:80]}`; known are {', '.join(known)}"
            raise OutOfRange(message, field=unknown[0][:80], limit=known)
        seq, time = values.get("seq"), values.get("time")
        least = 0 if self._last_seq is None else self._last_seq + 1
        if not isinstance(seq, int) or isinstance(seq, bool) or not least <= seq < 2**53:
            message = f"`seq` must be a whole number from {least} on, rising from frame to frame; got {shown(seq)}"
            raise OutOfRange(message, field="seq", limit=least)
        if time is None:
            time = seq / self.fps
        elif isinstance(time, bool) or not isinstance(time, int | float) or not abs(time) <= FARTHEST_S:
            message = f"`time` must be seconds from {-FARTHEST_S:g} to {FARTHEST_S:g}; got {str(time)[:40]}"
            raise OutOfRange(message, field="time", limit=[-FARTHEST_S, FARTHEST_S])
        return Frame(seq, float(time), self.content_of(values), now)

    # ---- Computing

    async def _compute(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._inbox:
                if self._ended:
                    await self._tell_the_rest(dataclasses.replace(call, deadline=loop.time() + FRAME_DEADLINE_S))
                    await self._room()  # what is counted as answered must not give way to the goodbye
                    self._put(self._goodbye("done"))
                    await asyncio.Event().wait()  # the sender closes once that is out
                self._news.clear()
                await self._news.wait()
                continue
            first = self._inbox[0]
            one = dataclasses.replace(call, deadline=first.arrived + FRAME_DEADLINE_S)
            if abs(first.time - self._last_time) > PAUSE_S:
                await self._tell_the_rest(one)
                self.begin_anew()
                self._last_time = first.time
            assert self.live is not None
            try:
                poses = await self.live.add_all(self.newer() if self.together else [self._next()], one)
            except ServiceError as error:
                self._tell_lost(error, self.live.pending)
                continue
            for pose in poses:
                if len(self._outbox) >= OUTBOX_POSES:
                    await asyncio.sleep(SEND_PAUSE_S)  # of more than a slow reader may miss, a quick one misses none
                self._tell(pose)

    def newer(self) -> list[tuple[int, float, Any]]:
        """Takes what may share a pass with the frame before out of the inbox."""
        frames = []
        while self._inbox and abs(self._inbox[0].time - self._last_time) <= PAUSE_S:
            frames.append(self._next())
        return frames

    def _next(self) -> tuple[int, float, Any]:
        frame = self._inbox.popleft()
        self._last_time = frame.time
        self._arrivals[frame.seq] = frame.arrived
        return frame.seq, frame.time, frame.content

    async def _tell_the_rest(self, call: Call) -> None:
        """The poses that still waited for frames to come; none is dropped for another of them."""
        if self.live is None:
            return
        try:
            poses = await self.live.rest(call)
        except ServiceError as error:
            self._tell_lost(error, set())
            return
        for pose in poses:
            await self._room()
            self._tell(pose)

    async def _room(self) -> None:
        """Until another message fits into the outbox; the sender's own time-out ends this where nobody reads."""
        while len(self._outbox) >= OUTBOX_POSES:
            await asyncio.sleep(SEND_PAUSE_S)

    def _tell_lost(self, error: ServiceError, pending: set[int]) -> None:
        """Tells an error of every frame that was taken, has no answer, and will not have one."""
        for seq in [seq for seq in self._arrivals if seq not in pending]:
            del self._arrivals[seq]
            self._put(self.problem(error) | {"seq": seq})

    def _tell(self, pose: Answer) -> None:
        now = asyncio.get_running_loop().time()
        age_s = now - self._arrivals.pop(pose.seq, now)
        self.service.metrics.live_frame_age_seconds.observe(age_s)
        people = self.people_of(pose)
        self._answered += 1
        age_ms = round(1000 * age_s, 2)
        self._put({"type": "pose", "seq": pose.seq, "time": pose.time, "people": people, "age_ms": age_ms})

    def _drop(self) -> None:
        self._dropped += 1
        self.service.metrics.dropped_frames_total.inc()

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
            oldest = poses[0] if poses else 0
            lost = self._outbox[oldest]
            del self._outbox[oldest]
            self._answered -= lost["type"] == "pose"
            if "seq" in lost:
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
                    raise Close(RULES_BROKEN, f"nothing was read for {SEND_STALL_S:g} s") from None
                if message["type"] == "ended":
                    raise Close(DONE, "")
            self._answers.clear()
            await self._answers.wait()

    async def _write(self, message: dict[str, Any]) -> None:
        if message["type"] in ("pose", "ended"):
            message = message | {"dropped": self._dropped}
        body = _encoded(message)
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

    async def close(self, close: Close) -> None:
        """Closes with its code; a reader that has stopped reading gets no more than GOODBYE_S."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._socket.close(close.code, close.reason.encode()[:120].decode(errors="ignore"))
        except (TimeoutError, RuntimeError, WebSocketDisconnect):
            return
