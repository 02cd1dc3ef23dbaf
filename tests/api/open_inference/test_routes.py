"""What holds for every request under /v2: refusals, keys, parameters and codings."""

from __future__ import annotations

import gzip
import time

import httpx
import pytest

from tests.api.conftest import client_of
from tests.api.fake import FakeService

from .conftest import asked, output, pose, request
from .fake import TinyService

pytestmark = pytest.mark.anyio


# ---- Refusals


async def test_before_the_models_are_warm_all_says_so_with_503(photo: bytes) -> None:
    service = FakeService("starting")
    service.engines_in_use = dict  # type: ignore[method-assign]
    async with client_of(service) as door:
        assert (await door.get("/v2/health/live")).json() == {"live": True}
        for path in ("/v2/health/ready", "/v2/models/pose/ready", "/v2/models/pose"):
            answer = await door.get(path)
            assert answer.status_code == 503 and "being loaded" in answer.json()["error"], path
        assert (await asked(door, "pose", b"x")).status_code == 503


async def test_health_asks_for_no_key_and_all_else_does() -> None:
    async with client_of(FakeService(keys=("one",))) as door:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert (await door.get(path)).status_code == 200
        for path in ("/v2", "/v2/models/lift", "/v2/models/stats"):
            answer = await door.get(path)
            assert answer.status_code == 401 and "Bearer" in answer.json()["error"]
            assert (await door.get(path, headers={"Authorization": "Bearer one"})).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/trace/setting", 404),
        ("GET", "/v2/systemsharedmemory/status", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/pose/versions/2", 404),
        ("GET", "/v2/models/pose/versions/three/ready", 404),
        ("GET", "/v2/models/a%2Fb", 404),
        ("GET", "/v2/models/no%20body", 404),
        ("POST", "/v2/models/pose", 405),
        ("GET", "/v2/models/pose/infer", 405),
        ("POST", "/v2/models/nobody/infer", 404),
    ],
)
async def test_every_refusal_is_json_with_error_in_it(
    door: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await door.request(method, path)
    assert answer.status_code == status and answer.json()["error"] == answer.json()["detail"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_elsewhere_there_is_no_such_member(door: httpx.AsyncClient) -> None:
    assert "error" not in (await door.get("/v1/nothing")).json() and "error" not in (await door.get("/v22")).json()


# ---- Parameters


async def test_a_timeout_in_microseconds_is_the_deadline(door: httpx.AsyncClient, tiny: TinyService) -> None:
    tiny.network.gate.clear()
    started = time.monotonic()
    late = await asked(door, "pose", pose(parameters={"timeout": 50_000}))
    assert late.status_code == 504 and "deadline" in late.json()["error"] and time.monotonic() - started < 2
    sooner = await asked(door, "pose", pose(parameters={"timeout": 9_000_000}), **{"Request-Timeout-Ms": "50"})
    assert sooner.status_code == 504 and time.monotonic() - started < 4
    tiny.network.gate.set()
    for fine in (0, 600_000_000):
        assert (await asked(door, "pose", pose(parameters={"timeout": fine, "priority": 1}))).status_code == 200
    for wrong in (-1, 600_000_001, True, "1", 1.5):
        answer = await asked(door, "pose", pose(parameters={"timeout": wrong}))
        assert answer.status_code == 422 and "microseconds from 0 to 600000000" in answer.json()["error"]


@pytest.mark.parametrize("model", ["pose", "photo"])
async def test_an_unknown_parameter_is_refused_by_name(door: httpx.AsyncClient, model: str, photo: bytes) -> None:
    body = pose(parameters={"sequence_id": 4})
    if model == "photo":
        body = request(
            {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["x"]}, parameters={"sequence_id": 4}
        )
    answer = await asked(door, model, body)
    assert answer.status_code == 422 and "unknown parameter `sequence_id`; known are timeout" in answer.json()["error"]


# ---- Codings


async def test_bodies_may_be_packed_and_answers_are_only_when_asked(door: httpx.AsyncClient) -> None:
    packed = gzip.compress(pose(8))
    plain = await asked(door, "pose", packed, **{"Content-Encoding": "gzip", "Accept-Encoding": "identity"})
    assert plain.status_code == 200 and "content-encoding" not in plain.headers
    small = await asked(door, "pose", pose(0), **{"Accept-Encoding": "gzip"})
    assert small.status_code == 200 and "content-encoding" not in small.headers
    for coding in ("gzip", "deflate"):
        answer = await asked(door, "pose", pose(8), **{"Accept-Encoding": coding})
        assert answer.headers["content-encoding"] == coding and output(answer, "keypoints").shape == (8, 17, 3)
    for path in ("/v2", "/v2/models/pose", "/v2/models/stats"):
        said = await door.get(path, headers={"Accept-Encoding": "gzip, deflate, br"})
        assert "content-encoding" not in said.headers


async def test_an_unknown_coding_is_415_and_says_which_are_known(door: httpx.AsyncClient) -> None:
    answer = await asked(door, "pose", b"x", **{"Content-Encoding": "br"})
    assert answer.status_code == 415 and answer.headers["accept-encoding"] == "gzip, deflate"


async def test_a_bomb_is_refused_at_the_limit(door: httpx.AsyncClient) -> None:
    bomb = gzip.compress(bytes(65 * 2**20), 1)
    answer = await asked(door, "pose", bomb, **{"Content-Encoding": "gzip"})
    assert answer.status_code == 413 and len(bomb) < 2**20 and answer.json()["limit"] == 64 * 2**20
