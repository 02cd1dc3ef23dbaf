"""Fits what a joint's score means: `python -m training certainty --photos FOLDER`.

The detector of a store looks at hand-labelled people in their boxes; logistic models, one for each kind of joint, learn
from the heights of its peaks and from the boxes how near the answers lie to the labels, and the detector's manifest
keeps their weights (table `certainty`). Near is what COCO's metric calls so: exp(-d^2 / (2 area (2 sigma)^2)) of a
labelled joint, 0 of one that nobody labelled. Fitted on the training split, told on the development split. Pixels of
the picture.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engines.engine import Engine
from service.engines.framing import CropRow
from service.geometry.boxes import clip
from service.loading import load_engine
from service.pipelines.certainty import KIND_INDEX, KINDS, Certainty, figures
from service.settings import Settings
from service.store.manifest import to_toml
from service.store.store import CARD, MANIFEST, Entry, Store, embedded_store

from .calibrate import logistic, reliability
from .data.photos import PhotoSetRecipe, read_photos, read_picture
from .metrics.keypoints import SIGMAS

Floats = NDArray[np.float64]

MOST_PEOPLE = 12  # of a photo, so that a few crowds do not make the figure
BATCH = 8
HEADING = "## The scores of joints"


@dataclass(frozen=True, eq=False)
class Answers:
    """The detector's answers beside the labels.

    peaks: (n, 17) in 0..1. known: (n, 17, FIGURES), what their scores are computed from. near: (n, 17) in 0..1.
    """

    peaks: Floats
    known: Floats
    near: Floats


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--photos", type=Path, required=True, help="folder that the file lies in")
    parser.add_argument("--file", default="coco_train.json", help="people labelled by hand")
    parser.add_argument("--most-photos", type=int, default=0, help="of each split; 0: all")
    parser.add_argument("--pose", help="detector; the store's default if absent")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", type=Path, default=embedded_store())


def certainty(arguments: Namespace) -> str:
    """Writes the weights into the detector's manifest and card; returns what is known of them as JSON."""
    store = Store(arguments.store)
    entry = store.find(arguments.pose) if arguments.pose else store.default("pose")
    detector = load_engine(entry.manifest, entry.load, Settings(device="cpu", threads=arguments.threads), "cpu")
    given = {}
    for split in ("training", "development"):
        labelled = read_photos(arguments.photos, PhotoSetRecipe(arguments.file, split=split)).coco
        people = islice(people_of(labelled), arguments.most_photos or None)
        given[split] = answers(arguments.photos, people, detector)
    fitted = fit(given["training"])
    judged = given["development"]
    told = {
        "people": {split: len(each.near) for split, each in given.items()},
        "error_of_peaks": error(judged.peaks, judged.near),
        "error": error(fitted.scores(judged.known), judged.near),
    }
    write(entry, fitted, told)
    return json.dumps(told, indent=1)


def people_of(coco: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(file, annotations) of each photo with labelled people, MOST_PEOPLE of each at most; crowds are left out."""
    by_photo: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        if not annotation.get("iscrowd") and annotation.get("num_keypoints", 0) > 0:
            by_photo[annotation["image_id"]].append(annotation)
    for image in coco["images"]:
        if people := by_photo[image["id"]]:
            yield image["file_name"], people[:MOST_PEOPLE]


def answers(root: Path, photos: Iterator[tuple[str, list[dict[str, Any]]]], detector: Engine) -> Answers:
    """What the detector says of the photos' people in their labelled boxes.

    Raises:
        ValueError: there is nobody.
    """
    peaks, known, near = [], [], []
    for file, people in photos:
        picture = read_picture(root / file)
        boxes = np.array([person["bbox"] for person in people], np.float32)
        inside = clip(boxes, picture.shape[1], picture.shape[0])
        for first in range(0, len(people), BATCH):
            rows = [CropRow(picture, box) for box in inside[first : first + BATCH]]
            points = np.stack(detector.run(detector.prepare(rows))).astype(np.float64)
            labels = [person["keypoints"] for person in people[first : first + BATCH]]
            areas = [person["area"] for person in people[first : first + BATCH]]
            peaks.append(points[..., 2])
            known.append(figures(points, inside[first : first + BATCH]))
            near.append(nearness(points, np.array(labels, np.float64).reshape(-1, 17, 3), np.array(areas)))
    if not peaks:
        raise ValueError("nobody in the photos has a labelled joint")
    return Answers(np.concatenate(peaks), np.concatenate(known), np.concatenate(near))


def nearness(points: Floats, labels: Floats, areas: Floats) -> Floats:
    """(n, 17) similarity of points (n, 17, 3) to labels (n, 17, 3: x, y, v) of areas (n,) px^2; 0 where v is 0."""
    squares = np.square(points[..., :2] - labels[..., :2]).sum(-1)
    alike: Floats = np.exp(-squares / (2 * np.square(2 * SIGMAS) * np.maximum(areas, 1)[:, None]))
    return alike * (labels[..., 2] > 0)


def fit(given: Answers) -> Certainty:
    """A logistic model for each kind of joint, left and right together."""
    rows = []
    for kind in range(len(KINDS)):
        joints = kind == KIND_INDEX
        known = given.known[:, joints].reshape(-1, given.known.shape[-1])
        weights, offset = logistic(known, given.near[:, joints].ravel())
        rows.append([round(float(number), 4) for number in (*weights, offset)])
    return Certainty(np.array(rows))


def error(scores: Floats, near: Floats) -> float:
    """How far scores (n, 17) are from what they stand for: calibration error, mean over the kinds of joints."""
    kinds = [kind == KIND_INDEX for kind in range(len(KINDS))]
    each = [reliability(scores[:, joints].ravel(), near[:, joints].ravel())["error"] for joints in kinds]
    return round(float(np.mean(each)), 4)


def write(entry: Entry, fitted: Certainty, told: Mapping[str, Any]) -> None:
    """Puts the weights into the manifest of a detector in the store, and what is known of them into its card."""
    table = {kind: [float(number) for number in row] for kind, row in zip(KINDS, fitted.weights, strict=True)}
    (entry.folder / MANIFEST).write_text(to_toml(replace(entry.manifest, certainty=table)), encoding="utf-8")
    before, _, after = (entry.folder / CARD).read_text(encoding="utf-8").partition(HEADING)
    _, next_heading, rest = after.partition("\n## ")
    text = f"""{HEADING}

A joint's `score` says how near its place is likely to be to where a person would have put it (similarity of COCO's
metric; 0 where a person would have put none). On {told["people"]["development"]} people that it was not fitted on,
scores are {told["error"]:.3f} off (expected calibration error, mean over the kinds of joints), the heights of the
detector's peaks {told["error_of_peaks"]:.3f}.
"""
    (entry.folder / CARD).write_text(before.rstrip() + "\n\n" + text + next_heading + rest, encoding="utf-8")
