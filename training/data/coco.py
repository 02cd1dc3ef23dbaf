"""COCO 2017's keypoints in their usual folders: annotations, pictures, files of detected boxes. Pixels, as written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .photos import LabelledPerson, LabelledPhoto, PhotoSet, PhotoSetRecipe, read_photos

Array = NDArray[np.float32]

WHERE_FROM = {
    "annotations": "annotations_trainval2017.zip of cocodataset.org/#download, unpacked beside the pictures",
    "detections": (
        "COCO_val2017_detections_AP_H_56_person.json, linked by the repositories of Simple Baselines and HRNet; or make"
        " one with a finder of your own: a list of image_id, category_id, bbox, score"
    ),
}


@dataclass(frozen=True, eq=False)
class DetectedBox:
    """A finder's box (4,) x, y, width, height and its score."""

    image_id: int
    box: Array
    score: float


def read_coco(root: Path, split: str, **options: Any) -> PhotoSet:
    """`train2017` or `val2017`: annotations/person_keypoints_SPLIT.json and the folder SPLIT.

    Labelled boxes are cleaned as the official code does: clipped to the picture, and left out where nothing is left.

    Args:
        options: further fields of `PhotoSetRecipe`.

    Raises:
        ValueError: the file is missing or none of COCO's; the message names it and where people get it.
    """
    file = f"annotations/person_keypoints_{split}.json"
    if not (root / file).is_file():
        raise ValueError(f"there is no {root / file}: {WHERE_FROM['annotations']}")
    photos = read_photos(root, PhotoSetRecipe(file=file, pictures=split, **options))
    sizes = {image["id"]: (image.get("width"), image.get("height")) for image in photos.coco["images"]}
    cleaned = tuple(_cleaned_photo(photo, *sizes[photo.id]) for photo in photos.photos)
    return PhotoSet(cleaned, photos.coco, photos.share)


def _cleaned_photo(photo: LabelledPhoto, width: int | None, height: int | None) -> LabelledPhoto:
    if width is None or height is None:
        return photo
    people = []
    for person in photo.people:
        box = cleaned_box(person.box, width, height)
        if box is not None:
            people.append(LabelledPerson(person.joints, box, person.uncertain))
    return LabelledPhoto(photo.file, photo.id, photo.complete, tuple(people))


def cleaned_box(box: Array, width: int, height: int) -> Array | None:
    """The official clean-up of a labelled box (4,) x, y, width, height; None where it has no extent in the picture."""
    x, y, wide, tall = (float(number) for number in box)
    left, top = max(0.0, x), max(0.0, y)
    right = min(width - 1.0, left + max(0.0, wide - 1))
    bottom = min(height - 1.0, top + max(0.0, tall - 1))
    if wide * tall <= 0 or right < left or bottom < top:
        return None
    return np.array([left, top, right - left, bottom - top], np.float32)


def read_detections(path: Path, least_score: float = 0.0) -> list[DetectedBox]:
    """The boxes of people in a file of COCO's result form; boxes are used as they are.

    Raises:
        ValueError: the file is missing or of another form; the message names it and where people get it.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path}: {WHERE_FROM['detections']}")
    told = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(told, list) or not all({"image_id", "bbox", "score"} <= set(each) for each in told):
        raise ValueError(f"{path} is no list of results: each needs image_id, category_id, bbox, score")
    return [
        DetectedBox(int(each["image_id"]), np.array(each["bbox"], np.float32), float(each["score"]))
        for each in told
        if int(each.get("category_id", 1)) == 1 and float(each["score"]) >= least_score
    ]


def labelled_boxes(photos: Sequence[LabelledPhoto]) -> list[DetectedBox]:
    """The labelled people's own boxes, of score 1: the protocol without a finder."""
    return [DetectedBox(photo.id, person.box, 1.0) for photo in photos for person in photo.people if person.has_pose]
