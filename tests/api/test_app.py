"""The frame around every request, and the documents that work without a network."""

from __future__ import annotations

import logging
import time

import httpx
import pytest

from .conftest import client_of
from .fake import FakeService

pytestmark = pytest.mark.anyio


async def test_the_requests_id_is_echoed_or_made(client: httpx.AsyncClient) -> None:
    given = await client.get("/livez", headers={"X-Request-Id": "abc-1"})
    made = [(await client.get("/livez")).headers["x-request-id"] for _ in range(2)]
    assert given.headers["x-request-id"] == "abc-1"
    assert all(made) and made[0] != made[1]


async def test_server_timing_tells_the_stages(client: httpx.AsyncClient, photo: bytes) -> None:
    timing = (await client.post("/v1/images", content=photo)).headers["server-timing"]
    assert "decode;dur=" in timing and "pose;dur=1.5" in timing


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *[
            ("GET", path, 200)
            for path in ("/", "/docs", "/livez", "/metrics", "/v1/info", "/docs/assets/swagger-ui.css")
        ],
        ("GET", "/nothing", 404),
        ("DELETE", "/v1/images", 405),
        ("POST", "/v1/images", 400),
        ("POST", "/v1/lift", 400),
        ("GET", "/v2/models/nobody", 404),
    ],
)
async def test_every_answer_says_how_long_it_took(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    started = time.perf_counter()
    answer = await client.request(method, path, content=b"" if method == "POST" else None)
    passed_ms = 1000 * (time.perf_counter() - started)
    assert answer.status_code == status
    told = dict(stage.split(";dur=") for stage in answer.headers["server-timing"].split(", "))
    assert 0 <= float(told["total"]) <= passed_ms + 0.1


async def test_who_may_not_come_in_is_told_in_how_long_too() -> None:
    async with client_of(FakeService(keys=("one",))) as client:
        answer = await client.get("/v1/info")
    assert answer.status_code == 401 and answer.headers["server-timing"].startswith("total;dur=")


async def test_a_scanner_makes_no_series(client: httpx.AsyncClient, service: FakeService) -> None:
    for number in range(20):
        await client.get(f"/wp-{number}.php")
        await client.get(f"/problems/none-{number}")
    scrape = (await client.get("/metrics")).text
    counts = [line for line in scrape.splitlines() if line.startswith("poselift_request_duration_seconds_count")]
    assert sorted(line[line.index("{") + 1 : line.rindex("}")] for line in counts) == [
        'route="/problems/{slug}",status="404"',
        'route="unmatched",status="404"',
    ]


async def test_the_log_has_a_line_a_request(
    client: httpx.AsyncClient, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "poselift.requests"):
        await client.post("/v1/images?lift=false", content=photo)
    (record,) = [record for record in caplog.records if record.name == "poselift.requests"]
    assert record.getMessage() == "POST /v1/images 200"


async def test_docs_ask_nobody_else(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    assert "http://" not in page and "https://" not in page
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert f"docs/assets/{name}" in page
        assert (await client.get(f"/docs/assets/{name}")).status_code == 200


async def test_the_openapi_document_names_every_door_and_option(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.0.")
    paths = set(document["paths"])
    assert {path for path in paths if not path.startswith("/v2")} == {
        *("/v1/images", "/v1/lift", "/v1/clips", "/v1/models", "/v1/skeletons", "/v1/info"),
        *("/v1/schemas", "/v1/schemas/{name}", "/v1/live/keypoints", "/v1/live/frames"),
        *("/livez", "/readyz", "/metrics"),
    }
    assert {"/v2", "/v2/models/{model}/infer", "/v2/repository/index"} <= paths
    photo = document["paths"]["/v1/images"]["post"]
    names = {parameter["name"] for parameter in photo["parameters"]}
    assert {"boxes", "max_people", "min_person_score", "flip_test", "lift", "models", "camera", "stature"} <= names
    assert {"400", "413", "415", "422", "429", "500", "503", "504"} <= set(photo["responses"])
    words = (await client.get("/openapi.json")).text
    for of_31_only in ('"anyOf"', '"$defs"', '"const"', '"prefixItems"', '"null"'):
        assert of_31_only not in words


async def test_the_first_page_links_the_docs(client: httpx.AsyncClient) -> None:
    assert 'href="docs"' in (await client.get("/")).text
