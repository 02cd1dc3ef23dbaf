"""What the benchmarks send: windows of keypoints and photos, as bytes made once. Pixels of made-up pictures."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np

WINDOW_FRAMES = 27
JSON = "application/json"
JPEG = "image/jpeg"
# Of two people on the drawn photo, where none can be found.
TWO_BOXES = "boxes=[[100,60,120,330],[350,80,130,320]]"


def window_body(seed: int = 0) -> dict[str, Any]:
    """A request for one window of 27 frames, about 9 kB."""
    points = np.random.default_rng(seed).uniform(200, 800, (WINDOW_FRAMES, 17, 2)).round(1)
    return {"skeleton": "h36m17", "image_size": [1000, 1000], "keypoints": points.tolist()}


def windows(count: int) -> bytes:
    """A request for so many windows, each a person."""
    if count == 1:
        return json.dumps(window_body()).encode()
    people = [window_body(seed)["keypoints"] for seed in range(count)]
    return json.dumps({"skeleton": "h36m17", "image_size": [1000, 1000], "people": people}).encode()


def drawn_photo() -> bytes:
    """A JPEG of 640 by 480 pixels, soft noise."""
    canvas = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.GaussianBlur(canvas, (0, 0), 5))[1].tobytes()
