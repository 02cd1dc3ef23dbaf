"""Colours made of numbers."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.synthetic.bodies import MASKS
from training.data.synthetic.textures import (
    PATTERNS,
    Material,
    linear,
    noise,
    noise_tile,
    paint,
    random_cloth,
    random_colour,
    random_hair,
    random_skin,
    tinted_body,
    to_bytes,
)

COLOURS = np.array([(0.6, 0.1, 0.1), (0.1, 0.1, 0.6), (0.1, 0.6, 0.1)], np.float32)
PLACES = np.random.default_rng(0).uniform(-0.8, 0.8, (500, 3)).astype(np.float32)


def material(pattern: str, grain: float = 0.1) -> Material:
    return Material(pattern, COLOURS, 0.05, 0.3, 7, grain, 0.0, 0.5)


def test_screen_colours_come_back() -> None:
    shades = np.arange(0, 200, 5, dtype=np.uint8)  # brighter ones meet the soft shoulder
    assert (np.abs(to_bytes(linear(shades)).astype(int) - shades) <= 1).all()


def test_no_colour_is_brighter_than_white() -> None:
    assert (np.diff(to_bytes(np.linspace(0, 50, 200, dtype=np.float32)).astype(int)) >= 0).all()


@pytest.mark.parametrize("pattern", [*PATTERNS, "strands", "skin"])
def test_a_place_has_one_colour_whoever_asks_with_it(pattern: str) -> None:
    whole = paint(material(pattern), PLACES)
    assert whole.shape == (500, 3) and whole.min() >= 0 and whole.max() <= 1
    np.testing.assert_array_equal(paint(material(pattern), PLACES[100:150]), whole[100:150])
    assert paint(material(pattern), PLACES[:0]).shape == (0, 3)


@pytest.mark.parametrize("pattern", sorted(set(PATTERNS) - {"plain", "print"}))
def test_a_pattern_has_more_than_one_colour(pattern: str) -> None:
    colours = paint(material(pattern, grain=0.0), PLACES)
    assert colours.std(0).max() > 0.05


def test_noise_repeats_without_a_seam_and_differs_by_seed() -> None:
    tile = noise_tile()
    inner, seam = np.abs(np.diff(tile, axis=0)).mean(), np.abs(tile[0] - tile[-1]).mean()
    assert seam < 1.5 * inner
    at = (np.arange(-30, 30) * 4 + 0.5) / 256
    np.testing.assert_array_equal(noise(at, at, 3), noise(at + 1, at - 1, 3))
    assert not np.array_equal(noise(at, at, 3), noise(at, at, 4))


def test_what_is_drawn_is_a_colour_and_the_same_for_the_same_generator() -> None:
    for draw in (random_cloth, random_hair, random_skin):
        first, second = draw(np.random.default_rng(5)), draw(np.random.default_rng(5))
        np.testing.assert_array_equal(first.colours, second.colours)
        assert first.colours.shape == (3, 3) and first.colours.min() >= 0 and first.colours.max() <= 1.2
    colours = np.stack([random_colour(np.random.default_rng(seed)) for seed in range(50)])
    assert colours.min() >= 0 and colours.max() <= 1 and colours.std() > 0.1


def test_lips_are_redder_and_eyes_have_their_own_colours() -> None:
    rest = np.zeros((20, 3), np.float32)
    rest[10:15] = np.array([0.03, -0.1, 0.7]) + 0.01 * np.array(
        [(0, -1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, 1), (0, 1, 0)]
    )
    rest[15:20] = rest[10:15] * [-1, 1, 1]
    painted = np.zeros((20, len(MASKS)), np.float32)
    painted[0, MASKS.index("lips")] = 1
    tint, instead = tinted_body(rest, painted, (slice(10, 15), slice(15, 20)), np.random.default_rng(0))
    assert tint[0, 0] > tint[0, 1] and tint[1].tolist() == [1, 1, 1]
    assert np.isnan(instead[:10]).all() and np.isfinite(instead[10:]).all()
    assert instead[10].max() < instead[14].min()  # the pupil looks ahead, the white behind
