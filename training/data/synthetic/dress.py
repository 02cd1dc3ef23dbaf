"""Clothes, shoes, hats and hair that fit any shape of the body. Knows no colours and no poses.

Assets are compact meshes tied to the vertices of the body (hm08): one npz, with a json of the same name beside it that
lists them. Metres, z up; the offsets in the file are in MakeHuman's axes (x right to left, y up, z to the front).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .bodies import BodyModel

Array = NDArray[np.float32]
Indices = NDArray[np.int64]
KEYS = ("ref", "w", "off", "scale_v", "scale_d", "tri", "hide")
AXES = (0, 2, 1)  # of the body along MakeHuman's x, y, z
UNSCALED = 0.1  # MakeHuman's decimetres
# Bones that a short sleeve and short trousers leave bare.
BARE_ARMS = ("lowerarm", "wrist", "metacarpal", "finger")
BARE_LEGS = ("lowerleg", "foot", "toe")


@dataclass(frozen=True, eq=False)
class Garment:
    """One asset. kind: suit, shoes, hat or hair; gender: male, female or any.

    references (n, 3) vertices of the body, and weights (n, 3) of them, make a vertex; offsets (n, 3) are added, scaled
    by the body's own measure along each axis: the distance of the vertices in measures (3, 2), over divisors (3,).
    triangles (m, 3); hidden: vertices of the body that lie under it.
    """

    name: str
    kind: str
    gender: str
    references: Indices
    weights: Array
    offsets: Array
    measures: Indices
    divisors: Array
    triangles: Indices
    hidden: Indices

    def fitted(self, body: Array) -> Array:
        """(n, 3) the garment's vertices on a body at rest, (vertices, 3)."""
        scale = np.full(3, UNSCALED, np.float32)
        for axis, (first, second) in enumerate(self.measures):
            if first or second:
                scale[axis] = abs(body[first, AXES[axis]] - body[second, AXES[axis]]) / self.divisors[axis]
        offsets = self.offsets * scale
        moved = np.stack([offsets[:, 0], -offsets[:, 2], offsets[:, 1]], 1)
        return np.asarray((body[self.references] * self.weights[..., None]).sum(1) + moved, np.float32)

    def skinning(self, model: BodyModel) -> Array:
        """(n, bones) weights that move it along with the body."""
        mixed = np.maximum((model.weights[self.references] * self.weights[..., None]).sum(1), 0)
        return np.asarray(mixed / np.maximum(mixed.sum(1, keepdims=True), 1e-6), np.float32)

    @cached_property
    def pieces(self) -> Indices:
        """(n,) to which of its separate pieces (shirt, trousers, laces) each vertex belongs, counted from 0."""
        label = np.arange(len(self.references))
        while True:
            least = label[self.triangles].min(1)
            smaller = label.copy()
            np.minimum.at(smaller, self.triangles.ravel(), np.repeat(least, 3))
            smaller = smaller[smaller]
            if (smaller == label).all():
                return np.unique(label, return_inverse=True)[1].astype(np.int64)
            label = smaller


class Wardrobe:
    """All assets of a file, and what of them goes with a body model."""

    def __init__(self, garments: dict[str, Garment], model: BodyModel) -> None:
        self.garments = garments
        self.model = model
        self._skinning: dict[str, Array] = {}
        main = model.weights.argmax(1)
        self.bare_arms = _driven_by(main, model.bones, BARE_ARMS)
        self.bare_legs = _driven_by(main, model.bones, BARE_LEGS)

    def of_kind(self, kind: str, gender: str = "any") -> list[str]:
        """Names of the garments of a kind that suit a gender; `any` takes all."""
        return [g.name for g in self.garments.values() if g.kind == kind and gender in (g.gender, "any")] + [
            g.name for g in self.garments.values() if g.kind == kind and g.gender == "any" and gender != "any"
        ]

    def skinning(self, name: str) -> Array:
        if name not in self._skinning:
            self._skinning[name] = self.garments[name].skinning(self.model)
        return self._skinning[name]

    def shortened(self, name: str, arms: bool, legs: bool) -> tuple[Indices, Indices]:
        """Triangles of the garment, and hidden vertices of the body, with sleeves or trouser legs cut off."""
        garment = self.garments[name]
        bare = (self.bare_arms if arms else 0) | (self.bare_legs if legs else np.zeros(len(self.bare_legs), bool))
        if not (arms or legs):
            return garment.triangles, garment.hidden
        heaviest = garment.references[np.arange(len(garment.weights)), garment.weights.argmax(1)]
        cut = bare[heaviest]
        return garment.triangles[~cut[garment.triangles].any(1)], garment.hidden[~bare[garment.hidden]]


def read_wardrobe(path: Path, model: BodyModel) -> Wardrobe:
    """Reads an asset file; ValueError names what it lacks."""
    listing = path.with_suffix(".json")
    if not path.is_file() or not listing.is_file():
        raise ValueError(f"clothes need {path} and {listing.name} beside it, and at least one is missing")
    entries = json.loads(listing.read_text(encoding="utf-8"))
    garments = {}
    with np.load(path, allow_pickle=False) as file:
        for entry in entries:
            name = entry["name"]
            missing = [key for key in KEYS if f"{name}.{key}" not in file.files]
            if missing:
                raise ValueError(f"{path}: {name} lacks {', '.join(missing)}")
            part = {key: file[f"{name}.{key}"] for key in KEYS}
            garments[name] = Garment(
                name,
                entry["kind"],
                entry["gender"],
                part["ref"].astype(np.int64),
                part["w"].astype(np.float32),
                part["off"].astype(np.float32),
                part["scale_v"].astype(np.int64),
                part["scale_d"].astype(np.float32),
                part["tri"].astype(np.int64),
                part["hide"].astype(np.int64),
            )
    return Wardrobe(garments, model)


def _driven_by(main: NDArray[np.intp], bones: tuple[str, ...], beginnings: tuple[str, ...]) -> NDArray[np.bool_]:
    return np.array([bone.startswith(beginnings) for bone in bones])[main]
