"""The doors under /v2: what they say of themselves, what goes in and out, and how they refuse."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.api.open_inference.routes import EXTENSIONS
from service.api.open_inference.wire import LENGTH_HEADER
from tests.api.conftest import client_of
from tests.api.fake import FakeService
from tests.pipelines.fake import FRAMES, RED, draw, street

from .fake import HEIGHT, WIDTH, TinyService, bright_places, crops

pytestmark = pytest.mark.anyio

RAW = {LENGTH_HEADER: "0"}


def request(*inputs: dict[str, Any], **others: Any) -> bytes:
    return json.dumps({"inputs": list(inputs)} | others).encode()


def given(name: str, array: np.ndarray[Any, Any], datatype: str) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}


def pose(count: int = 1, **others: Any) -> bytes:
    return request(given("crops", crops(count), "UINT8"), **others)


def lift(points: np.ndarray[Any, Any], size: Any = (640, 480), **others: Any) -> bytes:
    sizes = np.broadcast_to(np.array(size), (len(points), 2))
    return request(given("keypoints", points, "FP32"), given("image_size", sizes, "INT32"), **others)


async def asked(door: httpx.AsyncClient, model: str, body: bytes, **headers: str) -> httpx.Response:
    return await door.post(f"/v2/models/{model}/infer", content=body, headers=headers)


def output(answer: httpx.Response, name: str) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    (found,) = [each for each in answer.json()["outputs"] if each["name"] == name]
    return np.array(found["data"], np.float32).reshape(found["shape"])


# ---- What is said


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


async def test_the_index_tells_what_is_in_use_and_what_only_lies_in_the_store(door: httpx.AsyncClient) -> None:
    rows = (await door.post("/v2/repository/index")).json()
    states = {(row["name"], row["version"]): row["state"] for row in rows}
    assert states["pose", "3"] == states["bright", "3"] == states["photo", "1"] == "READY"
    reasons = {(row["name"], row["version"]): row["reason"] for row in rows if row["state"] == "UNAVAILABLE"}
    assert reasons["spare", "1"] == reasons["bright", "2"] == "in the store, not loaded"
    assert reasons["bright", "6"] == "bright/6/manifest.toml: no such file"
    ready = (await door.post("/v2/repository/index", json={"ready": True})).json()
    assert {row["state"] for row in ready} == {"READY"} and len(ready) == len(rows) - len(reasons)


# ---- Loading and unloading


async def states(door: httpx.AsyncClient) -> dict[str, tuple[str, str]]:
    """Of `bright` by version: state and reason."""
    rows = (await door.post("/v2/repository/index")).json()
    return {row["version"]: (row["state"], row["reason"]) for row in rows if row["name"] == "bright"}


async def test_a_loaded_version_takes_over_and_an_unloaded_one_gives_back(door: httpx.AsyncClient) -> None:
    assert (await door.post("/v2/repository/models/bright/load")).json() == {}
    assert (await door.get("/v2/models/pose")).json()["versions"] == ["4"]
    assert (await states(door))["4"][0] == "READY" and (await states(door))["3"][0] == "UNAVAILABLE"
    assert (await door.get("/v2/models/bright/versions/3")).status_code == 404
    assert (await door.post("/v2/repository/models/bright/unload")).status_code == 200
    assert (await door.get("/v2/models/pose")).json()["versions"] == ["3"]


async def test_what_began_with_the_old_version_ends_with_it(door: httpx.AsyncClient, tiny: TinyService) -> None:
    tiny.network.gate.clear()
    old = [asyncio.create_task(asked(door, "pose", pose()))]
    async with asyncio.timeout(10):
        while not tiny.network.begun:
            await asyncio.sleep(0.005)
        old += [asyncio.create_task(asked(door, "pose", pose())) for _ in range(2)]
        while tiny.photo.pose.line.rows < 2:
            await asyncio.sleep(0.005)
    assert (await door.post("/v2/repository/models/bright/load")).status_code == 200
    assert (await states(door))["3"] == (
        "UNLOADING",
        "replaced; requests that began with it are being finished",
    )
    new = asyncio.create_task(asked(door, "pose", pose()))
    await asyncio.sleep(0.05)
    tiny.network.gate.set()
    answers = [(await one).json() for one in old]
    assert [answer["model_version"] for answer in answers] == ["3"] * 3
    assert (await new).json()["model_version"] == "4"
    gc.collect()
    assert (await states(door))["3"] == ("UNAVAILABLE", "in the store, not loaded") and not tiny.models_leaving


async def test_a_version_that_breaks_keeps_the_old_one_and_the_index_says_why(door: httpx.AsyncClient) -> None:
    broken = await door.post("/v2/repository/models/bright/load", json={"parameters": {"version": 5}})
    assert broken.status_code == 400 and "bright@3 serves on" in broken.json()["error"]
    assert (await door.get("/v2/models/pose")).json()["versions"] == ["3"]
    assert (await states(door))["5"] == ("UNAVAILABLE", "could not be loaded: a weight is not finite")
    assert (await asked(door, "pose", pose())).status_code == 200


POLICY = '{"version_policy": {"specific": {"versions": ["2"]}}}'


@pytest.mark.parametrize(
    ("name", "parameters", "label"),
    [
        ("bright", {}, "bright"),
        ("bright@2", {}, "bright@2"),
        ("bright", {"version": 2}, "bright@2"),
        ("bright", {"version": "2"}, "bright@2"),
        ("bright", {"config": POLICY}, "bright@2"),
        ("bright", {"config": "{}"}, "bright"),
    ],
)
async def test_a_load_names_its_version_in_every_clients_way(
    door: httpx.AsyncClient, tiny: TinyService, name: str, parameters: dict[str, Any], label: str
) -> None:
    await door.post(f"/v2/repository/models/{name}/load", json={"parameters": parameters})
    assert tiny.asked_for == [label]


@pytest.mark.parametrize(
    ("name", "body", "status", "told"),
    [
        ("pose", b"", 404, "stands for the model in use"),
        ("nobody", b"", 404, "no model"),
        ("bright", b"[]", 400, "JSON object"),
        ("bright", b"{", 400, "not JSON"),
        ("bright", b'{"parameters": [1]}', 400, "must be an object"),
        ("bright", b'{"parameters": {"file:1/model.pt": "AAAA"}}', 422, "from the store alone"),
        ("bright", b'{"parameters": {"version": 0}}', 422, "a whole number from 1"),
        ("bright", b'{"parameters": {"version": true}}', 422, "a whole number from 1"),
        ("bright", b'{"parameters": {"version": "../1"}}', 422, "a whole number from 1"),
        ("bright", b'{"parameters": {"config": "]"}}', 400, "not JSON"),
        ("bright", b'{"parameters": {"config": "{\\"version_policy\\": 3}"}}', 422, "one version"),
        ("bright", b'{"parameters": {"config": "{\\"version_policy\\": {\\"specific\\": 3}}"}}', 422, "one version"),
    ],
)
async def test_a_load_that_asks_for_what_is_not_done_is_told_so(
    door: httpx.AsyncClient, tiny: TinyService, name: str, body: bytes, status: int, told: str
) -> None:
    answer = await door.post(f"/v2/repository/models/{name}/load", content=body)
    assert answer.status_code == status and told in answer.json()["error"]
    assert tiny.labels["pose"] == "bright@3"


@pytest.mark.parametrize("step", ["load", "unload"])
async def test_only_an_admin_changes_what_is_served(step: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one\nboss admin\n")
    service = TinyService(key_file=tmp_path / "keys")
    await service.start()
    async with client_of(service) as door:
        for key, status in (("wrong", 401), ("one", 403), ("boss", 200)):
            headers = {"Authorization": f"Bearer {key}"}
            answer = await door.post(f"/v2/repository/models/bright/{step}", headers=headers)
            assert answer.status_code == status
    await service.close()


async def test_beyond_loopback_without_keys_nobody_changes_what_is_served() -> None:
    service = TinyService(host="0.0.0.0", allow_keyless=True)
    await service.start()
    async with client_of(service) as door:
        assert (await door.post("/v2/repository/models/bright/load")).status_code == 403
    await service.close()


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


# ---- pose


async def test_a_raw_body_of_pixels_gets_its_keypoints_as_bytes(door: httpx.AsyncClient) -> None:
    answer = await asked(door, "pose", crops(3).tobytes(), **RAW)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers[LENGTH_HEADER])
    (said,) = json.loads(answer.content[:length])["outputs"]
    assert (said["name"], said["shape"]) == ("keypoints", [3, 17, 3])
    points = np.frombuffer(answer.content[length:], "<f4").reshape(3, 17, 3)
    assert np.allclose(points, bright_places(3), atol=1e-5)


async def test_floats_of_the_same_pixels_get_the_same_answer(door: httpx.AsyncClient) -> None:
    floats = crops(5).transpose(0, 3, 1, 2).astype(np.float32)
    from_floats = await asked(door, "pose", request(given("crops", floats, "FP32")))
    from_bytes = await asked(door, "pose", pose(5))
    assert np.array_equal(output(from_floats, "keypoints"), output(from_bytes, "keypoints"))


@pytest.mark.parametrize(
    ("scale", "says"), [(1 / 255, "look like 0 to 1"), (2, "RGB from 0 to 255"), (-1, "RGB from 0 to 255")]
)
async def test_floats_of_another_scale_are_refused(door: httpx.AsyncClient, scale: float, says: str) -> None:
    floats = crops(1).transpose(0, 3, 1, 2).astype(np.float32) * scale
    answer = await asked(door, "pose", request(given("crops", floats, "FP32")))
    assert answer.status_code == 422 and says in answer.json()["error"]


async def test_floats_that_are_no_numbers_are_refused(door: httpx.AsyncClient) -> None:
    entry = {"name": "crops", "shape": [1, 3, HEIGHT, WIDTH], "datatype": "FP32"}
    raw = np.full((1, 3, HEIGHT, WIDTH), np.nan, np.float32).tobytes()
    text = request(entry | {"parameters": {"binary_data_size": len(raw)}})
    answer = await asked(door, "pose", text + raw, **{LENGTH_HEADER: str(len(text))})
    assert answer.status_code == 422 and "nan" in answer.json()["error"]


async def test_heatmaps_come_only_when_listed_and_in_the_listed_order(door: httpx.AsyncClient) -> None:
    bare = await asked(door, "pose", pose())
    assert [each["name"] for each in bare.json()["outputs"]] == ["keypoints"]
    both = await asked(door, "pose", pose(outputs=[{"name": "heatmaps"}, {"name": "keypoints"}]))
    assert [each["name"] for each in both.json()["outputs"]] == ["heatmaps", "keypoints"]
    assert output(both, "heatmaps")[0, 0].max() == pytest.approx(200 / 255)
    alone = await asked(door, "pose", pose(outputs=[{"name": "heatmaps"}]))
    assert [each["name"] for each in alone.json()["outputs"]] == ["heatmaps"]
    unknown = await asked(door, "pose", pose(outputs=[{"name": "joints"}]))
    assert unknown.status_code == 400 and "keypoints, heatmaps; got 'joints'" in unknown.json()["error"]


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
async def test_half_precision_is_refused_as_json_and_by_a_model_that_does_not_take_it(
    door: httpx.AsyncClient, datatype: str
) -> None:
    answer = await asked(door, "pose", request(given("crops", crops(1), datatype)))
    assert answer.status_code == 400 and f"{datatype} has no form in JSON" in answer.json()["error"]
    raw = bytes(2 * crops(1).size)
    entry = {"name": "crops", "shape": [1, HEIGHT, WIDTH, 3], "datatype": datatype}
    text = request(entry | {"parameters": {"binary_data_size": len(raw)}})
    answer = await asked(door, "pose", text + raw, **{LENGTH_HEADER: str(len(text))})
    assert answer.status_code == 400 and f"got {datatype}" in answer.json()["error"]


async def test_a_binary_body_without_its_header_is_told_which_is_missing(door: httpx.AsyncClient) -> None:
    answer = await asked(door, "pose", crops(1).tobytes())
    assert answer.status_code == 400 and LENGTH_HEADER in answer.json()["error"]
    wrong = await asked(door, "lift", bytes(99), **RAW)
    assert wrong.status_code == 400 and "2 inputs" in wrong.json()["error"]


async def test_inputs_of_other_names_are_refused(door: httpx.AsyncClient) -> None:
    for body, says in (
        (request(given("pixels", crops(1), "UINT8")), "takes crops; got 'pixels'"),
        (lift(np.zeros((1, 1, 17, 3)))[:-1] + b', "id": 3}', "`id`"),
    ):
        answer = await asked(door, "pose", body)
        assert answer.status_code == 400 and says in answer.json()["error"]
    lacks = await asked(door, "lift", request(given("keypoints", np.zeros((1, 1, 17, 3)), "FP32")))
    assert lacks.status_code == 400 and "lack `image_size`" in lacks.json()["error"]


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


# ---- lift, photo, person


def walk(count: int) -> np.ndarray[Any, Any]:
    points = np.random.default_rng(1).uniform(0, 400, (1, count, 17, 3)).astype(np.float32)
    points[..., 2] = 0.5
    return points


@pytest.mark.parametrize("count", [1, FRAMES, 60])
async def test_a_sequence_as_tensor_is_lifted_as_one_of_v1(door: httpx.AsyncClient, count: int) -> None:
    points = walk(count)
    tensor = output(await asked(door, "lift", lift(points, parameters={"stature": 1.9})), "joints3d")
    body = {"skeleton": "h36m17", "image_size": [640, 480], "keypoints": points[0].tolist(), "stature": 1.9}
    assert np.allclose(tensor[0], (await door.post("/v1/lift", json=body)).json()["joints3d"], atol=1e-4)


async def test_an_unknown_joint_comes_as_nan_and_pictures_may_differ(door: httpx.AsyncClient) -> None:
    points = np.repeat(walk(3), 2, axis=0)
    points[:, :, 11, :2] = np.nan
    sizes = np.array([[640, 480], [64, 48]], np.int64)
    raw = points.tobytes()
    entry = {
        "name": "keypoints",
        "shape": [2, 3, 17, 3],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(raw)},
    }
    text = request(entry, given("image_size", sizes, "INT64"))
    answer = await asked(door, "lift", text + raw, **{LENGTH_HEADER: str(len(text))})
    assert output(answer, "joints3d").shape == (2, 3, 17, 3)


@pytest.mark.parametrize(
    ("points", "size", "status", "says"),
    [
        (np.full((1, 1, 17, 3), 2.0), (640, 480), 422, "scores of `keypoints`"),
        (np.full((1, 1, 17, 3), 2e6), (640, 480), 422, "within 1e+06 pixels"),
        (np.zeros((1, 1, 17, 3)), (0, 480), 422, "`image_size` must be whole pixels"),
        (np.zeros((1, 1, 16, 3)), (640, 480), 400, "[-1, -1, 17, 3]; got FP32 [1, 1, 16, 3]"),
        (np.zeros((1, 0, 17, 3)), (640, 480), 400, "a frame or more"),
        (np.zeros((3, 9, 17, 3)), (640, 480), 413, "27 frames in all; at most 20"),
    ],
)
async def test_sequences_that_cannot_be_are_refused_by_name(
    points: np.ndarray[Any, Any], size: tuple[int, int], status: int, says: str
) -> None:
    service = TinyService(max_frames=20)
    await service.start()
    async with client_of(service) as door:
        answer = await asked(door, "lift", lift(points, size))
    await service.close()
    assert answer.status_code == status and says in answer.json()["error"]


@pytest.fixture
async def two() -> AsyncIterator[TinyService]:
    """One with a second lifter, for what moves."""
    service = TinyService("motion@2")
    await service.start()
    yield service
    await service.close()


@pytest.mark.parametrize(
    ("name", "frames", "by"),
    [
        ("lift", 1, ("fake-lift", "1")),
        ("lift", 5, ("motion", "2")),
        ("lift", 60, ("motion", "2")),
        ("lift/versions/1", 5, ("fake-lift", "1")),
        ("lift/versions/2", 1, ("motion", "2")),
        ("fake-lift", 5, ("fake-lift", "1")),
        ("motion", 1, ("motion", "2")),
        ("motion/versions/2", 5, ("motion", "2")),
    ],
)
async def test_an_answer_names_the_lifter_that_gave_it_and_a_named_one_gives_it(
    two: TinyService, name: str, frames: int, by: tuple[str, str]
) -> None:
    async with client_of(two) as door:
        answer = await asked(door, name, lift(walk(frames)))
        assert output(answer, "joints3d").shape == (1, frames, 17, 3)
        assert (answer.json()["model_name"], answer.json()["model_version"]) == by
        used = [engine.label for engine in two.lifters.values() if engine.rows]
        assert used == ["@".join(by)]
        if name == "lift":
            body = {"skeleton": "h36m17", "image_size": [640, 480], "keypoints": walk(frames)[0].tolist()}
            assert (await door.post("/v1/lift", json=body)).json()["models"]["lift"] == used[0]


async def test_both_lifters_are_listed_and_the_alias_stands_for_both(two: TinyService) -> None:
    async with client_of(two) as door:
        names = (await door.get("/v2/models")).json()["models"]
        assert names == ["bright", "fake-lift", "fake-person", "lift", "motion", "photo", "pose"]
        for name, versions in (("lift", ["1", "2"]), ("fake-lift", ["1"]), ("motion", ["2"])):
            assert (await door.get(f"/v2/models/{name}")).json()["versions"] == versions
            policy = (await door.get(f"/v2/models/{name}/config")).json()["version_policy"]
            assert policy == {"specific": {"versions": list(map(int, versions))}}
        assert (await door.get("/v2/models/lift/versions/2")).json()["versions"] == ["2"]
        refused = await door.get("/v2/models/lift/versions/3")
        assert refused.status_code == 404 and "has the version 1 and 2; got '3'" in refused.json()["error"]
        rows = (await door.post("/v2/repository/index", json={"ready": True})).json()
        there = [(row["name"], row["version"]) for row in rows]
        assert sorted(row for row in there if "lift" in row[0] or row[0] == "motion") == [
            ("fake-lift", "1"),
            ("lift", "1"),
            ("lift", "2"),
            ("motion", "2"),
        ]


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


def encoded(picture: np.ndarray[Any, Any]) -> bytes:
    from service.media.drawing import encode

    return encode(picture, "png")


async def test_a_photo_as_bytes_is_answered_as_one_of_v1(door: httpx.AsyncClient) -> None:
    picture = encoded(draw(street(), (40, 50, 60, 120), RED))
    answer = await asked(door, "photo", picture, **RAW)
    assert answer.status_code == 200
    length = int(answer.headers[LENGTH_HEADER])
    (size,) = struct.unpack_from("<I", answer.content, length)
    document = json.loads(answer.content[length + 4 :])
    same = (await door.post("/v1/images", content=picture)).json()
    assert len(answer.content) == length + 4 + size and len(document["people"]) == 1
    assert document.pop("request_id") == answer.headers["x-request-id"] and same.pop("request_id")
    assert document == same


async def test_a_photos_options_are_parameters_and_checked_as_such(door: httpx.AsyncClient) -> None:
    picture = encoded(street())
    entry = {"name": "image", "shape": [1], "datatype": "BYTES"}
    packed = struct.pack("<I", len(picture)) + picture

    async def with_options(**options: Any) -> httpx.Response:
        text = request(entry | {"parameters": {"binary_data_size": len(packed)}}, parameters=options)
        return await asked(door, "photo", text + packed, **{LENGTH_HEADER: str(len(text))})

    answer = await with_options(boxes="[[1, 2, 30, 40], [5, 6, 30, 40]]", lift=False)
    document = json.loads(answer.json()["outputs"][0]["data"][0])
    assert len(document["people"]) == 2 and "joints3d" not in document["people"][0]
    wrong = await with_options(max_people=0)
    assert wrong.status_code == 422 and "1 to 100; got 0" in wrong.json()["error"]


async def test_the_finder_answers_boxes_and_scores(door: httpx.AsyncClient) -> None:
    answer = await asked(door, "fake-person", encoded(draw(street(), (40, 50, 60, 120), RED)), **RAW)
    length = int(answer.headers[LENGTH_HEADER])
    values = np.frombuffer(answer.content[length:], "<f4")
    assert values.tolist() == [40, 50, 60, 120, pytest.approx(0.9)]


@pytest.mark.parametrize(("body", "status"), [(b"hello", 415), (b"\xff\xd8\xff\xe0 cut", 400)])
async def test_what_is_no_picture_is_refused(door: httpx.AsyncClient, body: bytes, status: int) -> None:
    for model in ("photo", "fake-person"):
        answer = await asked(door, model, body, **RAW)
        assert answer.status_code == status and "`image`" in answer.json()["error"]


# ---- Statistics


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


async def test_a_photos_statistics_are_its_requests_and_nobody_elses(
    door: httpx.AsyncClient, photo: bytes, tiny: TinyService
) -> None:
    assert (await asked(door, "photo", photo, **RAW)).status_code == 200
    assert (await door.post("/v1/images", content=photo)).status_code == 200
    rows = {row["name"]: row for row in (await door.get("/v2/models/stats")).json()["model_stats"]}
    assert (rows["photo"]["inference_count"], rows["fake-person"]["inference_count"]) == (1, 2)


async def test_a_routes_metrics_are_counted_by_template(door: httpx.AsyncClient, tiny: TinyService) -> None:
    for name in ("nobody", "someone"):
        assert (await door.get(f"/v2/models/{name}")).status_code == 404
    labels = {"route": "/v2/models/{model}", "status": "404"}
    assert tiny.metrics.registry.get_sample_value("poselift_request_duration_seconds_count", labels) == 2
