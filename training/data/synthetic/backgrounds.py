"""What lies behind the people: a part of a photo that shows nobody, or a room or a field made of noise.

Pictures are linear RGB, (height, width, 3). Knows no people.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .textures import linear, noise, random_colour
from .views import View

Array = NDArray[np.float32]
Generator = np.random.Generator


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of their names; ValueError where there is none."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise ValueError(f"{folder} holds no .jpg or .png to put behind people")
    return files


def background(view: View, pictures: Sequence[Path], rng: Generator) -> Array:
    """A background of the view's size: a part of one of the pictures, nine times in ten, where there are any."""
    if pictures and rng.random() < 0.9:
        pixels = cv2.imread(str(pictures[int(rng.integers(len(pictures)))]))
        if pixels is not None:
            return _part(linear(pixels[..., ::-1]), view.size, rng)
    return procedural(view, rng)


def _part(picture: Array, size: tuple[int, int], rng: Generator) -> Array:
    width, height = size
    tall, wide = picture.shape[:2]
    most = min(wide / width, tall / height)
    scale = most * rng.uniform(0.5, 1.0)
    w, h = int(width * scale), int(height * scale)
    x, y = rng.integers(wide - w + 1), rng.integers(tall - h + 1)
    part = picture[y : y + h, x : x + w]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    way = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    out = cv2.resize(np.ascontiguousarray(part), size, interpolation=way)
    if rng.random() < 0.35:  # out of focus
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.5, 0.01 * height + 0.6))
    return np.asarray(out * np.exp(rng.normal(0, 0.25)), np.float32)


def procedural(view: View, rng: Generator) -> Array:
    """Floor and wall, or ground and sky, with noise, tiles and flat things; the horizon is the view's own."""
    width, height = view.size
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = view.rays(np.stack([columns, rows], -1))
    distance = np.where(rays[..., 2] < -1e-3, -view.eye[2] / np.minimum(rays[..., 2], -1e-3), np.inf)
    depth_of_room = rng.uniform(4, 14) if rng.random() < 0.6 else np.inf
    outdoors = not np.isfinite(depth_of_room)
    flat = np.hypot(rays[..., 0], rays[..., 1])
    floor = distance * flat < min(depth_of_room, 60)
    reach = np.where(floor, distance, 1.0)
    at = view.eye[:2] + rays[..., :2] * reach[..., None]
    ground = _surface(at[..., 0].ravel(), at[..., 1].ravel(), rng, height_px=height).reshape(height, width, 3)
    angle = np.arctan2(rays[..., 1], rays[..., 0])
    if outdoors:
        top, low = np.array([0.25, 0.45, 0.85]) * rng.uniform(0.5, 1.1), np.full(3, rng.uniform(0.4, 0.95))
        rise = np.clip(rays[..., 2] / np.maximum(flat, 1e-3) * 1.5, 0, 1)[..., None]
        wall = low + rise * (top - low)
        clouds = noise(angle.ravel() * 0.4, rise.ravel() * 0.5, int(rng.integers(99))).reshape(height, width, 1)
        wall = np.clip(wall + 0.15 * clouds, 0, 1)
    else:
        rise = view.eye[2] + rays[..., 2] / np.maximum(flat, 1e-6) * depth_of_room
        wall = _surface((angle * depth_of_room).ravel(), rise.ravel(), rng, height_px=height).reshape(height, width, 3)
    out = np.where(floor[..., None], ground, wall).astype(np.float32)
    for _ in range(rng.integers(0, 7)):  # furniture, posts, windows: flat rectangles
        x, y = rng.uniform(0, width), rng.uniform(0, height * 0.8)
        w, h = rng.uniform(0.05, 0.3) * width, rng.uniform(0.05, 0.5) * height
        box = slice(int(max(y - h / 2, 0)), int(y + h / 2) + 1), slice(int(max(x - w / 2, 0)), int(x + w / 2) + 1)
        out[box] = _muted(rng) * (1 + 0.1 * rng.normal(size=(*out[box].shape[:2], 1)))
    soft = cv2.GaussianBlur(np.clip(out, 0, 1), (0, 0), rng.uniform(0.4, 1.8))
    return np.asarray(soft, np.float32)


def _surface(u: NDArray[np.float64], v: NDArray[np.float64], rng: Generator, height_px: int) -> Array:
    """(n, 3) colours of a floor or wall at (n,) metres: noisy, or tiled, or of boards."""
    first = _muted(rng)
    second = first * np.exp(rng.normal(0, 0.5, 3) + rng.normal(0, 0.3))
    seed = int(rng.integers(1000))
    grain = noise(u * 0.3, v * 0.3, seed)
    share = np.clip(0.5 + 0.5 * grain, 0, 1)
    kind = rng.integers(3)
    size = rng.uniform(0.2, 1.0)
    if kind == 1:
        share = 0.7 * ((np.floor(u / size) + np.floor(v / size)) % 2) + 0.3 * share
    elif kind == 2:
        share = np.where((u / size) % 1 < 0.06, 1.0, 0.25 * share)
    return np.asarray((first + share[:, None] * (second - first)) * (1 + 0.15 * grain)[:, None], np.float32)


def _muted(rng: Generator) -> Array:
    """A colour as walls, floors and furniture have it: hardly any."""
    colour = random_colour(rng)
    return np.asarray(0.3 * colour + 0.7 * colour.mean() * np.array([1.1, 1.0, 0.88]), np.float32)
