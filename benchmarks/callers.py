"""Callers of a running service, over HTTP: latency alone, throughput together, what the service adds."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from typing import Any

import cv2
import httpx
import numpy as np

WINDOW_FRAMES = 27


def window_body(seed: int = 0) -> dict[str, Any]:
    """A request for one window of 27 frames, about 9 kB."""
    points = np.random.default_rng(seed).uniform(200, 800, (WINDOW_FRAMES, 17, 2)).round(1)
    return {"skeleton": "h36m17", "image_size": [1000, 1000], "keypoints": points.tolist()}


async def lift(url: str, callers: int, seconds: float) -> dict[str, float]:
    """POST /v1/lift in a closed loop: requests a second, and the latency's median and 99th percentile in ms."""
    times: list[float] = []
    limits = httpx.Limits(max_connections=callers)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
        end = time.perf_counter() + seconds

        async def caller(number: int) -> None:
            body = json.dumps(window_body(number)).encode()  # once: encoding would cost as much as the answer
            while time.perf_counter() < end:
                started = time.perf_counter()
                answer = await client.post("/v1/lift", content=body, headers={"content-type": "application/json"})
                answer.raise_for_status()
                times.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*[caller(n) for n in range(callers)])
        elapsed = time.perf_counter() - started
    return {
        "requests_a_second": round(len(times) / elapsed, 1),
        "p50_ms": round(1000 * statistics.median(times), 2),
        "p99_ms": round(1000 * float(np.quantile(times, 0.99)), 2),
    }


async def photo(url: str, repeats: int = 20) -> dict[str, float]:
    """POST /v1/images with two boxes on a drawn 640x480 photo: median ms, and the part that is no network's."""
    canvas = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    body = cv2.imencode(".jpg", cv2.GaussianBlur(canvas, (0, 0), 5))[1].tobytes()
    boxes = "[[100,60,120,330],[350,80,130,320]]"
    totals, above = [], []
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for _ in range(repeats):
            started = time.perf_counter()
            headers = {"content-type": "image/jpeg"}
            answer = await client.post("/v1/images", params={"boxes": boxes}, content=body, headers=headers)
            answer.raise_for_status()
            total = 1000 * (time.perf_counter() - started)
            stages = dict(part.strip().split(";dur=") for part in answer.headers["server-timing"].split(","))
            totals.append(total)
            above.append(total - sum(float(stages.get(stage, 0)) for stage in ("person", "pose", "lift")))
    return {"p50_ms": round(statistics.median(totals), 2), "above_networks_ms": round(statistics.median(above), 2)}
