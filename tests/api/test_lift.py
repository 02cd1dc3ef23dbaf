"""POST /v1/lift: sequences in, 3D out, and every wrong value by name."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import msgpack
import numpy as np
import orjson
import pytest

from service.api.lift import read_sequences
from service.errors import QueueFull

from .conftest import client_of
from .fake import FakeService

pytestmark = pytest.mark.anyio


def body(count: int = 3, joints: int = 17, **more: Any) -> dict[str, Any]:
    points = [[[10.0 * frame + joint, 5.0, 0.5] for joint in range(joints)] for frame in range(count)]
    return {"skeleton": "coco17", "image_size": [640, 480], "keypoints": points} | more


async def test_one_person_is_answered_without_a_list(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/lift", json=body())
    assert answer.status_code == 200
    document = answer.json()
    assert set(document) == {"joints3d", "position", "scale", "times", "models"}
    assert np.array(document["joints3d"]).shape == (3, 17, 3)
    assert document["position"] == [[1.5] * 3, [1.5] * 3, None]
    assert document["times"] == pytest.approx([0, 1 / 30, 2 / 30], abs=1e-5)


@pytest.mark.parametrize("path", ["/v1/lift", "/v1/images"])
async def test_a_full_queue_refuses_a_body_that_nobody_has_parsed(
    client: httpx.AsyncClient, service: FakeService, path: str
) -> None:
    assert (await client.post(path, content=b"neither", headers={"Content-Type": "image/png"})).status_code in (
        400,
        415,
    )
    service.lift.busy = service.photo.busy = QueueFull("full", retry_after_s=3.0)
    answer = await client.post(path, content=b"neither", headers={"Content-Type": "image/png"})
    assert answer.status_code == 503 and answer.headers["retry-after"] == "3"


async def test_several_people_are_answered_in_their_order(client: httpx.AsyncClient, service: FakeService) -> None:
    both = [body()["keypoints"], body(2)["keypoints"]]
    answer = await client.post("/v1/lift", json=body(keypoints=None, people=both))
    assert [len(person["joints3d"]) for person in answer.json()["people"]] == [3, 2]
    assert [len(points) for points in service.lift.points] == [3, 2]


async def test_json_and_msgpack_say_the_same(client: httpx.AsyncClient, service: FakeService) -> None:
    answers, points = [], []
    for content, kind in ((orjson.dumps(body()), "application/json"), (msgpack.packb(body()), "application/msgpack")):
        answers.append((await client.post("/v1/lift", content=content, headers={"Content-Type": kind})).content)
        points.append(service.lift.points[0])
    assert answers[0] == answers[1] and np.array_equal(points[0], points[1])


async def test_a_null_joint_is_unknown_and_an_absent_score_is_one(
    client: httpx.AsyncClient, service: FakeService
) -> None:
    sent = body(1)
    sent["keypoints"] = [[None, [None, None], *([1, 2] for _ in range(15))]]
    assert (await client.post("/v1/lift", json=sent)).status_code == 200
    points = service.lift.points[0][0]
    assert np.isnan(points[:2, :2]).all() and (points[:2, 2] == 0).all()
    assert (points[2:] == [1, 2, 1]).all()


async def test_options_reach_the_pipeline(client: httpx.AsyncClient, service: FakeService) -> None:
    sent = body(times=[0, 0.5, 0.75], frames="centre", mirrored=True, flip_test=True, stature=1.9)
    sent["camera"] = {"field_of_view": 60}
    assert (await client.post("/v1/lift", json=sent)).status_code == 200
    options = service.lift.options
    assert options is not None and options.times is not None
    assert (options.centre, options.mirrored, options.flip_test, options.stature) == (True, True, True, 1.9)
    assert options.times.tolist() == [0, 0.5, 0.75] and options.camera.field_of_view == 60


async def test_a_large_body_is_answered_like_a_small_one(client: httpx.AsyncClient, service: FakeService) -> None:
    answer = await client.post("/v1/lift", json=body(1200))
    assert answer.status_code == 200 and len(answer.json()["joints3d"]) == 1200


@pytest.mark.parametrize("smooth", [False, True])
async def test_smoothing_keeps_what_stands_still(client: httpx.AsyncClient, service: FakeService, smooth: bool) -> None:
    still = [[[7.0, 8.0, 0.9]] * 17] * 700
    answer = await client.post("/v1/lift", json=body(keypoints=still, smooth=smooth, states=True))
    assert np.allclose(service.lift.points[0], still[0], atol=1e-4)
    assert answer.json()["states"] == [["seen"] * 17] * 700


async def test_smoothing_in_blocks_equals_smoothing_at_once() -> None:
    noise = np.random.default_rng(1).uniform(0, 100, (1100, 17, 2)).tolist()
    smoothed = read_sequences(orjson.dumps(body(keypoints=noise, smooth=True)), "", 2000, 9).people[0]
    part = read_sequences(orjson.dumps(body(keypoints=noise[450:650], smooth=True)), "", 2000, 9).people[0]
    assert np.allclose(smoothed[480:620], part[30:170], atol=1e-3)


async def test_the_query_may_have_options_too(client: httpx.AsyncClient, service: FakeService) -> None:
    answer = await client.post("/v1/lift?stature=1.9&mirrored=true", json=body())
    assert answer.status_code == 200, answer.text
    assert service.lift.options is not None
    assert (service.lift.options.stature, service.lift.options.mirrored) == (1.9, True)
    for query, sent, says in (
        ("stature=9", body(), "0.3 to 3"),
        ("stature=1.9", body(stature=1.8), "twice"),
        ("height=1", body(), "unknown option"),
    ):
        answer = await client.post(f"/v1/lift?{query}", json=sent)
        assert answer.status_code == 422 and says in answer.json()["detail"], answer.text
        assert answer.json()["field"] == query.partition("=")[0]


NAN = float("nan")
WRONG: list[tuple[str, Any, int, str, str]] = [
    ("a joint too many", body(joints=18), 422, "keypoints", "17 joints"),
    ("a joint too few in one frame", body(keypoints=[[[1, 2]] * 17, [[1, 2]] * 16]), 422, "keypoints", "keypoints[1]"),
    ("an unknown skeleton", body(skeleton="spider"), 422, "skeleton", "coco17"),
    ("an unknown field", body(color=1), 422, "color", "unknown option"),
    ("no frames", body(0), 422, "keypoints", "one frame or more"),
    ("flat points", body(keypoints=[[1, 2, 3]]), 422, "keypoints", "17 joints"),
    ("text", body(keypoints="x"), 422, "keypoints", "list"),
    ("text inside", body(keypoints=[[["1", 2]] * 17]), 422, "keypoints", "keypoints[0][0]"),
    ("truth inside", body(keypoints=[[[True, 2]] * 17]), 422, "keypoints", "keypoints[0][0]"),
    ("four numbers", body(keypoints=[[[1, 2, 0.5, 4]] * 17]), 422, "keypoints", "2 or 3"),
    ("two, then three numbers", body(keypoints=[[[1, 2]] * 16 + [[1, 2, 0.3]]]), 422, "keypoints", "[0][16]"),
    ("half a null", body(keypoints=[[[None, 2]] * 17]), 422, "keypoints", "null"),
    ("a score of 2", body(keypoints=[[[1, 2, 2]] * 17]), 422, "keypoints", "0 to 1"),
    ("light years", body(keypoints=[[[1e30, 2]] * 17]), 422, "keypoints", "1e+06"),
    ("no image size", {"skeleton": "coco17", "keypoints": [[[1, 2]] * 17]}, 422, "image_size", "missing"),
    ("an empty image", body(image_size=[0, 5]), 422, "image_size", "image_size[0]"),
    ("both kinds of people", body(people=[[[[1, 2]] * 17]]), 422, "keypoints", "either"),
    ("nobody", body(keypoints=None, people=[]), 422, "people", "one person"),
    ("a slow clock", body(fps=0), 422, "fps", "1 to 240"),
    ("times that fall", body(times=[0, 1, 0.5]), 422, "times", "rise"),
    ("times that are text", body(times=["0", 1, 2]), 422, "times", "number of seconds"),
    ("times too few", body(times=[0, 1]), 422, "times", "3 frames; got 2 of them"),
    ("times too near", body(times=[0, 1e-9, 1]), 422, "times", "microsecond"),
    ("a finder that is not loaded", body(models={"person": "nope"}), 404, "models.person", "not loaded"),
    ("times and a rate", body(times=[0, 1, 2], fps=30), 422, "fps", "both"),
    ("a pause of a year", body(times=[0, 1, 3e7]), 413, "times", "spans"),
    ("a list", [1], 400, "body", "object with named fields; got list"),
]


@pytest.mark.parametrize("name, sent, status, field, says", WRONG, ids=[row[0] for row in WRONG])
async def test_a_wrong_value_is_refused_by_field(
    client: httpx.AsyncClient, name: str, sent: Any, status: int, field: str, says: str
) -> None:
    for raw, kind in ((json.dumps(sent).encode(), "application/json"), (msgpack.packb(sent), "application/msgpack")):
        answer = await client.post("/v1/lift", content=raw, headers={"Content-Type": kind})
        assert answer.status_code == status, answer.text
        assert answer.json()["field"] == field and says in answer.json()["detail"], answer.text
    assert (await client.post("/v1/lift", json=body())).status_code == 200


@pytest.mark.parametrize("kind", ["application/json", "application/msgpack"])
async def test_nan_is_refused_by_field_in_json_and_in_msgpack(client: httpx.AsyncClient, kind: str) -> None:
    sent = body()
    sent["keypoints"][1][5] = [NAN, 1.0, 0.5]
    raw = json.dumps(sent).encode() if kind.endswith("json") else msgpack.packb(sent)
    answer = await client.post("/v1/lift", content=raw, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["field"]) == (422, "keypoints")
    assert "keypoints[1][5]" in answer.json()["detail"]


@pytest.mark.parametrize(
    "raw, kind, status",
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"\xc1", "application/msgpack", 400),
        (msgpack.packb({b"keypoints": []}), "application/msgpack", 400),
        (b"{} ", "text/plain", 415),
        (b"[" * 5000, "application/json", 400),
    ],
)
async def test_what_cannot_be_read_is_refused(client: httpx.AsyncClient, raw: bytes, kind: str, status: int) -> None:
    answer = await client.post("/v1/lift", content=raw, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text


async def test_more_frames_or_people_than_the_limits_are_too_large() -> None:
    async with client_of(FakeService(max_frames=4, max_people=2)) as client:
        frames = await client.post("/v1/lift", json=body(5))
        several = await client.post("/v1/lift", json=body(keypoints=None, people=[body(1)["keypoints"]] * 3))
        together = await client.post("/v1/lift", json=body(keypoints=None, people=[body(3)["keypoints"]] * 2))
        slow = await client.post("/v1/lift", json=body(4, fps=1))
    for answer, field in ((frames, "keypoints"), (several, "people"), (together, "people"), (slow, "fps")):
        assert (answer.status_code, answer.json()["field"]) == (413, field), answer.text


async def test_many_callers_get_their_own_answers(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.post("/v1/lift", json=body(count)) for count in range(1, 33)))
    assert [len(answer.json()["joints3d"]) for answer in answers] == list(range(1, 33))
