"""The doors of the protocol before a service with real queues, and what is asked of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from service.api.open_inference.wire import LENGTH_HEADER
from tests.api.conftest import client_of

from .fake import TinyService, crops

RAW = {LENGTH_HEADER: "0"}


@pytest.fixture
async def tiny() -> AsyncIterator[TinyService]:
    service = TinyService()
    await service.start()
    yield service
    await service.close()


@pytest.fixture
async def door(tiny: TinyService) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(tiny) as made:
        yield made


@pytest.fixture
async def two() -> AsyncIterator[TinyService]:
    """One with a second lifter, for what moves."""
    service = TinyService("motion@2")
    await service.start()
    yield service
    await service.close()


def request(*inputs: dict[str, Any], **others: Any) -> bytes:
    return json.dumps({"inputs": list(inputs)} | others).encode()


def given(name: str, array: np.ndarray[Any, Any], datatype: str) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}


def pose(count: int = 1, **others: Any) -> bytes:
    return request(given("crops", crops(count), "UINT8"), **others)


def lift(points: np.ndarray[Any, Any], size: Any = (640, 480), **others: Any) -> bytes:
    sizes = np.broadcast_to(np.array(size), (len(points), 2))
    return request(given("keypoints", points, "FP32"), given("image_size", sizes, "INT32"), **others)


def walk(count: int) -> np.ndarray[Any, Any]:
    points = np.random.default_rng(1).uniform(0, 400, (1, count, 17, 3)).astype(np.float32)
    points[..., 2] = 0.5
    return points


async def asked(door: httpx.AsyncClient, model: str, body: bytes, **headers: str) -> httpx.Response:
    return await door.post(f"/v2/models/{model}/infer", content=body, headers=headers)


def output(answer: httpx.Response, name: str) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    (found,) = [each for each in answer.json()["outputs"] if each["name"] == name]
    return np.array(found["data"], np.float32).reshape(found["shape"])
