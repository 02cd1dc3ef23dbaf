"""Light on triangles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.data.synthetic.figures import thing
from training.data.synthetic.raster import rasterise
from training.data.synthetic.shading import (
    Light,
    Part,
    ShadowMap,
    floor_shade,
    joined,
    random_light,
    shade,
    vertex_normals,
)
from training.data.synthetic.textures import Material
from training.data.synthetic.views import View, looking

GREY = Material("plain", np.full((3, 3), 0.5, np.float32), 0.1, 0, 0, 0.0, 0.0, 0.0)
WHITE = np.ones(3, np.float32)
ABOVE = Light(np.array([0, 0, 1], np.float32), WHITE, 0.2 * WHITE, 0.1 * WHITE, 1.0)


def block(middle: tuple[float, float, float], sides: tuple[float, float, float], owner: int = -1) -> Part:
    return replace(thing(np.random.default_rng(0), middle, sides, 0.0), material=GREY, owner=owner)


def view() -> View:
    return looking((0, -6, 2.5), (0, 0, 0.7), 0, 150, (120, 90))


def drawn(parts: list[Part], light: Light = ABOVE) -> np.ndarray:
    mesh, seen_by = joined(parts), view()
    points = seen_by.project(mesh.places)
    ids = rasterise(points, mesh.triangles, seen_by.size)
    return shade(parts, mesh, ids, points, seen_by, light, ShadowMap(mesh, light.sun, rasterise))


def test_normals_of_a_ball_point_away_from_its_middle() -> None:
    rng = np.random.default_rng(0)
    around, up = np.meshgrid(np.linspace(0, 2 * np.pi, 25)[:-1], np.linspace(0.1, np.pi - 0.1, 13))
    places = np.stack([np.sin(up) * np.cos(around), np.sin(up) * np.sin(around), np.cos(up)], -1).reshape(-1, 3)
    at = np.arange(24 * 13).reshape(13, 24)
    below = np.roll(at, -1, 1)
    quads = np.stack([at[:-1], at[1:], below[1:], below[:-1]], -1).reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    normals = vertex_normals(places.astype(np.float32), triangles[rng.permutation(len(triangles))])
    assert (normals * places).sum(1).min() > 0.95


def test_parts_keep_their_owners_and_their_places_in_one_mesh() -> None:
    parts = [block((0, 0, 1), (1, 1, 1), 4), block((2, 0, 1), (1, 1, 1), 7)]
    mesh = joined(parts)
    assert set(mesh.owner) == {4, 7} and len(mesh.triangles) == 24
    np.testing.assert_array_equal(mesh.places[mesh.triangles[mesh.part == 1]], parts[1].places[parts[1].triangles])
    assert len(joined([]).triangles) == 0


def test_what_lies_under_something_is_in_its_shade() -> None:
    mesh = joined([block((0, 0, 2), (1, 1, 0.1)), block((0, 0, 0), (4, 4, 0.1))])
    shadows = ShadowMap(mesh, ABOVE.sun, rasterise)
    assert shadows.lit(np.array([[0, 0, 0.05], [0.3, 0.3, 0.05]])).tolist() == [0, 0]
    assert shadows.lit(np.array([[1.5, 1.5, 0.05], [0, 0, 2.05], [90, 0, 0]])).tolist() == [1, 1, 1]


def test_the_lit_side_is_brighter_than_the_shaded_one() -> None:
    picture = drawn([block((0, 0, 0.7), (1.5, 1.5, 1.4))])
    rows = np.nonzero(picture[:, 60, 3])[0]
    assert picture[rows[2], 60, 0] > 2 * picture[rows[-3], 60, 0]  # its top and its front


def test_a_roof_darkens_what_is_below_it() -> None:
    floor = block((0, 0, 0), (6, 6, 0.1))
    open_sky, roofed = drawn([floor]), drawn([floor, block((0, 0, 2.4), (2, 2, 0.05))])
    x, y, _ = view().project([0, 0, 0.05])
    assert open_sky[int(y), int(x), 0] > 1.5 * roofed[int(y), int(x), 0]


def test_no_shadow_is_cast_where_the_light_has_none() -> None:
    soft = replace(ABOVE, shadow=0.0)
    floor = block((0, 0, 0), (6, 6, 0.1))
    under = drawn([floor, block((0, 0, 2.4), (2, 2, 0.05))], soft)
    x, y, _ = view().project([0, 0, 0.05])
    assert under[int(y), int(x), 0] == pytest.approx(drawn([floor], soft)[int(y), int(x), 0])


def test_a_colour_of_its_own_stands_instead_of_the_material() -> None:
    part = block((0, 0, 0.7), (1.5, 1.5, 1.4))
    red = np.tile(np.array([[0.8, 0, 0]], np.float32), (len(part.places), 1))
    shown = drawn([replace(part, fixed=red)])
    assert shown[..., 0].max() > 0.1 and shown[..., 1].max() == 0


def test_nothing_is_drawn_of_nothing() -> None:
    beside = block((50, 0, 1), (1, 1, 1))
    assert not drawn([beside]).any()


def test_the_floor_is_darker_where_somebody_stands_in_the_light() -> None:
    mesh = joined([block((0, 0, 1.8), (1, 1, 0.2))])
    factor = floor_shade(view(), ShadowMap(mesh, ABOVE.sun, rasterise), ABOVE)
    x, y, _ = view().project([0, 0, 0])
    assert factor.shape == (90, 120)
    assert factor[int(y), int(x)] < 0.5 and factor[int(y), 5] > 0.95 and factor[0].min() == pytest.approx(1)


def test_light_has_the_colour_of_what_is_around() -> None:
    blue = np.tile(np.array([0.1, 0.2, 0.6], np.float32), (8, 8, 1))
    lights = [random_light(blue, np.random.default_rng(seed)) for seed in range(20)]
    assert np.mean([light.sky[2] / light.sky[0] for light in lights]) > 1.1
    assert all(light.sun[2] > 0.3 and np.linalg.norm(light.sun) == pytest.approx(1, abs=1e-5) for light in lights)
