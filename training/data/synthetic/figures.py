"""People of the scenes: a body, its clothes and how it looks, drawn once; then a figure for every pose of it.

World axes: metres, z up. Figures know where their joints are, not whether anybody sees them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bodies import BodyModel, Shape
from .dress import Wardrobe
from .posing import Manner, Posed, onto_floor, pose, skin
from .shading import Part
from .textures import (
    Material,
    random_cloth,
    random_colour,
    random_hair,
    random_skin,
    tinted_body,
)

Array = NDArray[np.float32]
Indices = NDArray[np.int64]
Generator = np.random.Generator

GROWN_UP = 2 / 3  # of the phenotype's age: 0 newborn, 1/3 a child, 2/3 young, 1 old
LEAST_WEIGHT = 1e-4  # vertices that tell less about a COCO joint are left out
HIPS_NARROWER = 0.1
OUTLINED = 16  # vertices of a bare body, of which one is kept
BLOCKY_HAIR = ("bob", "braid", "long", "ponytail")  # cards that want a picture with holes


@dataclass(frozen=True, eq=False)
class Layer:
    """Something worn, or the skin: at rest, with what moves it and how it looks. All of its vertices are in use."""

    rest: Array
    weights: Array
    triangles: Indices
    material: Material
    tint: Array
    fixed: Array | None = None


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody: the same in every frame of a clip.

    marks: (k, 3) at rest, the vertices that COCO's joints and the crown (the last one) are made of, with the weights
    that move them; regression (17, k) from marks to COCO's joints.
    """

    model: BodyModel
    shape: Shape
    layers: tuple[Layer, ...]
    marks: Array
    mark_weights: Array
    regression: Array
    manner: Manner

    @property
    def legs_m(self) -> float:
        """From the hip to the ankle."""
        heads = self.shape.heads
        hip, knee, ankle = (heads[self.model.bones.index(bone + ".L")] for bone in ("upperleg01", "lowerleg01", "foot"))
        return float(np.linalg.norm(hip - knee) + np.linalg.norm(knee - ankle))


@dataclass(frozen=True, eq=False)
class Figure:
    """Somebody in a pose. keypoints: (17, 3) COCO's joints; joints: (17, 3) h36m17's, both in the world.

    size_m: the length of a leg, by which sizes of the body are told.
    """

    parts: tuple[Part, ...]
    keypoints: Array
    joints: Array
    size_m: float

    def moved(self, turn: ArrayLike, shift: ArrayLike) -> Figure:
        """The figure turned about the world's origin by (3, 3), then shifted by (3,)."""
        by, to = np.asarray(turn, np.float32), np.asarray(shift, np.float32)

        def place(points: Array) -> Array:
            return np.asarray(points @ by.T + to, np.float32)

        parts = tuple(replace(part, places=place(part.places)) for part in self.parts)
        return Figure(parts, place(self.keypoints), place(self.joints), self.size_m)

    @property
    def outline(self) -> Array:
        """(n, 3) all vertices that are drawn."""
        return np.concatenate([part.places for part in self.parts])


class Cast:
    """Draws people. `person` depends on nothing but its generator."""

    def __init__(self, model: BodyModel, wardrobe: Wardrobe) -> None:
        self.model, self.wardrobe = model, wardrobe
        self.marks = np.flatnonzero((model.keypoints > LEAST_WEIGHT).any(0))

    def bare(self, rng: Generator) -> Person:
        """Somebody of whom only the joints are wanted: skin of every OUTLINED-th vertex, which nobody can draw."""
        shape = self.model.shape(random_phenotype(rng.random() < 0.5, rng))
        some = np.arange(0, len(shape.vertices), OUTLINED)
        nothing = np.zeros((0, 3), np.int64)
        skin = Layer(
            shape.vertices[some],
            self.model.weights[some],
            nothing,
            random_skin(rng),
            np.ones((len(some), 3), np.float32),
        )
        return self._person(shape, (skin,), rng)

    def person(self, rng: Generator) -> Person:
        female = rng.random() < 0.5
        phenotype = random_phenotype(female, rng)
        shape = self.model.shape(phenotype)
        worn = self._outfit("female" if female else "male", rng)
        skin_look = random_skin(rng)
        hidden = np.zeros(len(shape.vertices), bool)
        layers = []
        bare_arms, bare_legs = rng.random() < 0.35, rng.random() < 0.25
        for name in worn:
            garment = self.wardrobe.garments[name]
            cut = (bare_arms, bare_legs) if garment.kind == "suit" else (False, False)
            triangles, under = self.wardrobe.shortened(name, *cut)
            hidden[under] = True
            rest = garment.fitted(shape.vertices)
            for piece in self._pieces(name, triangles, rest, shape):
                material = random_hair(rng) if garment.kind == "hair" else random_cloth(rng, garment.kind == "suit")
                tint = np.ones((len(rest), 3), np.float32)
                layers.append(_layer(rest, self.wardrobe.skinning(name), piece, material, tint))
        triangles = self.model.triangles[~hidden[self.model.triangles].all(1)]
        tint, instead = tinted_body(shape.vertices, self.model.painted, self.model.eyes, rng)
        if rng.random() < 0.35 and not any(self.wardrobe.garments[name].kind == "hair" for name in worn):
            tint[_scalp(shape.vertices, self.model.eyes)] *= rng.uniform(0.2, 0.7)  # shaved
        body = _layer(shape.vertices, self.model.weights, triangles, skin_look, tint, instead)
        return self._person(shape, (body, *layers), rng)

    def _person(self, shape: Shape, layers: tuple[Layer, ...], rng: Generator) -> Person:
        seen = np.unique(self.model.triangles)
        crown = int(seen[shape.vertices[seen, 2].argmax()])
        marks = np.append(self.marks, crown)
        regression = np.append(self.model.keypoints[:, self.marks], np.zeros((17, 1), np.float32), 1)
        regression /= regression.sum(1, keepdims=True)
        return Person(
            self.model,
            shape,
            layers,
            shape.vertices[marks],
            self.model.weights[marks],
            regression,
            random_manner(rng),
        )

    def _outfit(self, gender: str, rng: Generator) -> list[str]:
        wardrobe = self.wardrobe

        def one(kind: str, who: str) -> list[str]:
            names = wardrobe.of_kind(kind, who) or wardrobe.of_kind(kind)
            return [names[rng.integers(len(names))]] if names else []

        worn = one("suit", gender if rng.random() < 0.75 else "any") + one("shoes", "any")
        hair = wardrobe.of_kind("hair", gender if rng.random() < 0.8 else "any")
        if rng.random() < 0.75:
            hair = [name for name in hair if not name.startswith(BLOCKY_HAIR)] or hair
        if hair and rng.random() < 0.93:
            worn.append(hair[rng.integers(len(hair))])
        if rng.random() < 0.08:
            worn += one("hat", "any")
        if rng.random() < 0.06:
            worn = [name for name in worn if wardrobe.garments[name].kind != "shoes"]
        return worn

    def _pieces(self, name: str, triangles: Indices, rest: Array, shape: Shape) -> list[Indices]:
        """A suit's upper and lower half, or the whole of anything else. Cloth belongs where its piece's middle is."""
        garment = self.wardrobe.garments[name]
        if garment.kind != "suit" or not len(triangles):
            return [triangles]
        waist = float(shape.heads[self.model.bones.index("root"), 2]) + 0.03
        of_triangle = garment.pieces[triangles[:, 0]]
        count = int(garment.pieces.max()) + 1
        sizes = np.bincount(of_triangle, minlength=count)
        heights = np.bincount(of_triangle, rest[triangles, 2].mean(1), count) / np.maximum(sizes, 1)
        if (sizes > 0.1 * sizes.sum()).sum() > 1:
            upper = heights[of_triangle] > waist
        else:  # in one piece: cut at the waist
            upper = rest[triangles, 2].mean(1) > waist
        return [half for half in (triangles[upper], triangles[~upper]) if len(half)]


def figure(person: Person, joints: ArrayLike, owner: int, manner: Manner | None = None) -> Figure:
    """Somebody in the pose of captured joints (17, 3), standing as high above z = 0 as the captured one did."""
    model, shape = person.model, person.shape
    posed = pose(model.bones, model.parents, shape.heads, joints, manner or person.manner)
    placed = [skin(layer.rest, layer.weights, shape.heads, posed) for layer in person.layers]
    lowest = min(float(places[:, 2].min()) for places in placed)
    up = np.array([0, 0, onto_floor(lowest, joints)], np.float32)
    parts = tuple(
        Part(places + up, layer.rest, layer.tint, layer.triangles, layer.material, owner, layer.fixed)
        for places, layer in zip(placed, person.layers, strict=True)
    )
    marks = skin(person.marks, person.mark_weights, shape.heads, posed) + up
    return Figure(
        parts,
        np.asarray(person.regression @ marks, np.float32),
        np.asarray(body_joints(model, posed, marks[-1] - up) + up, np.float32),
        person.legs_m,
    )


def _layer(
    rest: Array, weights: Array, triangles: Indices, material: Material, tint: Array, fixed: Array | None = None
) -> Layer:
    """A layer of only those vertices that its triangles use."""
    used, numbers = np.unique(triangles, return_inverse=True)
    colours = None if fixed is None else fixed[used]
    return Layer(rest[used], weights[used], numbers.reshape(-1, 3), material, tint[used], colours)


def body_joints(model: BodyModel, posed: Posed, crown: ArrayLike) -> NDArray[np.float64]:
    """(17, 3) h36m17 of a posed body: its own joint centres, but where motion packs have them elsewhere than its bones.

    8 lies between the neck's root and the collar bones, 10 is the crown, 9 half way between them; the hips' centres lie
    HIPS_NARROWER nearer to each other than the thigh bones begin.
    """
    at = dict(zip(model.bones, posed.places, strict=True))
    top, neck = np.asarray(crown, np.float64), at["neck01"] / 2 + (at["clavicle.L"] + at["clavicle.R"]) / 4
    legs = [at[bone + side] for side in (".R", ".L") for bone in ("upperleg01", "lowerleg01", "foot")]
    arms = [at[bone + side] for side in (".L", ".R") for bone in ("upperarm01", "lowerarm01", "wrist")]
    hips = (legs[0] + legs[3]) / 2
    legs[0], legs[3] = (hip + HIPS_NARROWER * (hips - hip) for hip in (legs[0], legs[3]))
    return np.stack([hips, *legs, at["spine02"], neck, (neck + top) / 2, top, *arms])


def random_phenotype(female: bool, rng: Generator) -> dict[str, float]:
    """Anybody from a small child to an old person; most are grown up. Statures come out at about 1.0 to 2.0 m."""
    child = rng.random() < 0.12
    return {
        "gender": float(np.clip((0.9 if female else 0.1) + rng.normal(0, 0.1), 0, 1)),
        "age": float(rng.uniform(0.17, 0.5) if child else rng.uniform(GROWN_UP - 0.07, 0.97)),
        "muscle": float(rng.beta(3, 3)),
        "weight": float(rng.beta(2.5, 2.5)),
        "height": float(np.clip(rng.normal(0.38, 0.12), 0.1, 0.7)),
        "proportions": float(rng.beta(3, 3)),
    }


def random_manner(rng: Generator) -> Manner:
    def pair(spread: float) -> tuple[float, float]:
        left, right = rng.normal(0, spread, 2).clip(-2 * spread, 2 * spread)
        return float(left), float(right)

    left, right = rng.beta(1.2, 2, 2)
    return Manner(
        float(np.clip(rng.normal(0, 0.45), -1.1, 1.1)),
        float(np.clip(rng.normal(0, 0.2), -0.5, 0.5)),
        pair(0.5),
        pair(0.25),
        (float(left), float(right)),
    )


def thing(rng: Generator, middle: ArrayLike, sides: ArrayLike, turn: float) -> Part:
    """A box that stands about: a table, a bench. middle (3,) and sides (3,) in metres; turn about z, radians."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * np.asarray(sides) / 2
    faces = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    rest = corners[[corner for face in faces for corner in face]].astype(np.float32)
    cos, sin = np.cos(turn), np.sin(turn)
    spun = np.stack([cos * rest[:, 0] - sin * rest[:, 1], sin * rest[:, 0] + cos * rest[:, 1], rest[:, 2]], 1)
    triangles = np.concatenate([[[4 * k, 4 * k + 1, 4 * k + 2], [4 * k, 4 * k + 2, 4 * k + 3]] for k in range(6)])
    material = replace(random_cloth(rng), wrinkles=0.0, period=float(rng.uniform(0.05, 0.4)))
    if material.pattern in ("print", "gradient"):
        material = replace(material, pattern="plain", colours=np.stack([random_colour(rng)] * 3))
    tint = np.ones((len(rest), 3), np.float32)
    return Part((spun + np.asarray(middle)).astype(np.float32), rest, tint, triangles.astype(np.int64), material, -1)


def _scalp(rest: Array, eyes: tuple[slice, slice]) -> NDArray[np.bool_]:
    """Where hair would grow: the top and back of the head."""
    off = rest - np.concatenate([rest[eye] for eye in eyes]).mean(0)
    head = off[:, 2] > -0.06
    return np.asarray(head & ((off[:, 2] > 0.065) | ((off[:, 1] > 0.08) & (off[:, 2] > -0.03))))
