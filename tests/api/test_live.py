"""WS /v1/live/keypoints, through a foreign client on a real socket."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, cast

import httpx
import msgpack
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from service import errors
from service.api import live_stream
from service.api.app import create_app
from service.api.live import MAX_MESSAGE_BYTES

from .conftest import Served, wait_until
from .fake import FakeService

if TYPE_CHECKING:
    from service.assembly import Service

Serve = Callable[[FakeService], AbstractContextManager[Served]]
START = {"type": "start", "skeleton": "coco17", "image_size": [640, 480]}
POINTS = [[1.0, 2.0, 0.5]] * 17


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def here(service: FakeService, served: Serve) -> Iterator[Served]:
    with served(service) as running:
        yield running


def dial(here: Served, **more: Any) -> AbstractContextManager[ClientConnection]:
    dialled: AbstractContextManager[ClientConnection] = connect(
        f"ws://127.0.0.1:{here.port}/v1/live/keypoints",
        open_timeout=5,
        close_timeout=2,
        ping_interval=None,
        proxy=None,
        **more,
    )
    return dialled


def say(socket: ClientConnection, *messages: dict[str, Any]) -> None:
    for message in messages:
        socket.send(json.dumps(message))


def hear(socket: ClientConnection) -> dict[str, Any]:
    told = socket.recv(timeout=5)
    values: dict[str, Any] = json.loads(told) if isinstance(told, str) else msgpack.unpackb(told)
    return values


def frame(seq: int) -> dict[str, Any]:
    return {"type": "frame", "seq": seq, "time": seq / 30, "keypoints": POINTS}


def code_of(socket: ClientConnection) -> int:
    """Hears until the server closes."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            socket.recv(timeout=5)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def test_frames_are_answered_and_the_end_is_told(here: Served, service: FakeService) -> None:
    with dial(here) as socket:
        say(socket, START)
        assert hear(socket)["type"] == "started"
        for seq in range(3):
            say(socket, frame(seq))
            pose = hear(socket)
            assert (pose["type"], pose["seq"], pose["dropped"]) == ("pose", seq, 0)
            assert len(pose["people"][0]["joints3d"]) == 17 and 0 <= pose["age_ms"] < 1000
        say(socket, {"type": "frame", "seq": 9, "people": [POINTS, POINTS]})
        assert len(hear(socket)["people"]) == 2
        say(socket, {"type": "end"})
        ended = hear(socket)
        assert (ended["type"], ended["frames"], ended["dropped"]) == ("ended", 4, 0)
        assert code_of(socket) == 1000
    wait_until(lambda: service.streams == 0)


def test_msgpack_says_the_same_in_binary(here: Served) -> None:
    with dial(here, subprotocols=["poselift.v1.msgpack"]) as socket:
        assert socket.subprotocol == "poselift.v1.msgpack"
        for message in (START, frame(0)):
            socket.send(msgpack.packb(message))
        assert hear(socket)["type"] == "started" and hear(socket)["type"] == "pose"
        socket.send("{}")
        assert code_of(socket) == 1007


@pytest.mark.parametrize(
    "more, field",
    [
        ({"keypoints": POINTS[:16]}, "keypoints"),
        ({"keypoints": None}, "keypoints"),
        ({"seq": 4}, "seq"),
        ({"seq": True}, "seq"),
        ({"time": "now"}, "time"),
        ({"time": 1e13}, "time"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_wrong_frame_is_told_and_the_stream_goes_on(here: Served, more: dict[str, Any], field: str) -> None:
    with dial(here) as socket:
        say(socket, START, frame(5))
        assert [hear(socket)["type"] for _ in range(2)] == ["started", "pose"]
        say(socket, frame(6) | more)
        told = hear(socket)
        assert (told["type"], told["problem"]["status"], told["problem"]["field"]) == ("error", 422, field)
        say(socket, frame(7))
        assert hear(socket)["seq"] == 7


@pytest.mark.parametrize(
    "more, says",
    [
        ({"keypoints": POINTS[:16]}, "`keypoints` must be 17 joints x 2 or 3; got 16 x"),
        ({"keypoints": [[1, 2], "here", *POINTS[2:]]}, "`keypoints[1]` must be null, or 2 or 3 numbers"),
        ({"keypoints": [*POINTS[:16], [float("nan"), 2, 0.5]]}, "`keypoints[16][0]` must be a number; got NaN"),
        ({"keypoints": None, "people": [POINTS, POINTS[:3]]}, "`people[1]` must be 17 joints x 2 or 3; got 3 x"),
        ({"type": None}, "must be one of start, frame, end; got None"),
    ],
)
def test_what_is_wrong_is_told_by_its_place_in_the_frame(here: Served, more: dict[str, Any], says: str) -> None:
    with dial(here, subprotocols=["poselift.v1.msgpack"]) as socket:
        for message in (START, frame(0) | more):
            socket.send(msgpack.packb(message))
        assert hear(socket)["type"] == "started"
        assert says in hear(socket)["problem"]["detail"]


def test_a_failure_inside_is_told_without_detail_and_the_stream_goes_on(here: Served, service: FakeService) -> None:
    with dial(here) as socket:
        service.work.error = errors.NotFinite("secret")
        say(socket, START, frame(0))
        assert hear(socket)["type"] == "started"
        told = hear(socket)
        assert told["problem"]["status"] == 500 and "secret" not in str(told)
        service.work.error = None
        say(socket, frame(1))
        assert hear(socket)["type"] == "pose"


def test_a_failure_is_told_of_every_frame_that_had_joined_the_pass(here: Served, service: FakeService) -> None:
    service.work.gate = threading.Event()
    service.work.error = errors.NotFinite("secret")
    with dial(here) as socket:
        say(socket, START, frame(0))
        assert hear(socket)["type"] == "started"
        wait_until(lambda: service.work.begun == 1)
        say(socket, frame(1), frame(2), frame(-1))
        assert hear(socket)["problem"]["field"] == "seq"  # so the others have come, too
        service.work.gate.set()
        told = [hear(socket) for _ in range(3)]
        assert [(one["seq"], one["problem"]["status"]) for one in told] == [(0, 500), (1, 500), (2, 500)]
        service.work.error = None
        say(socket, frame(3))
        assert hear(socket)["seq"] == 3


def test_a_failure_is_not_told_of_frames_that_are_still_to_be_answered(here: Served, service: FakeService) -> None:
    service.work.gate, service.work.error, service.work.pending = threading.Event(), errors.NotFinite("secret"), {1}
    with dial(here) as socket:
        say(socket, START, frame(0))
        assert hear(socket)["type"] == "started"
        wait_until(lambda: service.work.begun == 1)
        say(socket, frame(1), frame(2), frame(-1))
        assert hear(socket)["problem"]["field"] == "seq"
        service.work.gate.set()
        assert [hear(socket)["seq"] for _ in range(2)] == [0, 2]
        service.work.pending = set()  # and now it is lost, with the frame that fails next
        say(socket, frame(3))
        assert [hear(socket)["seq"] for _ in range(2)] == [1, 3]


def test_who_reads_misses_none_of_many_poses_that_come_at_once(here: Served, service: FakeService) -> None:
    service.work.older = 30
    with dial(here) as socket:
        say(socket, START, frame(0), {"type": "end"})
        assert hear(socket)["type"] == "started"
        poses = [hear(socket) for _ in range(31)]
        assert [pose["seq"] for pose in poses] == [*range(-30, 1)]
        ended = hear(socket)
        assert (ended["frames"], ended["dropped"]) == (31, 0)


def test_a_truth_value_is_no_seq(here: Served) -> None:
    with dial(here) as socket:
        say(socket, START, frame(0) | {"seq": True})
        assert hear(socket)["type"] == "started"
        told = hear(socket)
        assert told["problem"]["field"] == "seq" and told["seq"] is None


def test_a_wrong_start_may_be_corrected(here: Served) -> None:
    with dial(here) as socket:
        say(socket, START | {"skeleton": "spider"})
        assert hear(socket)["problem"]["field"] == "skeleton"
        say(socket, START | {"speed": 1})
        assert hear(socket)["problem"]["field"] == "speed"
        say(socket, START | {"models": {"lift": "nope"}})
        assert (told := hear(socket)["problem"])["field"] == "models.lift" and told["status"] == 404
        say(socket, START | {"mirrored": True, "models": {"lift": "lifter"}})
        assert hear(socket)["type"] == "started"


@pytest.mark.parametrize(
    "messages, code",
    [
        (["{"], 1007),
        (["[1]"], 1007),
        ([b"\xc1"], 1007),
        (["x" * (MAX_MESSAGE_BYTES + 1)], 1009),
    ],
)
def test_broken_rules_have_their_close_code(here: Served, messages: list[str | bytes], code: int) -> None:
    with dial(here) as socket:
        for message in messages:
            socket.send(message)
        assert code_of(socket) == code


@pytest.mark.parametrize(
    "messages, field",
    [
        ([frame(0)], "type"),
        ([START, START], "type"),
        ([START, {"type": "dance"}], "type"),
        ([START, {"seq": 1}], "type"),
        ([START, frame(0) | {"keypoints": [[1e400, 2, 0.5]] * 17}], "keypoints"),
    ],
)
def test_a_message_out_of_turn_is_told_and_the_stream_goes_on(
    here: Served, messages: list[dict[str, Any]], field: str
) -> None:
    with dial(here, subprotocols=["poselift.v1.msgpack"]) as socket:
        for message in messages:
            socket.send(msgpack.packb(message))
        told = [hear(socket) for _ in messages][-1]
        assert (told["type"], told["problem"]["status"], told["problem"]["field"]) == ("error", 422, field)
        for message in (START, frame(7)) if len(messages) == 1 else (frame(7),):
            socket.send(msgpack.packb(message))
        heard = [hear(socket) for _ in range(3 - len(messages))]
        assert heard[-1]["type"] == "pose" and heard[-1]["seq"] == 7


@pytest.mark.parametrize("binary", [False, True])
def test_what_is_told_back_may_be_half_a_character_or_a_number_beyond_64_bits(here: Served, binary: bool) -> None:
    with dial(here, **({"subprotocols": ["poselift.v1.msgpack"]} if binary else {})) as socket:
        wrong: list[dict[str, Any]] = [frame(0) | {"seq": -(2**63)}] if binary else [frame(0) | {"\ud800": 1}]
        for message in (START, *wrong, frame(1)):
            socket.send(msgpack.packb(message) if binary else json.dumps(message))
        if not binary:  # the NaN has it read by Python's parser, which knows no largest number
            socket.send(json.dumps(frame(2) | {"seq": 10**30, "time": float("nan")}))
        heard = [hear(socket) for _ in range(3 if binary else 4)]
        assert sorted(told["type"] for told in heard) == [*["error"] * (1 if binary else 2), "pose", "started"]
        assert all(told["problem"]["status"] == 422 for told in heard if told["type"] == "error")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
def test_a_json_frame_with_a_number_that_is_none_is_told_and_the_stream_goes_on(here: Served, number: str) -> None:
    with dial(here) as socket:
        say(socket, START)
        assert hear(socket)["type"] == "started"
        socket.send(json.dumps(frame(0)).replace('"keypoints": [[', f'"keypoints": [[{number}, 2, 0.5], [', 1))
        told = hear(socket)
        assert (told["type"], told["problem"]["status"], told["problem"]["field"]) == ("error", 422, "keypoints")
        say(socket, frame(7))
        assert hear(socket)["seq"] == 7


def test_a_flood_of_messages_breaks_the_rules(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_stream, "MESSAGES_A_S", 20)
    with dial(here) as socket:
        with suppress(ConnectionClosed):  # it may be closed before all of them are sent
            say(socket, START, *(frame(seq) for seq in range(60)))
        assert code_of(socket) == 1008


def test_a_stream_does_not_last_for_ever(served: Serve) -> None:
    with served(FakeService(live_max_s=0.2)) as here, dial(here) as socket:
        say(socket, START)
        assert code_of(socket) == 1001


def test_the_newest_frame_wins_and_what_is_dropped_is_told(here: Served, service: FakeService) -> None:
    service.work.gate = threading.Event()
    with dial(here) as socket:
        say(socket, START, frame(0))
        assert hear(socket)["type"] == "started"
        wait_until(lambda: service.work.begun == 1)
        say(socket, *(frame(seq) for seq in range(1, 11)))
        wait_until(lambda: "dropped_frames_total 8.0" in httpx.get(f"{here.url}/metrics").text)
        service.work.gate.set()
        poses = [hear(socket) for _ in range(3)]
        assert [pose["seq"] for pose in poses] == [0, 9, 10]
        assert poses[-1]["dropped"] == 8


def test_a_reader_that_stops_reading_is_let_go(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_stream, "SEND_STALL_S", 0.2)
    monkeypatch.setattr(live_stream, "GOODBYE_S", 0.1)

    async def stream() -> list[str]:
        """A client whose socket takes nothing after `started`; the server's sends then wait for ever."""
        came: list[str] = []
        said = [{"type": "websocket.connect"}] + [
            {"type": "websocket.receive", "text": json.dumps(message)} for message in (START, *map(frame, range(5)))
        ]

        async def receive() -> dict[str, Any]:
            if said:
                return said.pop(0)
            await asyncio.Event().wait()
            raise AssertionError("never")

        async def send(message: MutableMapping[str, Any]) -> None:
            came.append(message["type"])
            if came.count("websocket.send") > 1:
                await asyncio.Event().wait()

        scope = {
            "type": "websocket",
            "path": "/v1/live/keypoints",
            "raw_path": b"/v1/live/keypoints",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "subprotocols": [],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "scheme": "ws",
            "root_path": "",
        }
        async with asyncio.timeout(10):
            await create_app(cast("Service", service))(scope, receive, send)
        return came

    came = asyncio.run(stream())
    assert came[:2] == ["websocket.accept", "websocket.send"]
    assert service.streams == 0


def test_a_silent_stream_is_closed(served: Serve) -> None:
    with served(FakeService(live_idle_s=0.1)) as here, dial(here) as socket:
        assert code_of(socket) == 1001


def test_one_stream_too_many_is_told_to_come_back_later(served: Serve) -> None:
    with served(FakeService(live_streams=1)) as here, dial(here) as first:
        say(first, START)
        assert hear(first)["type"] == "started"
        with dial(here) as second:
            assert hear(second)["problem"]["status"] == 503
            assert code_of(second) == 1013
        say(first, frame(0))
        assert hear(first)["type"] == "pose"


def test_a_caller_who_vanishes_frees_its_place(here: Served, service: FakeService) -> None:
    service.work.gate = threading.Event()
    with dial(here) as socket:
        say(socket, START, frame(0))
        wait_until(lambda: service.work.begun == 1)
        socket.socket.shutdown(2)
        wait_until(lambda: service.streams == 0)
    assert service.work.cancelled == 1


def test_a_stream_needs_a_key_where_there_are_keys(served: Serve) -> None:
    with served(FakeService(keys=("one",))) as here:
        with pytest.raises(InvalidStatus) as refused:
            dial(here)
        assert refused.value.response.status_code == 401
        with dial(here, additional_headers={"Authorization": "Bearer one"}) as socket:
            say(socket, START)
            assert hear(socket)["type"] == "started"


def test_draining_says_goodbye_before_it_closes(served: Serve) -> None:
    service = FakeService()
    with served(service) as here, dial(here) as socket:
        say(socket, START)
        assert hear(socket)["type"] == "started"
        started = time.monotonic()
        here.stop()
        told = hear(socket)
        assert (told["type"], told["reason"]) == ("ended", "draining")
        assert code_of(socket) == 1012
        here.thread.join(5)
        assert time.monotonic() - started < 3 and here.server.exit_code == 0
