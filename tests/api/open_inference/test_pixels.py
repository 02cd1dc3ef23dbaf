"""Pixels to pose, person and photo: crops as tensors, pictures as bytes, and what is answered."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from service.api.open_inference.wire import LENGTH_HEADER
from tests.pipelines.fake import RED, draw, street

from .conftest import RAW, asked, given, lift, output, pose, request
from .fake import HEIGHT, WIDTH, bright_places, crops

pytestmark = pytest.mark.anyio


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
    assert lacks.status_code == 400 and "lack `image_size`; got keypoints" in lacks.json()["error"]


# ---- photo, person


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
