"""WS /v1/live/frames, through a foreign client on a real socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import msgpack
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from service import errors
from service.api.live_frames import MAX_FRAME_MESSAGE_BYTES

from .conftest import Served, wait_until
from .fake import BROKEN, FakeService

Serve = Callable[[FakeService], AbstractContextManager[Served]]


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def here(service: FakeService, served: Serve) -> Iterator[Served]:
    with served(service) as running:
        yield running


def dial(here: Served, **more: Any) -> AbstractContextManager[ClientConnection]:
    dialled: AbstractContextManager[ClientConnection] = connect(
        f"ws://127.0.0.1:{here.port}/v1/live/frames",
        open_timeout=5,
        close_timeout=2,
        ping_interval=None,
        proxy=None,
        **more,
    )
    return dialled


def say(socket: ClientConnection, **message: Any) -> None:
    socket.send(msgpack.packb(message))


def hear(socket: ClientConnection) -> dict[str, Any]:
    told = socket.recv(timeout=5)
    assert isinstance(told, bytes)
    values: dict[str, Any] = msgpack.unpackb(told)
    return values


def code_of(socket: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            socket.recv(timeout=5)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


@pytest.mark.parametrize("protocols", [None, ["poselift.v1.msgpack"], ["poselift.v1.json", "poselift.v1.msgpack"]])
def test_pictures_are_answered_with_tracked_people(here: Served, photo: bytes, protocols: list[str] | None) -> None:
    with dial(here, subprotocols=protocols) as socket:
        say(socket, type="start", fps=15, states=True, max_people=2)
        started = hear(socket)
        assert started["type"] == "started" and set(started["models"]) == {"person", "pose", "lift"}
        for seq in range(3):
            say(socket, type="frame", seq=seq, image=photo)
            pose = hear(socket)
            assert (pose["type"], pose["seq"], pose["dropped"]) == ("pose", seq, 0)
            assert pose["time"] == pytest.approx(seq / 15)
            (someone,) = pose["people"]
            assert {"id", "track", "box", "score", "keypoints", "states", "joints3d", "position"} <= set(someone)
        say(socket, type="end")
        assert hear(socket)["frames"] == 3 and code_of(socket) == 1000


def test_a_broken_picture_is_no_other_frames_error(here: Served, service: FakeService, photo: bytes) -> None:
    service.work.gate = threading.Event()
    with dial(here) as socket:
        say(socket, type="start", fps=30)
        assert hear(socket)["type"] == "started"
        say(socket, type="frame", seq=0, image=photo)
        wait_until(lambda: service.work.begun == 1)
        say(socket, type="frame", seq=1, image=BROKEN)  # both come while the first is computed
        say(socket, type="frame", seq=2, image=photo)
        socket.ping().wait(5)
        service.work.gate.set()
        told = [hear(socket) for _ in range(3)]
        assert [(each["type"], each["seq"]) for each in told] == [("pose", 0), ("error", 1), ("pose", 2)]


def test_text_is_not_spoken_here(here: Served) -> None:
    with dial(here) as socket:
        socket.send("{}")
        assert code_of(socket) == 1007
    with dial(here, subprotocols=["poselift.v1.json"]) as socket:
        assert code_of(socket) == 1008


@pytest.mark.parametrize(
    "more, field",
    [({}, "image"), ({"image": "text"}, "image"), ({"image": b""}, "image"), ({"keypoints": []}, "keypoints")],
)
def test_a_wrong_frame_is_told_and_the_stream_goes_on(
    here: Served, photo: bytes, more: dict[str, Any], field: str
) -> None:
    with dial(here) as socket:
        say(socket, type="start")
        assert hear(socket)["type"] == "started"
        say(socket, type="frame", seq=0, **more)
        told = hear(socket)
        assert (told["type"], told["seq"], told["problem"]["field"]) == ("error", 0, field)
        say(socket, type="frame", seq=1, image=photo)
        assert hear(socket)["seq"] == 1


def test_a_picture_that_cannot_be_read_is_told_by_its_number(here: Served, service: FakeService, photo: bytes) -> None:
    with dial(here) as socket:
        say(socket, type="start")
        assert hear(socket)["type"] == "started"
        service.work.error = errors.Unreadable("`image` begins as jpeg, but is broken or cut off", field="image")
        say(socket, type="frame", seq=4, image=photo)
        told = hear(socket)
        assert (told["type"], told["seq"], told["problem"]["status"]) == ("error", 4, 400)


def test_a_pause_of_the_streams_clock_begins_anew(here: Served, service: FakeService, photo: bytes) -> None:
    with dial(here) as socket:
        say(socket, type="start")
        for seq, time in enumerate((0.0, 0.5, 9.0)):
            say(socket, type="frame", seq=seq, time=time, image=photo)
            wait_until(lambda seq=seq: service.work.begun == seq + 1)  # type: ignore[misc]
        assert service.frames.forgot == 1


def test_a_message_over_the_limit_is_too_large(here: Served) -> None:
    with dial(here, max_size=None) as socket:
        say(socket, type="start")
        say(socket, type="frame", seq=0, image=b"x" * (MAX_FRAME_MESSAGE_BYTES + 1))
        assert code_of(socket) == 1009
