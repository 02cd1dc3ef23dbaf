"""Pinhole cameras in the world, and how scenes choose them. Knows no bodies and draws nothing.

World axes: metres, z up. Camera axes: x right, y down, z away, as everywhere in the service.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.geometry.cameras import Camera
from service.geometry.cameras import project as project_pinhole

Floats = NDArray[np.float64]
Generator = np.random.Generator


@dataclass(frozen=True, eq=False)
class View:
    """eye: (3,) in the world. axes: (3, 3), columns right, down, away. focal_px; size: width, height."""

    eye: Floats
    axes: Floats
    focal_px: float
    size: tuple[int, int]

    @property
    def camera(self) -> Camera:
        return Camera(self.focal_px, (self.size[0] / 2, self.size[1] / 2), None, "given")

    def to_camera(self, world: ArrayLike) -> Floats:
        """(..., 3) world to the camera's axes."""
        return np.asarray((np.asarray(world, np.float64) - self.eye) @ self.axes)

    def project(self, world: ArrayLike) -> NDArray[np.float32]:
        """(..., 3) world to x, y in pixels and depth in metres; x and y are NaN behind the camera."""
        points = self.to_camera(world)
        flat = project_pinhole(points, self.camera)
        return np.concatenate([flat, points[..., 2:]], -1).astype(np.float32)

    def rays(self, pixels: ArrayLike) -> Floats:
        """(..., 3) world directions, depth 1, through pixels (..., 2)."""
        flat = (np.asarray(pixels, np.float64) - np.array(self.size) / 2) / self.focal_px
        return np.asarray(np.concatenate([flat, np.ones((*flat.shape[:-1], 1))], -1) @ self.axes.T)

    def enlarged(self, factor: int) -> View:
        """The same view with `factor` times the pixels a side."""
        return replace(self, focal_px=self.focal_px * factor, size=(self.size[0] * factor, self.size[1] * factor))


def looking(eye: ArrayLike, at: ArrayLike, roll: float, focal_px: float, size: tuple[int, int]) -> View:
    """A camera at `eye` that looks at a point, turned by `roll` radians about its axis: the world turns left in it."""
    place = np.asarray(eye, np.float64)
    away = np.asarray(at, np.float64) - place
    away = away / np.linalg.norm(away)
    right = np.cross(away, [0.0, 0, 1]) if abs(away[2]) < 0.999 else np.array([1.0, 0, 0])
    right = right / np.linalg.norm(right)
    down = np.cross(away, right)
    cos, sin = np.cos(roll), np.sin(roll)
    return View(place, np.stack([cos * right + sin * down, cos * down - sin * right, away], 1), focal_px, size)


def random_eye(target: ArrayLike, distance: float, rng: Generator, around: float | None = None) -> Floats:
    """A place to look at a point from: mostly from a person's height, at times from the floor or from far above."""
    middle = np.asarray(target, np.float64)
    chance = rng.random()
    if chance < 0.72:
        height = rng.uniform(0.7, 2.1)
    elif chance < 0.86:
        height = rng.uniform(0.1, 0.7)
    else:
        height = rng.uniform(2.1, 6.5)
    rise = float(np.clip(height - middle[2], -0.9 * distance, 0.94 * distance))
    flat = np.sqrt(distance**2 - rise**2)
    angle = rng.uniform(0, 2 * np.pi) if around is None else around
    return np.asarray(middle + np.array([flat * np.cos(angle), flat * np.sin(angle), rise]))


def random_roll(rng: Generator) -> float:
    """Radians: hands are nearly level, at times they are not."""
    return float(np.radians(rng.normal(0, 20 if rng.random() < 0.15 else 3.5)))


def framing(view: View, points: ArrayLike, aspect: float, room: float, size: tuple[int, int]) -> View:
    """The same eye turned and zoomed so that world points fill the picture but for `room`.

    Their box, widened or heightened to `aspect` (width over height), has `room` times its sides in the picture.
    """
    for _ in range(2):  # turning changes the perspective a little
        flat = view.to_camera(points)
        flat = flat[:, :2] / np.maximum(flat[:, 2:], 0.1)
        low, high = flat.min(0), flat.max(0)
        middle = view.axes @ np.append((low + high) / 2, 1)
        view = _turned(view, middle)
    flat = view.to_camera(points)
    flat = flat[:, :2] / np.maximum(flat[:, 2:], 0.1)
    wide, tall = np.abs(flat).max(0) * 2
    tall = max(float(tall), float(wide) / aspect, 1e-3)
    return replace(view, focal_px=size[1] / (room * tall), size=size)


def _turned(view: View, towards: Floats) -> View:
    """The view with its axis along `towards`, by the shortest turn."""
    away = towards / np.linalg.norm(towards)
    before = view.axes[:, 2]
    axis = np.cross(before, away)
    sine, cosine = np.linalg.norm(axis), before @ away
    if sine < 1e-9:
        return view
    x, y, z = axis / sine
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return replace(view, axes=(np.eye(3) + sine * cross + (1 - cosine) * cross @ cross) @ view.axes)
