"""What must not run on the event loop's thread: decoding, resizing, and whatever is long in a long sequence."""

from __future__ import annotations

import functools
import io
import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from service.api import images, lift
from service.api.app import create_app
from service.engines import framing
from service.pipelines import lift as lift_pipeline

if TYPE_CHECKING:
    from tests.conftest import Started

FRAMES = 2_000


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """By function, the names of the threads that it ran on."""
    seen: dict[str, set[str]] = {}

    def spy(module: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(module, name)

        @functools.wraps(real)
        def spied(*arguments: Any, **named: Any) -> Any:
            seen.setdefault(name, set()).add(threading.current_thread().name)
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, spied)

    for module, names in (
        (lift, ("read_sequences", "lift_answer")),
        (lift_pipeline, ("to_h36m17", "smooth", "place_all", "resample", "plan_windows")),
        (images, ("read_picture", "encode", "side_by_side")),
        (cv2, ("resize", "warpAffine", "imencode", "imdecode")),
        (framing, ("letterbox", "cut", "suppress")),  # not a batch's windows, which are light: `LiftFraming`
    ):
        for name in names:
            spy(module, name)
    return seen


def post(started: Started, path: str, body: bytes, kind: str, **headers: str) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app=create_app(started.service))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:
            return await client.post(path, content=body, headers={"content-type": kind, **headers})

    return started.run(call(), timeout_s=120)


def test_a_long_sequence_is_read_reckoned_and_written_off_the_loop(
    started: Started, threads: dict[str, set[str]]
) -> None:
    points = np.random.default_rng(0).uniform(0, 900, (FRAMES, 17, 2)).round(1).tolist()
    body = json.dumps(
        {"skeleton": "coco17", "image_size": [1000, 900], "fps": 70, "smooth": True, "keypoints": points}
    ).encode()
    answer = post(started, "/v1/lift", body, "application/json", **{"Request-Timeout-Ms": "100000"})
    assert answer.status_code == 200
    assert len(answer.json()["joints3d"]) == FRAMES
    expected = {
        "read_sequences",
        "lift_answer",
        "to_h36m17",
        "smooth",
        "place_all",
        "resample",
        "plan_windows",
    }
    assert expected <= set(threads)
    for name, names in threads.items():
        assert "started-service" not in names, name


@pytest.mark.parametrize("accept", ["application/json", "image/jpeg"])
def test_a_photo_is_decoded_resized_cut_and_drawn_off_the_loop(
    started: Started, threads: dict[str, set[str]], accept: str
) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    for boxes in ("", "?boxes=[[100,60,120,330]]"):
        answer = post(started, f"/v1/images{boxes}", file.getvalue(), "image/jpeg", accept=accept)
        assert answer.status_code == 200
    assert {"read_picture", "letterbox", "cut", "resize", "warpAffine", "suppress"} <= set(threads)
    for name, names in threads.items():
        assert "started-service" not in names or name in ("to_h36m17", "place_all", "plan_windows"), name
