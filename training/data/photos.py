"""Photos with labelled people: annotation files in COCO's keypoint form, each beside the folder of its pictures.

Pixels are those of the file as it lies there (its orientation tag is ignored, as COCO's labels do), counted from the
corner, labels taken as they are written. Knows no network and no crop.

What is read beyond COCO's fields: `scores` of the joints (labelled by models: the chance that it is right),
`ignore_pose` (the box alone counts), `uncertain` (maybe a person), and of a photo `boxes_complete` (false: some of its
people have no box).
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]

DEVELOPMENT_PHOTOS = 200
DEVELOPMENT_SEED = 2017


@dataclass(frozen=True)
class PhotoSetRecipe:
    """One annotation file of a recipe.

    file: relative to the folder of photos; "" for a folder of `pictures` that show nobody.
    pictures: folder that `file_name` starts from; "" is the annotation file's own.
    split: "training" leaves 200 photos out, drawn once for ever; "development" is those.
    share: how often its people are drawn, relative to others of share 1.
    least_score: model-labelled joints below count as unlabelled.
    taught: whether a detector's teacher (`distil`) has a say; renderings know better than any network.
    name, licence, terms: for the card.
    """

    file: str = ""
    pictures: str = ""
    split: Literal["", "training", "development"] = ""
    share: float = 1.0
    least_score: float = 0.0
    taught: bool = True
    name: str = ""
    licence: str = ""
    terms: str = ""


@dataclass(frozen=True, eq=False)
class LabelledPerson:
    """joints (17, 3): x, y and what the label is worth, 0 (unlabelled, x and y NaN) to 1; box (4,) x, y, width, height.

    uncertain: maybe a person, maybe many (a crowd); training neither wants nor punishes an answer there.
    """

    joints: Array
    box: Array
    uncertain: bool

    @property
    def has_pose(self) -> bool:
        return bool(self.joints[:, 2].any())


@dataclass(frozen=True, eq=False)
class LabelledPhoto:
    """complete: every person in it has a box."""

    file: Path
    id: int
    complete: bool
    people: tuple[LabelledPerson, ...]


@dataclass(frozen=True, eq=False)
class PhotoSet:
    """The photos of a file, and the file's own words for the official metric."""

    photos: tuple[LabelledPhoto, ...]
    coco: dict[str, Any]
    share: float = 1.0
    taught: bool = True


def read_photos(root: Path, recipe: PhotoSetRecipe) -> PhotoSet:
    """Reads an annotation file, or lists a folder of pictures that show nobody.

    Raises:
        ValueError: the file is no annotation file in COCO's form; the message names it and what it lacks.
    """
    if not recipe.file:
        files = sorted(path for path in (root / recipe.pictures).iterdir() if path.suffix.lower() in (".jpg", ".png"))
        photos = tuple(LabelledPhoto(file, number, True, ()) for number, file in enumerate(files, 1))
        return PhotoSet(photos, {"images": [], "annotations": [], "categories": []}, recipe.share, recipe.taught)
    path = root / recipe.file
    coco = json.loads(path.read_text(encoding="utf-8"))
    missing = {"images", "annotations", "categories"} - set(coco)
    if missing:
        raise ValueError(f"{path} is not in COCO's form: it lacks {', '.join(sorted(missing))}")
    coco = _split(coco, recipe.split)
    folder = root / recipe.pictures if recipe.pictures else path.parent
    people = defaultdict(list)
    for annotation in coco["annotations"]:
        people[annotation["image_id"]].append(_person(annotation, recipe.least_score))
    photos = tuple(
        LabelledPhoto(
            folder / image["file_name"],
            image["id"],
            bool(image.get("boxes_complete", True)),
            tuple(people[image["id"]]),
        )
        for image in coco["images"]
    )
    return PhotoSet(photos, coco, recipe.share, recipe.taught)


def read_picture(file: Path) -> Picture:
    """(height, width, 3) uint8 RGB. Raises ValueError where the file is no picture."""
    pixels = cv2.imread(str(file), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError(f"{file} is missing, or no picture that can be read")
    return np.ascontiguousarray(pixels[..., ::-1]).astype(np.uint8, copy=False)


class Pictures:
    """`read_picture` with pictures decoded beforehand, as many as fit; the others are read each time.

    Made before worker processes are forked, so that all of them read the same memory.

    files: in the order of their worth. most_bytes: of decoded pixels. threads: that decode; 0: one a core.
    """

    def __init__(self, files: Iterable[Path], most_bytes: float, threads: int = 0) -> None:
        self._kept: dict[Path, Picture] = {}
        self.bytes = 0
        wanted = list(dict.fromkeys(files)) if most_bytes > 0 else []
        threads = threads or len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(threads) as pool:
            for begin in range(0, len(wanted), 64 * threads):  # in parts, so that little is decoded beyond what fits
                part = wanted[begin : begin + 64 * threads]
                for file, picture in zip(part, pool.map(read_picture, part), strict=True):
                    if self.bytes + picture.nbytes > most_bytes:
                        return
                    self._kept[file] = picture
                    self.bytes += picture.nbytes

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(self, file: Path) -> Picture:
        kept = self._kept.get(file)
        return read_picture(file) if kept is None else kept


def _split(coco: dict[str, Any], split: str) -> dict[str, Any]:
    if not split:
        return coco
    order = np.random.default_rng(DEVELOPMENT_SEED).permutation(len(coco["images"]))
    images = sorted(coco["images"], key=lambda image: int(image["id"]))
    left_out = {images[index]["id"] for index in order[:DEVELOPMENT_PHOTOS]}
    kept = {image["id"] for image in images if (image["id"] in left_out) == (split == "development")}
    return coco | {
        "images": [image for image in images if image["id"] in kept],
        "annotations": [each for each in coco["annotations"] if each["image_id"] in kept],
    }


def _person(annotation: dict[str, Any], least_score: float) -> LabelledPerson:
    crowd = bool(annotation.get("iscrowd"))
    joints = np.full((17, 3), (np.nan, np.nan, 0), np.float32)
    if "keypoints" in annotation and not crowd and not annotation.get("ignore_pose"):
        labels = np.array(annotation["keypoints"], np.float32).reshape(17, 3)
        worth = np.array(annotation.get("scores", np.ones(17)), np.float32).clip(0, 1)
        known = (labels[:, 2] > 0) & (worth >= least_score)
        joints[known] = np.column_stack([labels[:, :2], worth])[known]
    box = np.array(annotation["bbox"], np.float32)
    return LabelledPerson(joints, box, crowd or bool(annotation.get("uncertain")))
