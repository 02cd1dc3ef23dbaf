"""Sequences of keypoints as tensors to lift, and which of two lifters answers them."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from service.api.open_inference.wire import LENGTH_HEADER
from tests.api.conftest import client_of
from tests.pipelines.fake import FRAMES

from .conftest import asked, given, lift, output, request, walk
from .fake import TinyService

pytestmark = pytest.mark.anyio


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


# ---- Two lifters


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
