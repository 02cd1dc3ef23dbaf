"""What the benchmarks send: windows of keypoints and photos, as bytes made once. Pixels of made-up pictures.

The people are those of a scene that our own renderer made, which stands in the README.
"""

from __future__ import annotations

import io
import json
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from .machine import TREE

WINDOW_FRAMES = 27
JSON = "application/json"
JPEG = "image/jpeg"
MP4 = "video/mp4"
PHOTO_WIDTHS = (480, 960, 1920)
CLIP_FRAMES, CLIP_FPS, CLIP_WIDTH = 10, 10, 320


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


def rendered_scene() -> NDArray[np.uint8]:
    """(285, 480, 3) BGR: three people standing side by side."""
    scene = cv2.imread(str(TREE / "docs/images/rendered.jpg"))
    assert scene is not None
    return scene[:, : scene.shape[1] // 2].astype(np.uint8)  # beside it are its labels


def two_people() -> bytes:
    """A JPEG of 640 by 480 pixels: the two on the scene's left side."""
    part = rendered_scene()[32:269, :316]
    return cv2.imencode(".jpg", cv2.resize(part, (640, 480), interpolation=cv2.INTER_CUBIC))[1].tobytes()


def rendered_photos() -> list[bytes]:
    """JPEGs of the scene in several sizes."""
    scene = rendered_scene()
    photos = []
    for width in PHOTO_WIDTHS:
        height = round(width * scene.shape[0] / scene.shape[1])
        photos.append(cv2.imencode(".jpg", cv2.resize(scene, (width, height)))[1].tobytes())
    return photos


def rendered_clip() -> bytes:
    """An MP4 of a second, in which the camera turns from one side of the scene to the other."""
    scene = np.ascontiguousarray(rendered_scene()[:284, :, ::-1])  # even sides, as the codec wants them
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=CLIP_FPS)
        stream.width, stream.height, stream.pix_fmt = CLIP_WIDTH, scene.shape[0], "yuv420p"
        for n in range(CLIP_FRAMES):
            left = n * (scene.shape[1] - CLIP_WIDTH) // (CLIP_FRAMES - 1)
            view = np.ascontiguousarray(scene[:, left : left + CLIP_WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
