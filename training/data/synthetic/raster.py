"""Which triangle each pixel shows: a z-buffer in numpy, and what follows from it. Knows no colours, people or cameras.

Points are (n, 3): x and y in pixels from the picture's corner (pixel centres lie at .5), and the depth, metres over 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
# Points, triangles (m, 3), width and height, to the triangle of each pixel (height, width), -1 where none is.
Rasteriser = Callable[[Array, Indices, tuple[int, int]], NDArray[np.int32]]

NEAREST_M = 0.05  # triangles that come nearer are left out
FRAGMENTS_AT_ONCE = 1_000_000
SIDES = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)  # triangles of about one size are drawn together, on grids of that side
EDGE = 1e-9  # neighbours share their edge's pixels rather than leave a crack


class Seen(NamedTuple):
    """The pixels that show a triangle: rows and columns (n,), triangle (n,), corners' weights (n, 3), depth (n,)."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    triangles: Indices
    weights: Array
    depth: Array


def rasterise(points: Array, triangles: Indices, size: tuple[int, int]) -> NDArray[np.int32]:
    """Draws all triangles at once: every pixel centre inside one is a candidate, the nearest stays.

    Both sides of a triangle are drawn. size: width, height.
    """
    width, height = size
    corners = points[triangles]  # (m, 3 corners, 3)
    flat = corners[..., :2].astype(np.float64)
    low = np.maximum(np.ceil(flat.min(1) - 0.5), 0).astype(np.int64)
    high = np.minimum(np.floor(flat.max(1) - 0.5), [width - 1, height - 1]).astype(np.int64)
    area = _cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])
    drawn = (np.abs(area) > 1e-9) & (high >= low).all(1) & (corners[..., 2].min(1) > NEAREST_M)
    side = np.where(drawn, (high - low).max(1) + 1, 0)
    nearest, out = np.zeros(width * height, np.float32), np.full(width * height, -1, np.int32)
    for some, columns, rows in _alike(side, high - low + 1):
        grid = _Grid(low[some], columns, rows, size)
        pixel, near, which = _fragments(flat[some], 1 / corners[some, :, 2], area[some], grid)
        ahead = near > nearest[pixel]
        pixel, near, which = pixel[ahead], near[ahead], which[ahead]
        order = np.argsort(near, kind="stable")  # of those on one pixel, numpy keeps the one written last
        nearest[pixel[order]], out[pixel[order]] = near[order], some[which[order]]
    return out.reshape(height, width)


def _alike(side: Indices, spans: Indices) -> Iterator[tuple[Indices, int, int]]:
    """Triangles of about one size together, and a grid's columns and rows that hold each of them; large ones alone."""
    smallest = 1
    for largest in SIDES:
        of_size = np.flatnonzero((side >= smallest) & (side <= largest))
        at_once = FRAGMENTS_AT_ONCE // largest**2
        for start in range(0, len(of_size), at_once):
            yield of_size[start : start + at_once], largest, largest
        smallest = largest + 1
    for triangle in np.flatnonzero(side >= smallest):
        yield np.array([triangle]), int(spans[triangle, 0]), int(spans[triangle, 1])


class _Grid(NamedTuple):
    """Pixels from `low` (m, 2) on, for each of m triangles, in a picture of `size`."""

    low: Indices
    columns: int
    rows: int
    size: tuple[int, int]


def _fragments(flat: Floats, inverse: Floats, area: Floats, grid: _Grid) -> tuple[Indices, Array, Indices]:
    """Pixels of the grids whose centres lie inside of their triangles, their inverse depth, and which triangle."""
    a, b, c = (flat[:, corner] - grid.low - 0.5 for corner in range(3))
    # Weights of the second and third corner are linear in x and y, from the first pixel's centre on.
    second, third = _linear(a, c, area, grid), _linear(b, a, area, grid)
    inside = (second >= -EDGE) & (third >= -EDGE) & (second + third <= 1 + EDGE)
    which, row, column = np.nonzero(inside)
    x, y = grid.low[which, 0] + column, grid.low[which, 1] + row
    kept = (x < grid.size[0]) & (y < grid.size[1])
    which, row, column, x, y = which[kept], row[kept], column[kept], x[kept], y[kept]
    two, three = second[which, row, column], third[which, row, column]
    near = inverse[which, 0] * (1 - two - three) + inverse[which, 1] * two + inverse[which, 2] * three
    return y * grid.size[0] + x, near.astype(np.float32), which


def _linear(start: Floats, end: Floats, area: Floats, grid: _Grid) -> Floats:
    """(m, rows, columns) twice the signed area on the line from start to end, over `area`, at every pixel."""
    across = ((end[:, 1] - start[:, 1]) / area)[:, None, None] * np.arange(grid.columns)
    down = -((end[:, 0] - start[:, 0]) / area)[:, None, None] * np.arange(grid.rows)[:, None]
    first = -(start[:, 0] * (end[:, 1] - start[:, 1]) - start[:, 1] * (end[:, 0] - start[:, 0])) / area
    return np.asarray(first[:, None, None] + across + down)


def surface(ids: NDArray[np.int32], points: Array, triangles: Indices) -> Seen:
    """Where in its triangle each pixel lies: weights of the corners, right in perspective, and the depth."""
    rows, columns = np.nonzero(ids >= 0)
    shown = ids[rows, columns].astype(np.int64)
    corners = points[triangles[shown]]
    at = np.stack([columns, rows], -1) + 0.5
    flat = corners[..., :2].astype(np.float64)
    a, b, c = flat[:, 0], flat[:, 1], flat[:, 2]
    area = _cross(b - a, c - a)
    area = np.where(np.abs(area) < 1e-12, 1e-12, area)
    second, third = _cross(at - a, c - a) / area, _cross(b - a, at - a) / area
    # A rasteriser of 8 bits below the pixel may draw a centre that lies a hair outside.
    linear = np.clip(np.stack([1 - second - third, second, third], -1), 0, 1)
    inverse = linear / corners[..., 2]
    depth = 1 / inverse.sum(1)
    weights = inverse * depth[:, None]
    return Seen(rows, columns, shown, weights.astype(np.float32), depth.astype(np.float32))


def nearest_surface(at: Array, points: Array, triangles: Indices) -> tuple[Indices, Array]:
    """The first triangle behind each of some pixels, exactly, between the pixel centres too.

    at: (k, 2) pixels. Returns the triangle of each (k,), -1 where there is none, and its depth there (k,), inf.
    """
    found, depths = np.full(len(at), -1, np.int64), np.full(len(at), np.inf, np.float32)
    corners = points[triangles]
    usable = corners[..., 2].min(1) > NEAREST_M
    left, top = np.ascontiguousarray(corners[..., :2].min(1).T)
    right, bottom = np.ascontiguousarray(corners[..., :2].max(1).T)
    for k, place in enumerate(np.asarray(at, np.float32)):
        x, y = place
        near = np.flatnonzero(usable & (left <= x) & (right >= x) & (top <= y) & (bottom >= y))
        flat = corners[near, :, :2].astype(np.float64)
        a, b, c = flat[:, 0], flat[:, 1], flat[:, 2]
        area = _cross(b - a, c - a)
        with np.errstate(all="ignore"):
            second, third = _cross(place - a, c - a) / area, _cross(b - a, place - a) / area
        weights = np.stack([1 - second - third, second, third], -1)
        inside = (weights >= 0).all(1)
        if inside.any():
            depth = 1 / (weights[inside] / corners[near[inside], :, 2]).sum(1)
            found[k], depths[k] = near[inside][depth.argmin()], depth.min()
    return found, depths


def _cross(a: Floats, b: Floats) -> Floats:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])
