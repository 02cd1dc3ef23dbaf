"""Which triangle each pixel shows, and what follows from it."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.synthetic.egl import EglRasteriser
from training.data.synthetic.raster import Array, Indices, nearest_surface, rasterise, surface
from training.data.synthetic.rasterisers import rasteriser

SIZE = (60, 40)
SQUARE = np.array([(10, 5, 2), (30, 5, 2), (30, 25, 2), (10, 25, 2)], np.float32)
HALVES = np.array([(0, 1, 2), (0, 2, 3)])


def crumbs(seed: int, count: int = 400) -> tuple[Array, Indices]:
    """Triangles of all sizes, some of them outside or behind."""
    rng = np.random.default_rng(seed)
    middle = rng.uniform([-5, -5, 0.02], [65, 45, 5], (count, 1, 3))
    spread = np.exp(rng.uniform(-1, 3.5, (count, 1, 1))) * [1, 1, 0.02]
    points = middle + rng.normal(size=(count, 3, 3)) * spread
    points[..., 2] = np.maximum(points[..., 2], 0.01)
    return points.reshape(-1, 3).astype(np.float32), np.arange(3 * count).reshape(-1, 3)


def test_nothing_shows_nothing() -> None:
    empty = rasterise(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64), SIZE)
    assert empty.shape == (40, 60) and (empty == -1).all()
    assert len(surface(empty, np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64)).rows) == 0


def test_a_square_of_two_triangles_shows_on_exactly_its_pixels_without_a_crack() -> None:
    shown = rasterise(SQUARE, HALVES, SIZE) >= 0
    expected = np.zeros((40, 60), bool)
    expected[5:25, 10:30] = True
    assert (shown == expected).all()


def test_a_mesh_of_slanted_pieces_has_no_cracks() -> None:
    rng = np.random.default_rng(3)
    x, y = np.meshgrid(np.linspace(-2, 62, 23), np.linspace(-2, 42, 19))
    points = np.stack([x, y, np.full_like(x, 2)], -1)
    points[1:-1, 1:-1, :2] += rng.uniform(-0.8, 0.8, (17, 21, 2))
    at = np.arange(23 * 19).reshape(19, 23)
    quads = np.stack([at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]], -1).reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    assert (rasterise(points.reshape(-1, 3).astype(np.float32), triangles, SIZE) >= 0).all()


def test_the_nearest_is_seen_in_whatever_order_it_comes() -> None:
    points, triangles = crumbs(0)
    order = np.random.default_rng(1).permutation(len(triangles))
    shown, shuffled = rasterise(points, triangles, SIZE), rasterise(points, triangles[order], SIZE)
    assert (np.where(shuffled >= 0, order[shuffled], -1) == shown).mean() > 0.999  # all but exact ties


def test_a_mirrored_scene_gives_the_mirrored_picture() -> None:
    points, triangles = crumbs(1)
    mirrored = points * np.array([-1, 1, 1], np.float32) + np.array([60, 0, 0], np.float32)
    assert (rasterise(mirrored, triangles, SIZE)[:, ::-1] == rasterise(points, triangles, SIZE)).mean() > 0.998


def test_the_side_that_a_triangle_turns_to_us_does_not_matter() -> None:
    points, triangles = crumbs(2)
    assert (rasterise(points, triangles[:, ::-1], SIZE) == rasterise(points, triangles, SIZE)).mean() > 0.999


def test_what_is_too_near_is_left_out() -> None:
    points = SQUARE * np.array([1, 1, 0.01], np.float32)
    assert (rasterise(points, HALVES, SIZE) == -1).all()


def test_the_arguments_are_left_as_they_were() -> None:
    points, triangles = crumbs(4)
    before = points.copy(), triangles.copy()
    surface(rasterise(points, triangles, SIZE), points, triangles)
    assert (points == before[0]).all() and (triangles == before[1]).all()


def test_a_slanted_plane_has_its_own_depth_in_every_pixel() -> None:
    # Depth 1 / (a + b x) is a plane in space.
    def depth(x: np.ndarray) -> np.ndarray:
        return np.asarray(1 / (0.2 + 0.005 * x))

    flat = SQUARE.copy()
    flat[:, 2] = depth(flat[:, 0])
    seen = surface(rasterise(flat, HALVES, SIZE), flat, HALVES)
    np.testing.assert_allclose(seen.depth, depth(seen.columns + 0.5), rtol=1e-4)


def test_the_weights_lead_back_to_the_pixel() -> None:
    points, triangles = crumbs(5)
    seen = surface(rasterise(points, triangles, SIZE), points, triangles)
    corners = points[triangles[seen.triangles]]
    depth = corners[..., 2:]
    rays = np.concatenate([corners[..., :2] * depth, depth], -1)  # homogeneous
    mixed = (seen.weights[..., None] * rays).sum(1)
    flat = mixed[:, :2] / mixed[:, 2:]
    np.testing.assert_allclose(flat, np.stack([seen.columns, seen.rows], -1) + 0.5, atol=0.02)
    np.testing.assert_allclose(seen.weights.sum(1), 1, rtol=1e-4)


def test_the_first_surface_behind_a_pixel_is_what_the_picture_shows_there() -> None:
    points, triangles = crumbs(6)
    shown = rasterise(points, triangles, SIZE)
    rng = np.random.default_rng(7)
    at = np.stack([rng.integers(60, size=200), rng.integers(40, size=200)], -1)
    found, depths = nearest_surface((at + 0.5).astype(np.float32), points, triangles)
    assert (found == shown[at[:, 1], at[:, 0]]).mean() > 0.98
    assert (np.isinf(depths) == (found < 0)).all()


def test_nothing_lies_behind_a_pixel_of_an_empty_scene() -> None:
    found, depths = nearest_surface(np.array([[3.0, 3.0]], np.float32), SQUARE[:0], HALVES[:0])
    assert found.tolist() == [-1] and np.isinf(depths).all()


@pytest.fixture(scope="module")
def egl() -> EglRasteriser:
    try:
        return EglRasteriser()
    except RuntimeError as reason:
        pytest.skip(str(reason))


def test_egl_shows_the_same_triangles_but_for_pixels_on_edges(egl: EglRasteriser) -> None:
    for seed in range(3):
        points, triangles = crumbs(10 + seed)
        usable = np.isin(triangles, np.flatnonzero((np.abs(points[:, :2]) < 2000).all(1))).all(1)
        ours, theirs = rasterise(points, triangles[usable], SIZE), egl(points, triangles[usable], SIZE)
        assert (ours == theirs).mean() > 0.98


def test_egl_shows_nothing_of_nothing(egl: EglRasteriser) -> None:
    assert (egl(SQUARE, HALVES[:0], SIZE) == -1).all()


def test_the_choice_falls_back_to_numpy_only_where_nothing_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> EglRasteriser:
        raise RuntimeError("no EGL")

    monkeypatch.setattr("training.data.synthetic.rasterisers.EglRasteriser", none)
    assert rasteriser("cpu") is rasterise and rasteriser("auto") is rasterise
    with pytest.raises(RuntimeError, match="no EGL"):
        rasteriser("egl")
