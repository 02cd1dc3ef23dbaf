"""What /v2 says of itself and its models: lists, tensors, configurations, and what was counted."""

from __future__ import annotations

import time

import httpx
import pytest

from service.api.open_inference.routes import EXTENSIONS
from tests.api.conftest import client_of

from .conftest import RAW, asked, lift, pose, walk
from .fake import HEIGHT, WIDTH, TinyService

pytestmark = pytest.mark.anyio


# ---- What is there


async def test_only_what_is_there_is_listed(door: httpx.AsyncClient) -> None:
    said = (await door.get("/v2")).json()
    assert said == {"name": "poselift", "version": "0.0", "extensions": EXTENSIONS}
    assert {"schedule_policy", "trace", "logging", "sequence"} & set(EXTENSIONS) == set()
    assert (await door.get("/v2/models")).json()["models"] == [
        "bright",
        "fake-lift",
        "fake-person",
        "lift",
        "photo",
        "pose",
    ]


async def test_a_model_tells_its_tensors_under_its_name_and_its_alias(door: httpx.AsyncClient) -> None:
    alias, named = (await door.get("/v2/models/pose")).json(), (await door.get("/v2/models/bright/versions/3")).json()
    assert alias.pop("name") == "pose" and named.pop("name") == "bright"
    assert alias == named
    assert alias == {
        "versions": ["3"],
        "platform": "fake",
        "inputs": [{"name": "crops", "datatype": "UINT8", "shape": [-1, HEIGHT, WIDTH, 3]}],
        "outputs": [
            {"name": "keypoints", "datatype": "FP32", "shape": [-1, 17, 3]},
            {"name": "heatmaps", "datatype": "FP32", "shape": [-1, 17, -1, -1]},
        ],
    }
    for model in ("lift", "photo", "fake-person"):
        assert (await door.get(f"/v2/models/{model}")).json()["inputs"]


async def test_a_configuration_leaves_the_batch_axis_out(door: httpx.AsyncClient) -> None:
    config = (await door.get("/v2/models/pose/config")).json()
    assert config["max_batch_size"] == 256 and config["input"][0]["dims"] == [HEIGHT, WIDTH, 3]
    photo = (await door.get("/v2/models/photo/versions/1/config")).json()
    assert photo["max_batch_size"] == 0
    assert photo["input"] == [{"name": "image", "data_type": "TYPE_STRING", "dims": [1]}]


# ---- What was counted


async def test_statistics_count_requests_rows_and_batches(door: httpx.AsyncClient) -> None:
    for count in (3, 2):
        assert (await asked(door, "pose", pose(count))).status_code == 200
    assert (await asked(door, "bright", b"{}")).status_code == 400
    (by_alias,) = (await door.get("/v2/models/pose/stats")).json()["model_stats"]
    (by_name,) = (await door.get("/v2/models/bright/versions/3/stats")).json()["model_stats"]
    assert by_alias.pop("name") == "pose" and by_name.pop("name") == "bright" and by_alias == by_name
    assert (by_name["inference_count"], by_name["execution_count"]) == (5, 2)
    assert abs(by_name["last_inference"] / 1000 - time.time()) < 60
    steps = by_name["inference_stats"]
    assert {step: row["count"] for step, row in steps.items()} == {
        "success": 2,
        "fail": 1,
        "queue": 2,
        "compute_input": 2,
        "compute_infer": 2,
        "compute_output": 2,
    }
    parts = sum(steps[step]["ns"] for step in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0 < parts <= steps["success"]["ns"] and steps["fail"]["ns"] > 0


async def test_a_photos_statistics_are_its_requests_and_nobody_elses(door: httpx.AsyncClient, photo: bytes) -> None:
    assert (await asked(door, "photo", photo, **RAW)).status_code == 200
    assert (await door.post("/v1/images", content=photo)).status_code == 200
    rows = {row["name"]: row for row in (await door.get("/v2/models/stats")).json()["model_stats"]}
    assert (rows["photo"]["inference_count"], rows["fake-person"]["inference_count"]) == (1, 2)


async def test_each_lifter_counts_what_it_answered_and_the_alias_both(two: TinyService) -> None:
    async with client_of(two) as door:
        for frames in (1, 5, 60):
            assert (await asked(door, "lift", lift(walk(frames)))).status_code == 200
        rows = {row["name"]: row for row in (await door.get("/v2/models/stats")).json()["model_stats"]}
        (both,) = (await door.get("/v2/models/lift/stats")).json()["model_stats"]
        (second,) = (await door.get("/v2/models/lift/versions/2/stats")).json()["model_stats"]
    counted = {name: row["inference_stats"]["success"]["count"] for name, row in rows.items()}
    assert counted == {"bright": 0, "fake-lift": 1, "fake-person": 0, "motion": 2, "photo": 0}
    for key, what in (("inference_count", "rows"), ("execution_count", "batches")):
        lone, moving = (len(getattr(engine, what)) for engine in two.lifters.values())
        assert rows["fake-lift"][key] == lone == 1 and rows["motion"][key] == second[key] == moving > 1
        assert both[key] == lone + moving
    assert both["inference_stats"]["success"]["count"] == 3
    assert both["last_inference"] == rows["motion"]["last_inference"]


async def test_a_routes_metrics_are_counted_by_template(door: httpx.AsyncClient, tiny: TinyService) -> None:
    for name in ("nobody", "someone"):
        assert (await door.get(f"/v2/models/{name}")).status_code == 404
    labels = {"route": "/v2/models/{model}", "status": "404"}
    assert tiny.metrics.registry.get_sample_value("poselift_request_duration_seconds_count", labels) == 2
