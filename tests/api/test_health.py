"""What the service says of itself."""

from __future__ import annotations

import httpx
import pytest

from .conftest import client_of
from .fake import FakeService

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("state, status", [("starting", 503), ("ready", 200), ("draining", 503), ("failed", 503)])
async def test_only_a_ready_service_is_ready_but_all_are_alive(state: str, status: int) -> None:
    async with client_of(FakeService(state)) as client:
        ready = await client.get("/readyz")
        assert ready.status_code == status
        assert ready.json()["state"] == state and ready.json()["engines"]["lift"]["device"] == "cpu"
        assert (await client.get("/livez")).status_code == 200


async def test_a_service_that_is_not_ready_refuses_work_and_says_why(photo: bytes) -> None:
    async with client_of(FakeService("starting")) as client:
        answer = await client.post("/v1/images", content=photo)
    assert answer.status_code == 503 and answer.json()["type"] == "/problems/not-ready"
    assert "models are being loaded" in answer.json()["detail"] and int(answer.headers["retry-after"]) >= 1


async def test_models_skeletons_and_limits_are_told(client: httpx.AsyncClient, service: FakeService) -> None:
    assert (await client.get("/v1/models")).json()["models"][0]["name"] == "lifter"
    skeletons = {each["name"]: each for each in (await client.get("/v1/skeletons")).json()["skeletons"]}
    assert set(skeletons) == {"coco17", "h36m17", "halpe26", "body25", "mediapipe33"}
    assert len(skeletons["coco17"]["joints"]) == len(skeletons["coco17"]["parents"]) == 17
    told = (await client.get("/v1/info")).json()
    assert told["device"] == "cpu" and told["limits"]["max_image_mb"] == service.settings.max_image_mb


async def test_metrics_speak_both_of_prometheus_dialects(client: httpx.AsyncClient) -> None:
    plain = await client.get("/metrics")
    modern = await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert plain.headers["content-type"].startswith("text/plain") and "poselift_ready" in plain.text
    assert modern.headers["content-type"].startswith("application/openmetrics-text")


async def test_latencies_name_a_request_to_a_scraper_that_asks_for_open_metrics(
    client: httpx.AsyncClient, photo: bytes
) -> None:
    given = {"X-Request-Id": "slow-one", "Content-Type": "image/jpeg"}
    assert (await client.post("/v1/images", content=photo, headers=given)).status_code == 200
    modern = (await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})).text
    named = {line.split("{")[0] for line in modern.splitlines() if '# {request_id="slow-one"} ' in line}
    assert named == {"poselift_request_duration_seconds_bucket", "poselift_stage_duration_seconds_bucket"}
    assert "slow-one" not in (await client.get("/metrics")).text
