"""COCO keypoint results: one list of detections, as pycocotools reads them; annotation files too, when read.

Pixels are written and read as they are, from the picture's corner. An unknown joint is 0, 0, 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson

from service.people import Array

from .detections import Detection, KeypointFile, flat_points, id_of, joined, number_of
from .recording import Recording

PERSON = 1  # COCO's category
LEAST_SCORE = 1e-4  # the score that stays when one is rounded: 0 would say that the joint is not there


def flat(points: Array) -> list[float]:
    """(joints, 3) as x, y, score, x, y, score, ...: hundredths of a pixel; 0, 0, 0 for an unknown joint."""
    known = np.isfinite(points).all(axis=-1, keepdims=True)
    numbers = points.astype(np.float64)
    pixels = np.round(numbers[:, :2], 2)
    scores = np.maximum(np.round(numbers[:, 2:], 4), LEAST_SCORE)
    numbers = np.where(known, np.concatenate([pixels, scores], axis=-1), 0.0)
    return [float(number) for number in numbers.ravel()]


def listed(recording: Recording, box: str, named: Callable[[int, int], dict[str, int | str]]) -> Iterator[bytes]:
    """A JSON list of every person of every frame, one at a time.

    Args:
        box: the field that x, y, width, height are written to.
        named: from a frame's number in the clip and a person's id to the fields that tell them.
    """
    between = b"[\n"
    for frame, people in recording.rows():
        for person, row in people:
            detection = {
                **named(int(recording.indices[frame]), person.id),
                "category_id": PERSON,
                "keypoints": flat(person.keypoints[row]),
                "score": round(float(person.scores[row]), 4),
                box: np.round(person.boxes[row].astype(np.float64), 2).tolist(),
            }
            yield between + orjson.dumps(detection)
            between = b",\n"
    yield b"\n]\n" if between != b"[\n" else b"[]\n"


def chunks(recording: Recording) -> Iterator[bytes]:
    """The file in pieces. `image_id` is the frame's number in the clip, `track_id` (our addition) the person's id."""
    return listed(recording, "bbox", lambda frame, person: {"image_id": frame, "track_id": person})


def read(content: Any) -> KeypointFile:
    """A parsed results list, or an annotation file's object, whose visibility (0, 1, 2) is read as a score of 0 or 1.

    Raises:
        Unreadable: an entry that is not what COCO says, by its number.
    """
    entries, size = content, None
    if isinstance(content, dict):
        entries = content.get("annotations", [])
        size = _one_size(content.get("images"))
    detections = []
    for n, entry in enumerate(entries):
        points = flat_points(entry.get("keypoints"), {17: "coco17"}, f"entry {n}")
        frame = number_of(entry, "image_id", f"entry {n}")
        detections.append(Detection(frame, id_of(entry.get("track_id")), points))
    return joined(detections, "coco17", size)


def _one_size(images: Any) -> tuple[int, int] | None:
    """The width and height of all images, where each tells the same."""
    images = images if isinstance(images, list) else []
    told = [(each.get("width"), each.get("height")) if isinstance(each, dict) else (None, None) for each in images]
    width, height = told[0] if told and told.count(told[0]) == len(told) else (None, None)
    if type(width) is not int or type(height) is not int or width < 1 or height < 1:
        return None
    return width, height
