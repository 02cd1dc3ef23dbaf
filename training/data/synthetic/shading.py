"""Light on triangles: from which is seen where to a picture with shadows. Knows parts and materials, no people.

Colours are linear RGB. World axes: metres, z up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .raster import Rasteriser, surface
from .textures import Material, noise, paint
from .views import View, looking

Array = NDArray[np.float32]
Indices = NDArray[np.int64]
Generator = np.random.Generator

SHADOW_SIDE = 384
SUN_AWAY_M = 100.0


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of a thing: places (n, 3) in the world, rest (n, 3) the places that its pattern is a function of,
    tint (n, 3) a colour factor, triangles (m, 3), and who it belongs to (-1: nobody, a thing that stands about).
    fixed: (n, 3) colours instead of the material's, NaN where the material counts; or None."""

    places: Array
    rest: Array
    tint: Array
    triangles: Indices
    material: Material
    owner: int
    fixed: Array | None = None


@dataclass(frozen=True, eq=False)
class Light:
    """sun: (3,) unit vector towards it, its colour (3,); sky and ground: (3,) what comes from above and below.
    shadow: how much of the sun a shadow takes, 0..1."""

    sun: Array
    colour: Array
    sky: Array
    ground: Array
    shadow: float


@dataclass(frozen=True, eq=False)
class Mesh:
    """All parts of a scene in one: places (n, 3), normals (n, 3), triangles (m, 3), and of each triangle its part and
    its owner (m,)."""

    places: Array
    normals: Array
    triangles: Indices
    part: Indices
    owner: Indices


def joined(parts: Sequence[Part]) -> Mesh:
    """One mesh of all parts, in their order."""
    starts = np.cumsum([0] + [len(part.places) for part in parts])
    places = np.concatenate([part.places for part in parts]) if parts else np.zeros((0, 3), np.float32)
    triangles = [part.triangles + start for part, start in zip(parts, starts, strict=False)]
    whole = np.concatenate(triangles) if triangles else np.zeros((0, 3), np.int64)
    counts = [len(part.triangles) for part in parts]
    return Mesh(
        places.astype(np.float32),
        vertex_normals(places, whole),
        whole,
        np.repeat(np.arange(len(parts)), counts),
        np.repeat(np.array([part.owner for part in parts], np.int64), counts),
    )


def vertex_normals(places: Array, triangles: Indices) -> Array:
    """(n, 3) unit normals, mean of the triangles around by their areas."""
    corner = places[triangles]
    faces = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    out = np.zeros((len(places), 3))
    for axis in range(3):
        for k in range(3):
            out[:, axis] += np.bincount(triangles[:, k], faces[:, axis], len(places))
    return np.asarray(out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12), np.float32)


class ShadowMap:
    """What the sun sees of a mesh, to ask which places lie in the shade."""

    def __init__(self, mesh: Mesh, sun: Array, rasterise: Rasteriser) -> None:
        middle = (mesh.places.min(0) + mesh.places.max(0)) / 2
        reach = float(np.linalg.norm(np.ptp(mesh.places, axis=0))) / 2 + 0.05
        focal = SHADOW_SIDE / 2 / reach * SUN_AWAY_M  # a long lens from far away is as good as parallel light
        self._view: View = looking(middle + SUN_AWAY_M * sun, middle, 0.0, focal, (SHADOW_SIDE, SHADOW_SIDE))
        self._cell_m = 2 * reach / SHADOW_SIDE
        points = self._view.project(mesh.places)
        seen = surface(rasterise(points, mesh.triangles, self._view.size), points, mesh.triangles)
        self._depth = np.full((SHADOW_SIDE, SHADOW_SIDE), np.inf, np.float32)
        self._depth[seen.rows, seen.columns] = seen.depth

    def lit(self, places: NDArray[np.generic]) -> Array:
        """(n,) 1 in the sun, 0 in the shade, between on the border (mean of four cells)."""
        points = self._view.project(places)
        points = np.where(np.isfinite(points), points, -1.0).astype(np.float32)  # behind the sun: beside the map, lit
        points[:, :2] = np.clip(points[:, :2], -1, SHADOW_SIDE + 1)
        out = np.zeros(len(points), np.float32)
        for dx, dy in ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)):
            x = np.clip((points[:, 0] + dx).astype(np.int64), 0, SHADOW_SIDE - 1)
            y = np.clip((points[:, 1] + dy).astype(np.int64), 0, SHADOW_SIDE - 1)
            out += points[:, 2] < self._depth[y, x] + 0.02 + 1.5 * self._cell_m
        return np.asarray(out / 4, np.float32)


def shade(
    parts: Sequence[Part],
    mesh: Mesh,
    ids: NDArray[np.int32],
    points: Array,
    view: View,
    light: Light,
    shadows: ShadowMap,
) -> Array:
    """(height, width, 4) colour and 1 where something is, of the picture whose triangles are `ids`."""
    seen = surface(ids, points, mesh.triangles)
    out = np.zeros((*ids.shape, 4), np.float32)
    if not len(seen.rows):
        return out
    corners = mesh.triangles[seen.triangles]

    def mixed(values: Array) -> Array:
        picked: Array = np.einsum("nk,nkd->nd", seen.weights, values[corners])
        return picked

    places, normals = mixed(mesh.places), mixed(mesh.normals)
    rest = mixed(np.concatenate([part.rest for part in parts]))
    tint = mixed(np.concatenate([part.tint for part in parts]))
    none = np.full((1, 3), np.nan, np.float32)
    fixed = mixed(np.concatenate([np.repeat(none, len(p.rest), 0) if p.fixed is None else p.fixed for p in parts]))
    albedo, shine = np.empty_like(places), np.empty(len(places), np.float32)
    which = mesh.part[seen.triangles]
    for number, part in enumerate(parts):
        mine = which == number
        if not mine.any():
            continue
        at = rest[mine]
        albedo[mine] = paint(part.material, at) * tint[mine]
        shine[mine] = part.material.shine
        bumps = _bumps(at, part.material)
        normals[mine] = normals[mine] + bumps
    albedo = np.where(np.isfinite(fixed), fixed, albedo)
    toward = (view.eye - places).astype(np.float32)
    toward /= np.linalg.norm(toward, axis=1, keepdims=True)
    # A thin thing (a hem, a hair card) is lit on the side that is looked at.
    normals *= np.where((normals * toward).sum(1, keepdims=True) < 0, -1, 1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    sun = np.clip(normals @ light.sun, 0, 1) * (1 - light.shadow * (1 - shadows.lit(places)))
    up = (normals[:, 2:] + 1) / 2
    around = light.sky * up + light.ground * (1 - up)
    half = toward + light.sun
    half /= np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-6)
    gloss = shine * np.clip((normals * half).sum(1), 0, 1) ** 24 * (sun > 0)
    colour = albedo * (around + sun[:, None] * light.colour) + 0.25 * gloss[:, None] * light.colour
    out[seen.rows, seen.columns] = np.concatenate([colour, np.ones((len(colour), 1), np.float32)], 1)
    return out


def floor_shade(view: View, shadows: ShadowMap, light: Light) -> Array:
    """(height, width) factor for the background: less than 1 where its floor (z = 0) lies in somebody's shade."""
    width, height = view.size
    step = 2  # soft anyway
    columns, rows = np.meshgrid(np.arange(0, width, step) + step / 2, np.arange(0, height, step) + step / 2)
    rays = view.rays(np.stack([columns, rows], -1)).reshape(-1, 3)
    factor = np.ones(len(rays), np.float32)
    hit = np.flatnonzero(rays[:, 2] < -0.02)
    places = view.eye + rays[hit] * (-view.eye[2] / rays[hit, 2])[:, None]
    factor[hit] = 1 - 0.75 * light.shadow * (1 - shadows.lit(places))
    small = cv2.GaussianBlur(factor.reshape(rows.shape), (0, 0), max(height / 300, 0.8))
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def random_light(background: Array, rng: Generator) -> Light:
    """A light that could be the background's: its mean colour from around, and a sun or a lamp from above."""
    mean = background.reshape(-1, 3).mean(0)
    grey = max(float(mean.mean()), 0.05)
    cast = (mean + 0.6 * grey) / (1.6 * grey)
    level = grey**0.5 * np.exp(rng.normal(0.35, 0.3))
    turn, rise = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(20, 85))
    sun = np.array([np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise)], np.float32)
    hard = rng.uniform(0.1, 1.0)
    warm = np.exp(rng.normal(0, 0.1) * np.array([1.0, 0, -1]))
    return Light(
        sun,
        np.asarray(level * 1.5 * hard * cast * warm, np.float32),
        np.asarray(level * (1.15 - 0.6 * hard) * cast / warm, np.float32),
        np.asarray(level * (0.5 - 0.2 * hard) * cast, np.float32),
        float(rng.uniform(0.3, 1.0) * hard**0.5),
    )


def _bumps(at: Array, material: Material) -> Array:
    """(n, 3) what folds and unevenness add to the normals."""
    across, along = at[:, 0] + 0.6 * at[:, 1], at[:, 2]
    step = 0.01
    here = noise(across * 2.2, along * 1.6, material.seed + 9)
    slope_x = noise((across + step) * 2.2, along * 1.6, material.seed + 9) - here
    slope_z = noise(across * 2.2, (along + step) * 1.6, material.seed + 9) - here
    zero = np.zeros_like(slope_x)
    return np.asarray(0.9 * material.wrinkles * np.stack([slope_x, zero, slope_z], 1), np.float32)
