"""Whole bodies for every door, made here: pictures and clips of all kinds that are read, sequences, tensors. No files.

A body knows its door, its query and its headers; what mutates it knows nothing of what it means.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import msgpack
import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image

from service.api.open_inference.wire import LENGTH_HEADER

WIDTH, HEIGHT = 96, 64
PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")
CLIPS = (("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mjpeg"), ("mov", "mjpeg"))
FRAMES = 6


@dataclass(frozen=True)
class Body:
    """A request that is in order. name: for the report."""

    name: str
    path: str
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""


def corpus() -> list[Body]:
    """A body or more of every kind that a door reads."""
    return [*_photos(), *_clips(), *_sequences(), *_tensors()]


def _pixels(seed: int = 0) -> NDArray[np.uint8]:
    """A soft pattern: what compresses like a photo, in colours."""
    wave = np.arange(HEIGHT)[:, None, None] * 2 + np.arange(WIDTH)[None, :, None] * (1 + seed % 3)
    pattern: NDArray[np.uint8] = (128 + 100 * np.sin((wave + np.array([0, 40, 80])) / 17 + seed)).astype(np.uint8)
    return pattern


def _photos() -> Iterator[Body]:
    pillow_heif.register_heif_opener()
    image = Image.fromarray(_pixels())
    exif = Image.Exif()
    exif[0x0112], exif[0xA405] = 6, 35
    for kind in PICTURES:
        file = io.BytesIO()
        image.save(file, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
        kept = {"Content-Type": "application/octet-stream"}
        yield Body(f"photo {kind}", "/v1/images", file.getvalue(), kept, "max_people=3&min_person_score=0.5")
    file = io.BytesIO()
    image.convert("CMYK").save(file, "JPEG", progressive=True)
    yield Body("photo CMYK", "/v1/images", file.getvalue(), {"Content-Type": "image/jpeg"}, "boxes=[[1,2,30,40]]")
    file = io.BytesIO()
    image.convert("P").save(file, "PNG", transparency=3)
    form = _form({"image": file.getvalue(), "options": b'{"stature": 1.8, "camera": {"focal_px": 90}, "states": true}'})
    yield Body("photo form", "/v1/images", form, {"Content-Type": "multipart/form-data; boundary=edge"})


def _form(parts: dict[str, bytes]) -> bytes:
    head = '--edge\r\nContent-Disposition: form-data; name="{}"; filename="f"\r\n\r\n'
    return b"".join(head.format(name).encode() + part + b"\r\n" for name, part in parts.items()) + b"--edge--\r\n"


def _clips() -> Iterator[Body]:
    for container, codec in CLIPS:
        file = io.BytesIO()
        with av.open(file, "w", format=container) as out:
            stream: Any = out.add_stream(codec, rate=10)
            stream.width, stream.height = WIDTH, HEIGHT
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(FRAMES):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(_pixels(number), format="rgb24")))
            out.mux(stream.encode())
        kept = {"Content-Type": "application/octet-stream"}
        yield Body(f"clip {container}", "/v1/clips", file.getvalue(), kept, "every=3&lift=false")
    file = io.BytesIO()
    first, *rest = (Image.fromarray(_pixels(number)) for number in range(FRAMES))
    first.save(file, "GIF", save_all=True, append_images=rest, duration=100)
    yield Body("clip GIF", "/v1/clips", file.getvalue(), {"Content-Type": "image/gif"}, "end=0.3")


def _sequences() -> Iterator[Body]:
    points = np.linspace(5, 90, 4 * 17 * 3).reshape(4, 17, 3)
    points[..., 2] = 0.5
    values = {"skeleton": "coco17", "image_size": [WIDTH, HEIGHT], "keypoints": points.tolist(), "fps": 25}
    yield Body("lift JSON", "/v1/lift", json.dumps(values).encode(), {"Content-Type": "application/json"})
    unknown = [[None] * 17] * 2
    several: dict[str, Any] = {"skeleton": "h36m17", "image_size": [WIDTH, HEIGHT]}
    several["people"] = [points[:2].tolist(), unknown]
    several |= {"times": [0.0, 0.04], "smooth": True, "camera": {"field_of_view": 60}}
    yield Body("lift people", "/v1/lift", json.dumps(several).encode(), {"Content-Type": "application/json"})
    yield Body("lift msgpack", "/v1/lift", msgpack.packb(values), {"Content-Type": "application/msgpack"})


def _tensors() -> Iterator[Body]:
    points = np.full((1, 3, 17, 3), 0.5, "<f4")
    sizes = np.array([[WIDTH, HEIGHT]], "<i4")
    tensors = [("keypoints", "FP32", points), ("image_size", "INT32", sizes)]
    inline = [{"name": n, "datatype": d, "shape": list(a.shape), "data": a.ravel().tolist()} for n, d, a in tensors]
    yield Body("tensors JSON", "/v2/models/lift/infer", json.dumps({"id": "a", "inputs": inline}).encode())
    behind = [
        {"name": n, "datatype": d, "shape": list(a.shape), "parameters": {"binary_data_size": a.nbytes}}
        for n, d, a in tensors
    ]
    head = json.dumps({"inputs": behind, "parameters": {"binary_data_output": True, "timeout": 9_000_000}}).encode()
    body = head + points.tobytes() + sizes.tobytes()
    yield Body("tensors binary", "/v2/models/lift/infer", body, {LENGTH_HEADER: str(len(head))})
    file = io.BytesIO()
    Image.fromarray(_pixels()).save(file, "JPEG")
    picture = struct.pack("<I", len(file.getvalue())) + file.getvalue()
    asked = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(picture)}}
    head = json.dumps({"inputs": [asked]}).encode()
    yield Body("tensors photo", "/v2/models/photo/infer", head + picture, {LENGTH_HEADER: str(len(head))})
    yield Body("tensors raw photo", "/v2/models/photo/infer", file.getvalue(), {LENGTH_HEADER: "0"})
