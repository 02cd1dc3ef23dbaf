"""What a camera does to a picture: focus, motion, exposure, noise, and the file. Knows no scenes.

Takes linear RGB (height, width, 3), gives RGB bytes as screens have them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .textures import to_bytes

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]
Generator = np.random.Generator


def over(colours: Array, behind: Array, factor: int) -> Array:
    """Colours with their cover (h * factor, w * factor, 4) over a background (h, w, 3), as means of factor² pixels."""
    height, width = behind.shape[:2]
    small = cv2.resize(colours, (width, height), interpolation=cv2.INTER_AREA) if factor > 1 else colours
    return np.asarray(small[..., :3] + behind * (1 - small[..., 3:]), np.float32)


@dataclass(frozen=True, eq=False)
class Grade:
    """What a camera does the same to every frame: gains (3,), blur in pixels, streak (length, angle) or None, falling
    off to the corners, noise, and whether the noise is coarse."""

    gains: Array
    blur_px: float
    streak: tuple[float, float] | None
    falloff: float
    noise: float
    coarse: bool


def random_grade(height: int, rng: Generator, moving: float = 0.15) -> Grade:
    """A camera's faults for pictures of that height; a share of `moving` is smeared by movement."""
    smeared = rng.random() < moving
    streak = (float(rng.uniform(1.5, 0.02 * height + 2)), float(rng.uniform(0, np.pi))) if smeared else None
    blurred = not smeared and rng.random() < 0.6
    return Grade(
        np.asarray(np.exp(rng.normal(0, 0.15)) * np.exp(rng.normal(0, 0.04, 3)), np.float32),
        float(rng.uniform(0.3, 0.9)) if blurred else 0.0,
        streak,
        float(rng.uniform(0.1, 0.4)) if rng.random() < 0.3 else 0.0,
        float(np.exp(rng.uniform(np.log(0.0008), np.log(0.012)))),
        bool(rng.random() < 0.5),
    )


def develop(picture: Array, grade: Grade, rng: Generator) -> Picture:
    """Exposes a picture as `grade` has it; the generator draws the noise."""
    height, width = picture.shape[:2]
    out: Any = picture * grade.gains
    if grade.streak:
        out = cv2.filter2D(out, -1, _streak(*grade.streak))
    if grade.blur_px:
        out = cv2.GaussianBlur(out, (0, 0), grade.blur_px)
    if grade.falloff:
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        out = out * (1 - grade.falloff * (x**2 + y**2) / 2)[..., None]
    grain: Any = rng.standard_normal(out.shape, np.float32)
    if grade.coarse:  # in-camera smoothing
        grain = cv2.GaussianBlur(grain, (0, 0), 0.8) * 2
    return to_bytes(np.maximum(out + grain * grade.noise * np.sqrt(np.clip(out, 0, 1) + 0.02), 0).astype(np.float32))


def jpeg(picture: Picture, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(f"a picture of {picture.shape} could not be written as JPEG")
    return data.tobytes()


def _streak(length: float, angle: float) -> Array:
    """A kernel that smears along a line, sum 1."""
    side = int(np.ceil(length)) | 1
    kernel = np.zeros((side, side), np.float32)
    reach = np.array([np.cos(angle), np.sin(angle)]) * (length - 1) / 2
    for share in np.linspace(-1, 1, 4 * side):
        x, y = (side // 2 + share * reach).round().astype(int)
        kernel[y, x] += 1
    return np.asarray(kernel / kernel.sum(), np.float32)
