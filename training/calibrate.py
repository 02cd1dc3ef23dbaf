"""Fits the chance that a found person is there: `python -m training calibrate --photos FOLDER`.

The finder and the detector of a store look at hand-labelled photos; a logistic model learns from the finder's score and
the poses which of the finder's boxes hold a labelled person, and the finder's manifest keeps its weights (table
`presence`). Fitted on the training split, told on the development split. The same photos and models give the same
weights. Boxes are x, y, width, height in picture pixels.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engines.engine import Engine
from service.engines.framing import CropRow, PictureRow
from service.geometry.boxes import iou
from service.loading import load_engine
from service.pipelines.presence import FIGURES, Presence, figures
from service.settings import Settings
from service.store.manifest import to_toml
from service.store.store import CARD, MANIFEST, Entry, Store, embedded_store

from .data.photos import LabelledPerson, LabelledPhoto, PhotoSetRecipe, read_photos, read_picture

Floats = NDArray[np.float64]

# Of the finder. Thousands of boxes that are hardly anybody bend the line away from where it decides: fitted from 0.1
# on, people are ranked worse (docs/training.md).
LEAST_SCORE = 0.25
MOST_CANDIDATES = 30  # of a photo, as many as a photo has with the default `max_people`
SAME_PERSON = 0.5  # overlap with a label from which a box is right
IN_IGNORED = 0.5  # part of a box inside one that is ignored (a crowd) from which it says nothing
SHRINKAGE = 1e-3  # of the weights of figures that are brought to deviation 1
STEPS = 50  # of Newton's method; it stands still long before
BINS = 10
HEADING = "## The score"


@dataclass(frozen=True, eq=False)
class Candidates:
    """The finder's boxes of some photos: known (n, FIGURES) what the chance is computed from; person (n,) bool."""

    known: Floats
    person: NDArray[np.bool_]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--photos", type=Path, required=True, help="folder that the files lie in")
    parser.add_argument("--file", default="coco_train.json", help="photos labelled by hand")
    parser.add_argument("--nobody", default="nobody", help="folder of photos without people; `` for none")
    parser.add_argument("--most-photos", type=int, default=0, help="of the training split; 0: all")
    parser.add_argument("--person", help="finder; the store's default if absent")
    parser.add_argument("--pose", help="detector; the store's default if absent")
    parser.add_argument("--side", type=int, default=Settings().person_side, help="of the finder's input in pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", type=Path, default=embedded_store())


def calibrate(arguments: Namespace) -> dict[str, Any]:
    """Writes the chance into the finder's manifest and card; returns what is known of it on the development split."""
    store = Store(arguments.store)
    person = store.find(arguments.person) if arguments.person else store.default("person")
    pose = store.find(arguments.pose) if arguments.pose else store.default("pose")
    settings = Settings(device="cpu", threads=arguments.threads, person_side=arguments.side)
    finder, detector = (load_engine(entry.manifest, entry.load, settings, "cpu") for entry in (person, pose))
    sets = {}
    for split in ("training", "development"):
        photos = read_photos(arguments.photos, PhotoSetRecipe(arguments.file, split=split)).photos
        complete = [photo for photo in photos if photo.complete]
        sets[split] = complete[: arguments.most_photos or None] if split == "training" else complete
        if arguments.nobody:  # every other one
            nobody = read_photos(arguments.photos, PhotoSetRecipe(pictures=arguments.nobody)).photos
            sets[split] += nobody[split == "development" :: 2]
    found = {split: candidates(photos, finder, detector) for split, photos in sets.items()}
    presence = fit(found["training"])
    told = {
        "photos": {split: len(photos) for split, photos in sets.items()},
        "candidates": {split: len(each.person) for split, each in found.items()},
        **reliability(presence.of(found["development"].known), found["development"].person),
    }
    write(person, presence, pose.label, arguments.side, told["error"])
    return told


def candidates(photos: Sequence[LabelledPhoto], finder: Engine, detector: Engine) -> Candidates:
    """What both networks say of the photos, and which boxes are right. Boxes of which nothing is known are left out.

    Raises:
        ValueError: there is no candidate.
    """
    known, person = [], []
    for boxes, scores, points, people in _looks(photos, finder, detector):
        kinds = judged(boxes, people)
        asked = kinds >= 0
        known.append(figures(boxes[asked], scores[asked], points[asked]))
        person.append(kinds[asked] == 1)
    if not known:
        raise ValueError(f"{len(photos)} photos have no candidate with a score of {LEAST_SCORE} or more")
    return Candidates(np.concatenate(known), np.concatenate(person))


def _looks(photos: Sequence[LabelledPhoto], finder: Engine, detector: Engine) -> Iterator[tuple[Any, ...]]:
    """(boxes, the finder's scores, points, labelled people) of every photo with a candidate."""
    for photo in photos:
        picture = read_picture(photo.file)
        found = finder.run(finder.prepare([PictureRow(picture)]))[0]
        likely = (found.scores >= LEAST_SCORE) & (found.boxes[:, 2:] > 0).all(1)
        boxes, scores = found.boxes[likely][:MOST_CANDIDATES], found.scores[likely][:MOST_CANDIDATES]
        if len(boxes):
            points = np.stack(detector.run(detector.prepare([CropRow(picture, box) for box in boxes])))
            yield boxes, scores, points, photo.people


def judged(boxes: NDArray[np.float32], people: Sequence[LabelledPerson]) -> NDArray[np.int64]:
    """(n,) 1: it holds a person whom no box before it holds; 0: nobody; -1: not known, or somebody's second box.

    Args:
        boxes: (n, 4), best first.
    """
    kinds = np.zeros(len(boxes), np.int64)
    there = np.array([each.box for each in people if not each.uncertain], np.float32).reshape(-1, 4)
    ignored = np.array([each.box for each in people if each.uncertain], np.float32).reshape(-1, 4)
    overlap = iou(boxes, there)
    taken = np.zeros(len(there), bool)
    for n, row in enumerate(overlap):
        right = row >= SAME_PERSON
        if (right & ~taken).any():
            taken[int(np.where(right & ~taken, row, -1).argmax())] = True
            kinds[n] = 1
        elif right.any() or (_inside(boxes[n], ignored) > IN_IGNORED).any():
            kinds[n] = -1
    return kinds


def _inside(box: NDArray[np.float32], others: NDArray[np.float32]) -> Floats:
    """(m,) part of the box (4,) that lies in each of the others (m, 4)."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    shared: Floats = (high - low).clip(0, None).prod(1) / max(float(box[2] * box[3]), 1e-6)
    return shared


def fit(given: Candidates) -> Presence:
    """Logistic regression by Newton's method; the weights shrink a little, in units of the figures' deviations.

    Raises:
        ValueError: all candidates are people, or none is.
    """
    if given.person.all() or not given.person.any():
        raise ValueError(f"{len(given.person)} candidates, of whom {given.person.sum()} are people: nothing to learn")
    weights, offset = logistic(given.known, given.person.astype(np.float64))
    rounded = {name: round(float(weight), 5) for name, weight in zip(FIGURES, weights, strict=True)}
    return Presence(rounded, round(offset, 5))


def logistic(known: Floats, wanted: Floats) -> tuple[Floats, float]:
    """(figures,) weights and the offset whose sigmoid comes nearest to wanted (n,) in 0..1, of known (n, figures)."""
    mean, spread = known.mean(0), known.std(0) + 1e-9
    inputs = np.column_stack([(known - mean) / spread, np.ones(len(known))])
    shrink = SHRINKAGE * np.r_[np.ones(known.shape[1]), 0]
    weights = np.zeros(inputs.shape[1])
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (chance - wanted) / len(inputs) + shrink * weights
        bend = (inputs * (chance * (1 - chance))[:, None]).T @ inputs / len(inputs) + np.diag(shrink + 1e-9)
        weights = weights - np.linalg.solve(bend, slope)
    plain = weights[:-1] / spread
    return plain, float(weights[-1] - plain @ mean)


def reliability(chances: Floats, person: NDArray[np.bool_] | Floats) -> dict[str, Any]:
    """How far the chances are from shares of people: `error`, the mean distance over bins of equal width by their size
    (expected calibration error), and `bins`, a line each: candidates, mean chance, share of people."""
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    lines = [
        [int((bins == n).sum()), float(chances[bins == n].mean()), float(person[bins == n].mean())]
        for n in range(BINS)
        if (bins == n).any()
    ]
    error = sum(count * abs(mean - share) for count, mean, share in lines) / max(len(chances), 1)
    return {"error": round(error, 4), "bins": [[count, round(m, 3), round(s, 3)] for count, m, s in lines]}


def write(entry: Entry, presence: Presence, pose: str, side: int, error: float) -> None:
    """Puts the chance beside this detector into the manifest and the card of a finder in the store.

    What stood there for other versions of the detector goes.
    """
    kept = {label: old for label, old in entry.manifest.presence.items() if label.split("@")[0] != pose.split("@")[0]}
    new = {"side": side, "error": error, "offset": presence.offset, "weights": dict(presence.weights)}
    tables = dict(sorted((kept | {pose: new}).items()))
    (entry.folder / MANIFEST).write_text(to_toml(replace(entry.manifest, presence=tables)), encoding="utf-8")
    before, _, after = (entry.folder / CARD).read_text(encoding="utf-8").partition(HEADING)
    _, next_heading, rest = after.partition("\n## ")
    lines = "".join(f"| {label} | {table['side']} | {table['error']:.3f} |\n" for label, table in tables.items())
    text = f"""{HEADING}

A person's `score` is the chance that a person is there, made of the finder's score and of what the detector says of the
box. On photos that it was not fitted on, chances are this far off on average (expected calibration error):

| detector | input side | error |
| --- | --- | --- |
{lines}"""
    (entry.folder / CARD).write_text(before.rstrip() + "\n\n" + text + next_heading + rest, encoding="utf-8")
