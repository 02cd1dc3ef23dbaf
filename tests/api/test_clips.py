"""POST /v1/clips: lines as they come, one last line, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import errors
from service.api import clips

from .conftest import Served, client_of, wait_until
from .fake import FakeService

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_a_clip_is_told_from_start_to_end(client: httpx.AsyncClient, clip: bytes, spool: Path) -> None:
    answer = await client.post("/v1/clips?raw=true", content=clip, headers={"Content-Type": "video/mp4"})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-ndjson"
    start, *frames, end = lines(answer)
    assert (start["type"], start["size"], start["frames"], start["rate"]) == ("start", [64, 48], 12, 10)
    assert {"camera", "models", "skeletons", "units"} <= set(start)
    assert [frame["index"] for frame in frames] == list(range(12))
    (person,) = frames[3]["people"]
    assert {"id", "track", "box", "score", "keypoints", "keypoints_raw", "joints3d", "swapped", "filled"} <= set(person)
    assert end["type"] == "end" and end["frames"] == 12
    assert (end["tracks"], end["merged"], end["camera_to_world"], end["reason"]) == ([], {}, None, "no floor")
    assert end["timings_ms"] == {"pose": 11 * 1.5}
    assert list(spool.iterdir()) == []


async def test_a_form_brings_its_options(client: httpx.AsyncClient, clip: bytes) -> None:
    answer = await client.post("/v1/clips", files={"clip": clip, "options": b'{"raw": true}'})
    assert "keypoints_raw" in lines(answer)[1]["people"][0]


@pytest.mark.parametrize(
    "query, body, kind, status, field",
    [
        ("", b"", "video/mp4", 400, "clip"),
        ("", b"hello there, this is text", "video/mp4", 415, "clip"),
        ("", b"hello", "text/plain", 415, "Content-Type"),
        ("?every=0", b"x", "video/mp4", 422, "every"),
        ("?start=2&end=1", b"x", "video/mp4", 422, "end"),
        ("?boxes=[]", b"x", "video/mp4", 422, "boxes"),
    ],
)
async def test_what_is_wrong_before_the_first_line_is_an_ordinary_problem(
    client: httpx.AsyncClient, clip: bytes, spool: Path, query: str, body: bytes, kind: str, status: int, field: str
) -> None:
    answer = await client.post(f"/v1/clips{query}", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text
    assert list(spool.iterdir()) == []
    assert (await client.post("/v1/clips", content=clip)).status_code == 200


async def test_a_clip_over_the_limits_is_too_large(clip: bytes, spool: Path) -> None:
    async with client_of(FakeService(max_clip_frames=11)) as client:
        frames = await client.post("/v1/clips", content=clip)
    async with client_of(FakeService(max_clip_mb=1)) as client:
        size = await client.post("/v1/clips", content=clip.ljust(2**20 + 1, b"\0"))
    assert (frames.status_code, frames.json()["limit"]) == (413, 11)
    assert (size.status_code, size.json()["limit"]) == (413, 2**20)
    assert list(spool.iterdir()) == []


async def test_what_breaks_later_is_the_last_line_with_the_last_whole_frame(
    client: httpx.AsyncClient, service: FakeService, clip: bytes, spool: Path
) -> None:
    service.work.error = errors.EngineFailed("secret")
    answer = await client.post("/v1/clips", content=clip)
    assert answer.status_code == 200
    *_, frame, last = lines(answer)
    assert (frame["type"], frame["index"], last["type"], last["last_frame"]) == ("frame", 0, "error", 0)
    assert last["problem"]["status"] == 500 and "secret" not in answer.text
    assert list(spool.iterdir()) == []


async def test_a_deadline_that_passes_is_the_last_line(
    client: httpx.AsyncClient, service: FakeService, clip: bytes
) -> None:
    service.work.gate = threading.Event()
    answer = await client.post("/v1/clips", content=clip, headers={"Request-Timeout-Ms": "300"})
    assert lines(answer)[-1]["problem"]["status"] == 504


async def test_whoever_waits_long_is_told_that_it_goes_on(
    client: httpx.AsyncClient, service: FakeService, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "PROGRESS_S", 0.05)
    service.work.gate = threading.Event()
    threading.Timer(0.3, service.work.gate.set).start()
    told = lines(await client.post("/v1/clips", content=clip))
    assert told[2] == {"type": "progress", "frames": 1, "time": 0.0}
    assert [line["index"] for line in told if line["type"] == "frame"] == list(range(12))
    assert told[-1]["type"] == "end"


def test_lines_come_before_the_clip_is_decoded(
    served: Callable[[FakeService], AbstractContextManager[Served]], clip: bytes
) -> None:
    service = FakeService()
    service.work.gate = threading.Event()
    with served(service) as here, httpx.stream("POST", f"{here.url}/v1/clips", content=clip) as answer:
        told = answer.iter_lines()
        assert json.loads(next(told))["type"] == "start" and json.loads(next(told))["index"] == 0
        service.work.gate.set()
        assert json.loads(list(told)[-1])["type"] == "end"


def test_a_caller_who_leaves_stops_the_work_and_leaves_no_file(
    served: Callable[[FakeService], AbstractContextManager[Served]], clip: bytes, spool: Path
) -> None:
    service = FakeService()
    service.work.gate = threading.Event()
    with served(service) as here:
        with httpx.stream("POST", f"{here.url}/v1/clips", content=clip) as answer:
            told = answer.iter_lines()
            next(told)
            wait_until(lambda: service.work.begun == 1)
        wait_until(lambda: service.work.cancelled == 1)
        wait_until(lambda: list(spool.iterdir()) == [])
        wait_until(lambda: 'route="/v1/clips",status="499"' in httpx.get(f"{here.url}/metrics").text)


def test_a_caller_who_leaves_while_progress_is_told_stops_the_work(
    served: Callable[[FakeService], AbstractContextManager[Served]], clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, telling = clips._ClipAnswer._send, threading.Event()

    async def slowly(self: Any, body: bytes, out: Any) -> None:
        await send(self, body, out)
        if b'"progress"' in body:
            telling.set()
            await asyncio.sleep(20)  # the next block is being made meanwhile

    monkeypatch.setattr(clips._ClipAnswer, "_send", slowly)
    monkeypatch.setattr(clips, "PROGRESS_S", 0.05)
    service = FakeService()
    service.work.gate = threading.Event()
    with served(service) as here:
        with httpx.stream("POST", f"{here.url}/v1/clips", content=clip) as answer:
            told = answer.iter_lines()
            next(told)
            assert telling.wait(20)
        wait_until(lambda: service.work.cancelled == 1)
        wait_until(lambda: 'route="/v1/clips",status="499"' in httpx.get(f"{here.url}/metrics").text)
