"""Training pictures for the person finder: photos zoomed, turned, mirrored, recoloured, letterboxed by the service.

Boxes are corners (x1, y1, x2, y2) in the square's pixels. A batch depends on the seed and its number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from service.geometry.boxes import corners
from service.geometry.crops import LETTERBOX_GREY, letterbox

from .crops import recoloured
from .photos import LabelledPhoto, PhotoSet, read_picture

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]
Generator = np.random.Generator
Values = TypeVar("Values")  # an array, and a tensor once a loader has it

# Of a person that a cut leaves less than this of, it cannot be said whether an answer is right.
LEAST_VISIBLE = 0.35
MOST_SOURCE_PX = 1280  # larger photos are halved first: the square is smaller than that by far
LEAST_PART, MOST_PART = 0.15, 2.5  # of the photo's sides, where the zoom follows a person
LEAST_SEEN_PX = 96  # of the photo's shorter side: what is blown up further is blur


@dataclass(frozen=True)
class SquareRecipe:
    """sides: of the square in pixels, one drawn a batch. zoom: the part of the photo's sides that is seen, least and
    most (over 1: grey around). aimed: share of pictures whose zoom is chosen for one of the people instead, who then
    fills `filled` of the longer side, least and most (over 1: the border cuts). turned: share of pictures turned by a
    quarter or a half, so that people lie or stand on their heads. nobody: share of pictures without people. colour,
    grey: as for crops."""

    sides: tuple[int, ...] = (320,)
    zoom: tuple[float, float] = (0.5, 1.6)
    aimed: float = 0.0
    filled: tuple[float, float] = (0.06, 1.4)
    turned: float = 0.0
    mirrored: float = 0.5
    nobody: float = 0.05
    colour: float = 0.15
    grey: float = 0.03


class SquareBatch(NamedTuple, Generic[Values]):
    """pixels (n, side, side, 3) uint8 RGB; boxes (n, most, 4); kinds (n, most): 1 person, -1 ignored, 0 none."""

    pixels: Values
    boxes: Values
    kinds: Values


class SquareMaker:
    """Makes the batch of a number: `maker(number)`. Photos with people that have no box are left out."""

    def __init__(self, sets: Sequence[PhotoSet], recipe: SquareRecipe, batch: int, seed: int) -> None:
        self.recipe, self.batch, self.seed = recipe, batch, seed
        rows = [(photo, each.share) for each in sets for photo in each.photos if photo.complete and photo.people]
        if not rows:
            raise ValueError("the recipe's photos have no photo with people whose boxes are complete")
        self.photos, shares = [photo for photo, _ in rows], np.array([share for _, share in rows])
        self.empty = [photo for each in sets for photo in each.photos if photo.complete and not photo.people]
        self._chance = shares / shares.sum()

    def __call__(self, number: int) -> SquareBatch[NDArray[Any]]:
        rng = np.random.default_rng([self.seed, number])
        side = int(rng.choice(self.recipe.sides))
        chosen = [self.photos[index] for index in rng.choice(len(self.photos), self.batch, p=self._chance)]
        for place in np.nonzero(rng.random(self.batch) < self.recipe.nobody * bool(self.empty))[0]:
            chosen[int(place)] = self.empty[rng.integers(len(self.empty))]
        made = [self._square(photo, side, rng) for photo in chosen]
        most = max(1, *(len(kinds) for *_, kinds in made))
        boxes, kinds = np.zeros((self.batch, most, 4), np.float32), np.zeros((self.batch, most), np.int64)
        for row, (_, some, kind) in enumerate(made):
            boxes[row, : len(some)], kinds[row, : len(kind)] = some, kind
        return SquareBatch(np.stack([pixels for pixels, *_ in made]), boxes, kinds)

    def _square(self, photo: LabelledPhoto, side: int, rng: Generator) -> tuple[Picture, Array, NDArray[np.int64]]:
        recipe = self.recipe
        picture = read_picture(photo.file)
        boxes = corners([person.box for person in photo.people])
        kinds = np.array([-1 if person.uncertain else 1 for person in photo.people], np.int64)
        while max(picture.shape[:2]) > MOST_SOURCE_PX:
            tall, wide = picture.shape[:2]
            picture = cv2.resize(picture, (wide // 2, tall // 2), interpolation=cv2.INTER_AREA).astype(np.uint8)
            boxes = boxes * np.tile(np.array([wide // 2 / wide, tall // 2 / tall], np.float32), 2)
        if rng.random() < recipe.turned:
            picture, boxes = turned(picture, boxes, int(rng.integers(1, 4)))
        part, around = float(np.exp(rng.uniform(*np.log(recipe.zoom)))), None
        if rng.random() < recipe.aimed and (kinds == 1).any():
            around = boxes[rng.choice(np.nonzero(kinds == 1)[0])]
            fills = float((around[2:] - around[:2]).max()) / max(picture.shape[:2])
            part = fills / float(np.exp(rng.uniform(*np.log(recipe.filled))))
            part = min(max(part, LEAST_PART, LEAST_SEEN_PX / min(picture.shape[:2])), MOST_PART)
        picture, boxes, kinds = _zoomed(picture, boxes, kinds, part, around, rng)
        if rng.random() < recipe.mirrored:
            wide = picture.shape[1]
            picture, boxes = (
                picture[:, ::-1],
                np.stack([wide - boxes[:, 2], boxes[:, 1], wide - boxes[:, 0], boxes[:, 3]], 1),
            )
        picture = recoloured(np.ascontiguousarray(picture), rng, recipe.colour, recipe.grey)
        square, scale = letterbox(picture, side)
        return square, boxes * np.tile(np.array(scale, np.float32), 2), kinds


def turned(picture: Picture, boxes: Array, quarters: int) -> tuple[Picture, Array]:
    """Picture and boxes turned left by `quarters` of a full turn."""
    for _ in range(quarters):
        wide = picture.shape[1]
        picture = np.rot90(picture)
        boxes = np.stack([boxes[:, 1], wide - boxes[:, 2], boxes[:, 3], wide - boxes[:, 0]], 1)
    return np.ascontiguousarray(picture), boxes


def _zoomed(
    picture: Picture, boxes: Array, kinds: NDArray[np.int64], part: float, around: Array | None, rng: Generator
) -> tuple[Picture, Array, NDArray[np.int64]]:
    """A part of the picture (`part` of its sides) or, over 1, the picture on grey; whole pixels, nothing resampled.

    around: a box (4,) that the part seen must reach: it holds a point of its middle half. None: any part.
    """
    old = np.array(picture.shape[1::-1])  # width, height
    new = np.maximum(1, np.round(old * part)).astype(int)
    first = np.floor(rng.random(2) * (np.abs(old - new) + 1)).astype(int) * np.sign(old - new)
    if around is not None and part <= 1:
        point = around[:2] + (around[2:] - around[:2]) * rng.uniform(0.25, 0.75, 2)
        first = np.floor(point - new * rng.uniform(0.2, 0.8, 2)).astype(int).clip(0, old - new)
    if part <= 1:
        (left, top), (right, bottom) = first, first + new
        seen = picture[top:bottom, left:right]
    else:
        seen = np.full((new[1], new[0], 3), LETTERBOX_GREY, np.uint8)
        seen[-first[1] : old[1] - first[1], -first[0] : old[0] - first[0]] = picture
    moved = boxes - np.tile(first, 2).astype(np.float32)
    cut = moved.clip(0, np.tile(new, 2)).astype(np.float32)
    areas, left_of = (np.maximum(b[:, 2:] - b[:, :2], 0).prod(1) for b in (moved, cut))
    kept = left_of > 0
    hidden = left_of < LEAST_VISIBLE * areas
    return seen, cut[kept], np.where(hidden, -1, kinds)[kept]
