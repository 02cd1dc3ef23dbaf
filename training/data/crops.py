"""Training crops for the detector: people cut out, turned, mirrored, covered, coloured, and where their joints are.

Joints travel with the pixels through `service.geometry.crops`, in frames that begin at the corner; heatmap centres are
the inverse of the decoding, in cells. Heatmaps are drawn where they are needed: a batch of them is larger than its
pixels. All of it numpy and OpenCV; a batch depends on the seed and its number alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from service.engines.framing import PoseFraming
from service.geometry.crops import crop_of_box, cut, input_to_cells, to_input

from .photos import LabelledPerson, LabelledPhoto, PhotoSet, read_picture

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]
Generator = np.random.Generator
Values = TypeVar("Values")  # an array, and a tensor once a loader has it

UPPER_JOINTS = 11  # face and arms come first in COCO's order, hips and legs after
HALF_BODY_MARGIN = 1.5 / 1.25  # half bodies get half as much again around them, where whole ones get a quarter
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class CropRecipe:
    """What is drawn, and how often. The first six as HRNet's authors have them (scale, rotation, half body, flip).

    scale: deviation of the zoom's factor, which is cut at as much beside 1. rotation: deviation in degrees, cut at
    twice that; `rotated` is the share of crops that turn. half_body: share of people with more than eight joints of
    whom one half is cut out. shift: deviation of the middle, in box sides. colour: strength of changes of light and
    colour; grey: share without colour. covered: share with patches over them. blurred: share out of focus, or small.
    sigma: of the heatmaps' Gaussians in cells. rounded: these as HRNet's authors draw them, around whole cells and cut
    at 3 sigma, not around exact places: `service.geometry.heatmaps.gaussian_targets`.
    """

    scale: float = 0.35
    rotation: float = 45.0
    rotated: float = 0.6
    half_body: float = 0.3
    flipped: float = 0.5
    shift: float = 0.0
    colour: float = 0.0
    grey: float = 0.0
    covered: float = 0.0
    blurred: float = 0.0
    sigma: float = 2.0
    rounded: bool = False


class CropBatch(NamedTuple, Generic[Values]):
    """pixels (n, height, width, 3) uint8 RGB; cells (n, 17, 2) x, y of the heatmaps' peaks, NaN where unlabelled;
    weights (n, 17), 0 where unlabelled; taught (n,) bool, whether a teacher has a say."""

    pixels: Values
    cells: Values
    weights: Values
    taught: Values


class CropMaker:
    """Makes the batch of a number: `maker(number)`.

    sets: people without a pose are left out. framing: the network's crop and decoding. read: a file's picture;
    `Pictures` keeps them decoded.
    """

    def __init__(
        self,
        sets: Sequence[PhotoSet],
        recipe: CropRecipe,
        framing: PoseFraming,
        batch: int,
        seed: int,
        read: Callable[[Path], Picture] = read_picture,
    ) -> None:
        self.recipe, self.framing, self.batch, self.seed, self._read = recipe, framing, batch, seed, read
        rows = [(p, one, s.share, s.taught) for s in sets for p in s.photos for one in p.people if one.has_pose]
        if not rows:
            raise ValueError("the recipe's photos have no person with a labelled joint")
        self.people: list[tuple[LabelledPhoto, LabelledPerson]] = [(photo, person) for photo, person, *_ in rows]
        shares = np.array([share for *_, share, _ in rows])
        self._taught = np.array([taught for *_, taught in rows])
        self._chance = shares / shares.sum()

    def __call__(self, number: int) -> CropBatch[NDArray[Any]]:
        rng = np.random.default_rng([self.seed, number])
        chosen = rng.choice(len(self.people), self.batch, p=self._chance)
        people = [self.people[index] for index in chosen]
        crops = [self._crop(photo, person, rng) for photo, person in people]
        pixels, joints = np.stack([pixels for pixels, _ in crops]), np.stack([joints for _, joints in crops])
        cells = input_to_cells(joints[..., :2], self.framing.stride, self.framing.shift)
        return CropBatch(pixels, cells, joints[..., 2], self._taught[chosen])

    def _crop(self, photo: LabelledPhoto, person: LabelledPerson, rng: Generator) -> tuple[Picture, Array]:
        """Pixels (height, width, 3) and joints (17, 3) in the crop's pixels, with what each label is worth."""
        recipe, framing = self.recipe, self.framing
        box = person.box
        if (person.joints[:, 2] > 0).sum() > 8 and rng.random() < recipe.half_body:
            box = half_body(person, rng)
        middle = box[:2] + box[2:] * (0.5 + recipe.shift * rng.normal(size=2).clip(-2, 2))
        size = box[2:] * np.clip(rng.normal(1, recipe.scale), 1 - recipe.scale, 1 + recipe.scale)
        turns = rng.random() < recipe.rotated
        degrees = np.clip(rng.normal(0, recipe.rotation), -2 * recipe.rotation, 2 * recipe.rotation) if turns else 0.0
        where = np.concatenate([middle - size / 2, size])
        crop = crop_of_box(
            where, framing.width, framing.height, framing.padding, float(degrees), transform=framing.transform
        )
        pixels, joints = cut(self._read(photo.file), crop), to_input(person.joints, crop)
        if rng.random() < recipe.flipped:
            pixels, joints = mirrored(pixels, joints, framing.order)
        pixels = covered(pixels, joints, rng) if rng.random() < recipe.covered else pixels
        pixels = recoloured(pixels, rng, recipe.colour, recipe.grey)
        pixels = blurred(pixels, rng) if rng.random() < recipe.blurred else pixels
        return np.ascontiguousarray(pixels), joints


def heatmap_size(framing: PoseFraming) -> tuple[int, int]:
    """Columns and rows of a heatmap. UDP's stride is between the first and the last cell, others' is a cell's width."""
    if isinstance(framing.stride, tuple):
        across, along = framing.stride
        return round((framing.width - 1) / across) + 1, round((framing.height - 1) / along) + 1
    return round(framing.width / framing.stride), round(framing.height / framing.stride)


def half_body(person: LabelledPerson, rng: Generator) -> Array:
    """(4,) a box around the labelled joints of the upper or the lower half; the whole person's where that has few."""
    known = person.joints[:, 2] > 0
    upper, lower = (
        person.joints[:UPPER_JOINTS][known[:UPPER_JOINTS]],
        person.joints[UPPER_JOINTS:][known[UPPER_JOINTS:]],
    )
    wants_upper = rng.random() < 0.7  # HRNet's normal draw under 0.5
    half = upper if (wants_upper and len(upper) > 2) or len(lower) <= 2 else lower
    first, last = half[:, :2].min(0), half[:, :2].max(0)
    if len(half) < 3 or (last - first).max() < 1:
        return person.box
    size = (last - first) * HALF_BODY_MARGIN
    return np.concatenate([(first + last - size) / 2, size]).astype(np.float32)


def mirrored(pixels: Picture, joints: Array, order: NDArray[np.intp]) -> tuple[Picture, Array]:
    """Crop and joints seen in a mirror: x from the corner becomes width - x, left joints are right ones."""
    moved = joints[order]
    moved[:, 0] = pixels.shape[1] - moved[:, 0]
    return pixels[:, ::-1], moved


def covered(pixels: Picture, joints: Array, rng: Generator) -> Picture:
    """One to three patches over the crop, most over a joint: something else of the crop, or a noisy colour."""
    out = pixels.copy()
    height, width = out.shape[:2]
    known = joints[joints[:, 2] > 0, :2]
    for _ in range(rng.integers(1, 4)):
        tall, wide = (rng.uniform(0.08, 0.35, 2) * min(height, width)).astype(int) + 1
        place = (
            known[rng.integers(len(known))] if len(known) and rng.random() < 0.7 else rng.random(2) * [width, height]
        )
        left, top = (place - [wide / 2, tall / 2]).clip(0, [width - wide, height - tall]).astype(int)
        if rng.random() < 0.5:
            x, y = rng.integers(width - wide + 1), rng.integers(height - tall + 1)
            patch = pixels[y : y + tall, x : x + wide]
        else:
            colour = rng.uniform(0, 255, 3) + rng.normal(0, 12, (tall, wide, 3))
            patch = colour.clip(0, 255).astype(np.uint8)
        out[top : top + tall, left : left + wide] = patch
    return out


def recoloured(pixels: Picture, rng: Generator, strength: float, grey: float) -> Picture:
    """Brightness, contrast, saturation and the light's colour changed, by one affine map of the colours."""
    change = strength * rng.normal(size=6).clip(-2, 2)
    saturation = 0.0 if rng.random() < grey else 1 + change[0]
    cast = np.exp(0.3 * change[1:4]) * np.exp(change[4])
    colours = np.diag(cast) @ (saturation * np.eye(3) + (1 - saturation) * LUMINANCE)
    offset = 128 * (1 - np.exp(change[4])) + 100 * change[5]
    if np.allclose(colours, np.eye(3)) and offset == 0:
        return pixels
    return cv2.transform(pixels, np.column_stack([colours, np.full(3, offset)])).astype(np.uint8, copy=False)


def blurred(pixels: Picture, rng: Generator) -> Picture:
    """Out of focus, moved while it was filmed, or taken from far away."""
    height, width = pixels.shape[:2]
    kind = rng.integers(3)
    if kind == 0:
        soft = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.6, 2.2))
    elif kind == 1:
        length, angle = rng.integers(3, 10), rng.uniform(0, np.pi)
        line = np.zeros((length, length), np.float32)
        reach = np.array([np.cos(angle), np.sin(angle)]) * length / 2
        ends = [tuple(np.round((length - 1) / 2 + side * reach).astype(int).tolist()) for side in (-1, 1)]
        cv2.line(line, ends[0], ends[1], 1.0)
        soft = cv2.filter2D(pixels, -1, line / line.sum())
    else:
        share = rng.uniform(0.25, 0.7)
        small = cv2.resize(pixels, (int(width * share), int(height * share)), interpolation=cv2.INTER_AREA)
        soft = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return soft.astype(np.uint8, copy=False)
