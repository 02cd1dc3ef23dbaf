"""POST /v1/images: what comes out, and that each bad input is refused by name and harms nobody."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.api.images import wanted_kind

from .conftest import Served, client_of, wait_until
from .fake import FakeService

pytestmark = pytest.mark.anyio


def png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size; its pixels are not there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


async def test_people_come_out_as_the_interface_says(client: httpx.AsyncClient, photo: bytes) -> None:
    answer = await client.post("/v1/images?states=true", content=photo, headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document["request_id"] == answer.headers["x-request-id"]
    assert document["image"] == {"width": 64, "height": 48}
    assert document["camera"]["source"] == "assumed" and document["camera"]["center"] == [32, 24]
    assert document["skeletons"] == {"keypoints": "coco17", "joints3d": "h36m17"}
    assert set(document["models"]) == {"person", "pose", "lift"}
    (person,) = document["people"]
    assert (person["id"], person["box"], person["score"]) == (0, [1, 2, 30, 40], 0.9)
    assert len(person["keypoints"]) == len(person["joints3d"]) == len(person["states"]) == 17
    assert person["keypoints"][1] == [10.12, 20.46, 0.9877] and person["joints3d"][1] == [0.1235, 0.1235, 0.1235]
    assert person["scale"] == {"stature": 1.7, "source": "assumed"} and person["position"] is None


async def test_an_unknown_joint_is_null_and_nan_never_leaves(client: httpx.AsyncClient, photo: bytes) -> None:
    answer = await client.post("/v1/images", content=photo)
    (person,) = answer.json()["people"]
    assert person["keypoints"][0] is None and person["joints3d"][10] is None
    assert "NaN" not in answer.text


async def test_a_form_says_the_same_as_the_query(client: httpx.AsyncClient, service: FakeService, photo: bytes) -> None:
    options = {"boxes": [[1, 2, 30, 40]], "camera": {"focal_px": 900}, "stature": 1.8, "models": {"pose": "detector"}}
    query = {name: json.dumps(value) for name, value in options.items()}
    raw = await client.post("/v1/images", params=query, content=photo)
    from_query = service.photo.options
    form = await client.post("/v1/images", files={"image": photo, "options": json.dumps(options).encode()})
    from_form = service.photo.options
    assert raw.status_code == form.status_code == 200
    assert from_query is not None and from_form is not None
    assert np.array_equal(from_query.boxes, from_form.boxes)  # type: ignore[arg-type]
    assert from_query.camera == from_form.camera and from_query.camera.focal_px == 900
    assert from_query.stature == from_form.stature == 1.8 and from_query.models == from_form.models


@pytest.mark.parametrize("kind", ["png", "jpeg"])
async def test_a_picture_is_drawn_for_who_accepts_one(client: httpx.AsyncClient, photo: bytes, kind: str) -> None:
    answer = await client.post("/v1/images", content=photo, headers={"Accept": f"image/{kind}"})
    assert answer.headers["content-type"] == f"image/{kind}"
    assert Image.open(io.BytesIO(answer.content)).height > 48


def test_the_most_wanted_kind_that_is_answered_here_wins() -> None:
    assert wanted_kind("") == wanted_kind("*/*") == "application/json"
    assert wanted_kind("image/webp, image/png;q=0.9, application/json;q=0.8") == "image/png"
    assert wanted_kind("application/json, image/png") == "application/json"
    assert wanted_kind("image/png;q=0.1, application/json") == "application/json"
    assert wanted_kind("application/json;q=0.2, image/*;q=0.9") == "image/jpeg"
    assert wanted_kind("image/png; q=0, image/jpeg; q=oh, text/html") == "application/json"


BAD_BODIES: list[tuple[str, bytes, dict[str, str], int, str]] = [
    ("empty", b"", {}, 400, "image"),
    ("text", b"hello", {"Content-Type": "text/plain"}, 415, "Content-Type"),
    ("text that says it is a picture", b"hello there", {"Content-Type": "image/jpeg"}, 415, "image"),
    ("one pixel", png(1, 1), {}, 422, "image"),
    ("20,000 x 20,000 by its header", png(20_000, 20_000), {}, 413, "image"),
    ("a form without boundary", b"x", {"Content-Type": "multipart/form-data"}, 400, "Content-Type"),
    ("a form that is none", b"x" * 99, {"Content-Type": "multipart/form-data; boundary=b"}, 400, "image"),
]


@pytest.mark.parametrize("name, body, headers, status, field", BAD_BODIES, ids=[row[0] for row in BAD_BODIES])
async def test_a_bad_body_is_refused_and_the_next_request_works(
    client: httpx.AsyncClient, photo: bytes, name: str, body: bytes, headers: dict[str, str], status: int, field: str
) -> None:
    answer = await client.post("/v1/images", content=body, headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await client.post("/v1/images", content=photo)).status_code == 200


async def test_a_jpeg_that_is_cut_off_is_unreadable(client: httpx.AsyncClient, photo: bytes) -> None:
    answer = await client.post("/v1/images", content=photo[: len(photo) // 2])
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/unreadable")


@pytest.mark.parametrize(
    "query, field, says",
    [
        ("max_peple=3", "max_peple", "known are models, camera"),
        ("max_people=0", "max_people", "whole number from 1 to 100; got 0"),
        ("max_people=many", "max_people", "got 'many'"),
        ("min_person_score=NaN", "min_person_score", "got 'NaN'"),
        ("flip_test=yes", "flip_test", "true or false"),
        ("flip_test=1&flip_test=0", "flip_test", "twice"),
        ("camera={", "camera", "an object"),
        ('camera={"focal":1}', "camera.focal", "known are camera.focal_px"),
        ('camera={"focal_px":1,"field_of_view":2}', "camera", "either"),
        ('camera={"field_of_view":180}', "camera.field_of_view", "from 0.1 to under 180"),
        ('camera={"focal_px":1e-300}', "camera.focal_px", "pixels from 1 to"),
        ('models={"pose":3}', "models.pose", "name"),
        ("boxes=[[1,2,3]]", "boxes", "boxes[0]"),
        ("boxes=[[1,2,0,4]]", "boxes", "boxes[0]"),
        ("boxes=[[1,2,3,1e999]]", "boxes", "boxes"),
        ("stature=17", "stature", "from 0.3 to 3"),
    ],
)
async def test_a_wrong_option_is_refused_by_name(
    client: httpx.AsyncClient, photo: bytes, query: str, field: str, says: str
) -> None:
    answer = await client.post(f"/v1/images?{query}", content=photo)
    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text
    assert says in answer.json()["detail"] and "limit" in answer.json()


async def test_booleans_in_a_query_may_be_digits(client: httpx.AsyncClient, service: FakeService, photo: bytes) -> None:
    assert (await client.post("/v1/images?flip_test=1&lift=0&states=true", content=photo)).status_code == 200
    options = service.photo.options
    assert options is not None and (options.flip_test, options.lift, options.states) == (True, False, True)


@pytest.mark.parametrize(
    "form, status, field",
    [
        ({"picture": b"x"}, 422, "picture"),
        ({"options": b"{}"}, 400, "image"),
        ({"image": b""}, 400, "image"),
        ({"image": b"x", "options": b"{"}, 400, "options"),
        ({"image": b"x", "options": b"[]"}, 400, "options"),
        ({"image": b"x", "options": b'{"n": 1}'}, 422, "n"),
        ({"image": b"x", "options": b" " * 1_100_000}, 413, "options"),
    ],
)
async def test_a_wrong_form_is_refused_by_its_part(
    client: httpx.AsyncClient, form: dict[str, bytes], status: int, field: str
) -> None:
    answer = await client.post("/v1/images", files=form)
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text


async def test_a_form_that_ends_early_is_unreadable(client: httpx.AsyncClient, photo: bytes) -> None:
    request = client.build_request("POST", "/v1/images", files={"image": photo})
    whole = request.read()
    answer = await client.post(
        "/v1/images", content=whole[:-20], headers={"Content-Type": request.headers["content-type"]}
    )
    assert answer.status_code == 400 and "cut off" in answer.json()["detail"]


async def test_one_byte_over_the_limit_is_refused_and_the_limit_itself_is_not(photo: bytes) -> None:
    limit = 1024 * 1024
    async with client_of(FakeService(max_image_mb=1)) as client:
        over = await client.post("/v1/images", content=photo.ljust(limit + 1, b"\0"))
        just = await client.post("/v1/images", content=photo.ljust(limit, b"\0"))
        form = await client.post("/v1/images", files={"image": photo.ljust(limit + 1, b"\0")})
    assert (over.status_code, over.json()["limit"]) == (413, limit) and form.status_code == 413
    assert just.status_code == 200


async def test_a_huge_body_is_refused_while_it_is_read() -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 65536
            yield b"\0" * 65536

    async with client_of(FakeService(max_image_mb=1)) as client:
        answer = await client.post("/v1/images", content=endless())
    assert answer.status_code == 413 and sent < 2 * 1024 * 1024


async def test_a_declared_length_over_the_limit_is_refused_before_a_byte_is_read(photo: bytes) -> None:
    read = False

    async def body() -> Any:
        nonlocal read
        read = True
        yield photo

    async with client_of(FakeService(max_image_mb=1)) as client:
        answer = await client.post("/v1/images", content=body(), headers={"Content-Length": str(200 * 2**20)})
    assert answer.status_code == 413 and "209715200 came" in answer.json()["detail"] and not read


async def test_more_boxes_than_people_are_too_large(photo: bytes) -> None:
    async with client_of(FakeService(max_people=2)) as client:
        answer = await client.post("/v1/images?boxes=[[1,1,9,9],[1,1,9,9],[1,1,9,9]]", content=photo)
    assert (answer.status_code, answer.json()["field"], answer.json()["limit"]) == (413, "boxes", 2)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "soon", "9999999999999", "0" * 11 + "1" + "9" * 400])
async def test_a_deadline_out_of_range_is_refused(client: httpx.AsyncClient, photo: bytes, value: str) -> None:
    answer = await client.post("/v1/images", content=photo, headers={"Request-Timeout-Ms": value})
    assert (answer.status_code, answer.json()["field"]) == (422, "Request-Timeout-Ms")


async def test_a_passed_deadline_is_answered_at_once_and_the_work_ends(
    client: httpx.AsyncClient, service: FakeService, photo: bytes
) -> None:
    service.work.gate = threading.Event()
    started = time.monotonic()
    answer = await client.post("/v1/images", content=photo, headers={"Request-Timeout-Ms": "80"})
    assert answer.status_code == 504 and time.monotonic() - started < 1
    await asyncio.sleep(0.01)
    assert service.work.cancelled == 1


def test_a_caller_who_leaves_takes_the_work_along(
    served: Callable[[FakeService], AbstractContextManager[Served]], photo: bytes
) -> None:
    service = FakeService()
    service.work.gate = threading.Event()
    with served(service) as here:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{here.url}/v1/images", content=photo, timeout=0.2)
        wait_until(lambda: service.work.cancelled == 1, 1.0)
        wait_until(lambda: 'status="499"' in httpx.get(f"{here.url}/metrics").text)
        service.work.gate.set()
        assert httpx.post(f"{here.url}/v1/images", content=photo).status_code == 200


def test_callers_who_leave_after_a_large_body_are_noticed(
    served: Callable[[FakeService], AbstractContextManager[Served]], photo: bytes
) -> None:
    service = FakeService()
    service.work.gate = threading.Event()
    body = photo + bytes(2_000_000)  # what is behind a JPEG is nobody's
    head = f"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"

    def has(what: str, count: int) -> Callable[[], bool]:
        return lambda: bool(getattr(service.work, what) == count)

    with served(service) as here:
        for n in range(1, 7):
            with socket.create_connection(("127.0.0.1", here.port)) as raw:
                raw.sendall(head.encode() + body)
                wait_until(has("begun", n))
            wait_until(has("cancelled", n), 2.0)


def test_a_caller_who_leaves_while_sending_ends_quietly(
    served: Callable[[FakeService], AbstractContextManager[Served]], caplog: pytest.LogCaptureFixture
) -> None:
    with served(FakeService()) as here:
        with socket.create_connection(("127.0.0.1", here.port)) as raw:
            raw.sendall(b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        wait_until(lambda: 'status="499"' in httpx.get(f"{here.url}/metrics").text)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
