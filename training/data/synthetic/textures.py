"""Colours without pictures: noise, patterns of cloth, skin and hair, from numbers alone. Knows no light.

Colours are linear RGB, 0..1. Patterns are functions of a place on the thing itself, metres at rest, so that they stay
on the body when it moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bodies import MASKS

Array = NDArray[np.float32]
Floating = NDArray[np.floating[Any]]
Generator = np.random.Generator

NOISE_SIDE = 256
PATTERNS = ("plain", "stripes", "hoops", "checks", "dots", "camouflage", "denim", "print", "gradient", "pinstripe")
PATTERN_SHARES = np.array([0.30, 0.06, 0.10, 0.08, 0.04, 0.06, 0.12, 0.14, 0.05, 0.05])
# Skin from light to dark, sRGB; between neighbours any mixture.
SKINS = np.array([(241, 205, 184), (222, 176, 145), (191, 139, 104), (146, 98, 68), (98, 63, 45), (60, 40, 31)])
HAIRS = np.array(
    [(24, 18, 16), (52, 34, 24), (92, 60, 38), (150, 110, 66), (196, 160, 104), (120, 60, 34), (150, 150, 150)]
)
HAIR_SHARES = np.array([0.32, 0.25, 0.15, 0.08, 0.06, 0.04, 0.10])

IRISES = np.array([(0.05, 0.03, 0.02), (0.1, 0.06, 0.03), (0.06, 0.1, 0.16), (0.07, 0.1, 0.06)])
IRIS_SHARES = (0.5, 0.25, 0.15, 0.1)


@dataclass(frozen=True, eq=False)
class Material:
    """How a thing looks. pattern: one of PATTERNS. colours (3, 3). period in metres. shine 0..1, wrinkles 0..1."""

    pattern: str
    colours: Array
    period: float
    angle: float
    seed: int
    grain: float
    shine: float
    wrinkles: float


def linear(srgb: NDArray[np.generic]) -> Array:
    """Colours of 0..255 as screens have them, to linear 0..1."""
    return np.asarray((np.asarray(srgb, np.float32) / 255) ** 2.2, np.float32)


def to_bytes(colours: Array) -> NDArray[np.uint8]:
    """Linear colours to 0..255 as screens have them, with a soft shoulder instead of a hard white."""
    soft = np.where(colours > 0.8, 1 - 0.2 * np.exp(-(colours - 0.8) / 0.2), colours)
    return (np.clip(soft, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


@cache
def noise_tile() -> Array:
    """(256, 256) of cloudy noise that repeats without a seam, mean 0, about -1..1; always the same."""
    rng = np.random.default_rng(20)
    waves = np.fft.fftfreq(NOISE_SIDE)
    power = np.maximum(np.hypot(waves[:, None], waves[None]), 1 / NOISE_SIDE) ** -1.4
    spectrum = power * np.exp(2j * np.pi * rng.random((NOISE_SIDE, NOISE_SIDE)))
    spectrum[0, 0] = 0
    tile = np.fft.ifft2(spectrum).real
    return np.asarray(tile / (2.5 * tile.std()), np.float32)


def noise(across: Floating, along: Floating, seed: int) -> Array:
    """Noise at places (n,) each; 1 is the size of the largest clouds, the finest are a 100th of that."""
    tile = noise_tile()
    x = np.floor(across * NOISE_SIDE + 97 * seed).astype(np.int64) % NOISE_SIDE
    y = np.floor(along * NOISE_SIDE + 57 * seed).astype(np.int64) % NOISE_SIDE
    return tile[y, x]


def random_colour(rng: Generator) -> Array:
    """A colour that cloth has: many greys, blues, black and white, some loud ones. (3,) linear."""
    kind = rng.random()
    if kind < 0.35:
        base = np.full(3, rng.uniform(0.05, 0.95)) + rng.normal(0, 0.02, 3)
    elif kind < 0.55:  # blues and earths
        base = np.array([(0.15, 0.2, 0.4), (0.35, 0.28, 0.2), (0.2, 0.25, 0.2)])[rng.integers(3)] * rng.uniform(0.5, 2)
    else:
        hue, saturation, value = rng.random() * 6, rng.uniform(0.3, 1), rng.uniform(0.3, 1)
        base = value * (1 - saturation * np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1))
        base = base[::-1]
    return np.asarray(np.clip(base, 0.02, 0.95) ** 2.2, np.float32)


def random_cloth(rng: Generator, patterned: bool = True) -> Material:
    pattern = str(rng.choice(PATTERNS, p=PATTERN_SHARES)) if patterned else "plain"
    colours = np.stack([random_colour(rng) for _ in range(3)])
    if pattern == "denim":
        colours[0] = np.array([0.08, 0.13, 0.28]) ** rng.uniform(0.7, 1.4)
    if rng.random() < 0.3:  # second colour a shade of the first
        colours[1] = np.clip(colours[0] * rng.uniform(0.4, 2.2), 0.005, 0.9)
    return Material(
        pattern,
        colours.astype(np.float32),
        float(np.exp(rng.uniform(np.log(0.02), np.log(0.12)))),
        float(rng.choice([0.0, 0.0, 0.8, rng.uniform(0, np.pi)])),
        int(rng.integers(1000)),
        float(rng.uniform(0.02, 0.14)),
        float(rng.choice([0.0, 0.0, rng.uniform(0, 0.5)])),
        float(rng.uniform(0.2, 1.0)),
    )


def random_hair(rng: Generator) -> Material:
    colour = linear(HAIRS[rng.choice(len(HAIRS), p=HAIR_SHARES)]) * rng.uniform(0.6, 1.5)
    colours = np.stack([colour, colour * 0.5, colour]).astype(np.float32)
    return Material("strands", colours, 0.02, 0.0, int(rng.integers(1000)), 0.35, 0.5, 0.6)


def random_skin(rng: Generator) -> Material:
    place = rng.random() ** 1.2 * (len(SKINS) - 1)
    low = min(int(place), len(SKINS) - 2)
    tone = linear(SKINS[low]) * (low + 1 - place) + linear(SKINS[low + 1]) * (place - low)
    tone = tone * np.exp(rng.normal(0, 0.08, 3))
    colours = np.stack([tone, tone * [1.1, 0.75, 0.7], tone]).astype(np.float32)
    return Material("skin", colours, 0.1, 0.0, int(rng.integers(1000)), 0.12, float(rng.uniform(0.05, 0.4)), 0.1)


def paint(material: Material, at: Array) -> Array:
    """(n, 3) colours at places at rest (n, 3), metres."""
    across, along = at[:, 0] + 0.6 * at[:, 1], at[:, 2]
    cos, sin = np.cos(material.angle), np.sin(material.angle)
    u, v = (cos * across - sin * along) / material.period, (sin * across + cos * along) / material.period
    first, second, third = material.colours
    seed = material.seed
    fine = noise(across * 9, along * 9, seed) * material.grain
    coarse = noise(across * 1.3, along * 1.3, seed + 1)
    if material.pattern == "stripes":
        share = (u % 1 < 0.5).astype(np.float32)
    elif material.pattern == "hoops":
        share = (v % 1 < 0.4).astype(np.float32)
    elif material.pattern == "pinstripe":
        share = (u % 0.5 < 0.06).astype(np.float32)
    elif material.pattern == "checks":
        share = 0.5 * (u % 1 < 0.5) + 0.5 * (v % 1 < 0.5)
    elif material.pattern == "dots":
        share = (np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.28).astype(np.float32)
    elif material.pattern == "camouflage":
        share = (coarse > 0.1).astype(np.float32)
    elif material.pattern == "gradient":
        share = np.clip((along + 0.8) / 1.4, 0, 1)
    elif material.pattern == "print":
        share = _print(at, seed)
    elif material.pattern == "strands":
        share = np.clip(0.5 + noise(across * 6, along * 0.7, seed), 0, 1)
    elif material.pattern == "denim":
        share = np.clip(0.3 + 0.5 * coarse, 0, 1)
    elif material.pattern == "skin":
        share = np.clip(0.15 + 0.35 * coarse, 0, 1)
    else:
        share = np.zeros(len(at), np.float32)
    colours = first + share[:, None] * (second - first)
    if material.pattern == "camouflage":
        colours = np.where((noise(across * 1.7, along * 1.7, seed + 5) > 0.35)[:, None], third, colours)
    return np.asarray(np.clip(colours * (1 + fine + 0.12 * coarse)[:, None], 0, 1), np.float32)


def _print(at: Array, seed: int) -> Array:
    """Something printed on the chest or the back: letters of no alphabet, a disc, or a bar. (n,) 0 or 1."""
    rng = np.random.default_rng(seed)
    front = at[:, 1] < 0 if rng.random() < 0.75 else at[:, 1] > 0
    high = rng.uniform(0.15, 0.42)
    wide, tall = rng.uniform(0.05, 0.14), rng.uniform(0.02, 0.12)
    x, y = at[:, 0] / wide, (at[:, 2] - high) / tall
    inside = front & (np.abs(x) < 1) & (np.abs(y) < 1)
    kind = rng.integers(3)
    if kind == 0:
        grid = rng.random((4, 9)) < 0.55
        cell = grid[np.clip((y * 2 + 2).astype(int), 0, 3), np.clip((x * 4.5 + 4.5).astype(int), 0, 8)]
        return np.asarray(inside & cell, np.float32)
    if kind == 1:
        return np.asarray(front & (np.hypot(x, y) < 1), np.float32)
    return np.asarray(inside, np.float32)


def tinted_body(rest: Array, painted: Array, eyes: tuple[slice, slice], rng: Generator) -> tuple[Array, Array]:
    """What a body's skin is multiplied by, (vertices, 3), and colours that stand instead of it, NaN where none do.

    rest: (vertices, 3) the body at rest; painted: (vertices, masks) of bodies.MASKS; eyes: vertices of the eyeballs.
    Lips and nails are redder, brows darker; eyes are white around an iris and a pupil that look ahead.
    """
    tint = np.ones((len(rest), 3), np.float32)
    red = np.array([rng.uniform(0.8, 1.2), rng.uniform(0.4, 0.8), rng.uniform(0.45, 0.8)])
    nails = np.maximum(painted[:, MASKS.index("fingernails")], painted[:, MASKS.index("toenails")])
    for mask, colour in ((painted[:, MASKS.index("lips")], red), (nails, np.array([1.3, 1.05, 1.1]))):
        tint *= (1 + mask[:, None] * (colour - 1)).astype(np.float32)
    instead = np.full_like(tint, np.nan)
    brows, iris = rng.uniform(0.15, 0.8), IRISES[rng.choice(len(IRISES), p=IRIS_SHARES)]
    for eye in eyes:
        off = rest - rest[eye].mean(0)
        brow = (off[:, 1] < 0.02) & (np.abs(off[:, 0]) < 0.024) & (np.abs(off[:, 2] - 0.022) < 0.005)
        tint[brow] *= brows
        ahead = (-off[eye, 1] / np.maximum(np.linalg.norm(off[eye], axis=1), 1e-6))[:, None]
        instead[eye] = np.where(ahead > 0.97, 0.01, np.where(ahead > 0.84, iris, 0.62))
    return tint, instead
