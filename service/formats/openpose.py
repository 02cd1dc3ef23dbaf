"""OpenPose's JSON: one object a frame, people with flat x, y, score of BODY_25.

BODY_25 is OpenPose's own default since 1.3 and what its readers expect; COCO-18 is read as well. Pixels from the
picture's corner. An unknown joint is 0, 0, 0; so are the feet, which our detector does not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson

from service.geometry.skeletons import BODY25, COCO17
from service.people import Array

from .coco import flat
from .detections import Detection, KeypointFile, flat_points, id_of, joined
from .recording import Recording

# OpenPose's COCO model, in its order (poseParameters.cpp, POSE_COCO_BODY_PARTS).
COCO18 = ["nose", "neck"]
COCO18 += [f"{side}_{joint}" for side in ("right", "left") for joint in ("shoulder", "elbow", "wrist")]
COCO18 += [f"{side}_{joint}" for side in ("right", "left") for joint in ("hip", "knee", "ankle")]
COCO18 += ["right_eye", "left_eye", "right_ear", "left_ear"]
UNSEEN = [f"{part}_keypoints_2d" for part in ("face", "hand_left", "hand_right")]
UNSEEN += [f"{part}_keypoints_3d" for part in ("pose", "face", "hand_left", "hand_right")]


def files(recording: Recording, stem: str) -> Iterator[tuple[str, bytes]]:
    """One file a frame of the recording, also where nobody is: its name, as OpenPose makes it, and its content."""
    for frame, people in recording.rows():
        listed = [
            {
                "person_id": [person.id],
                "pose_keypoints_2d": flat(_body25(person.keypoints[row])),
                **{part: [] for part in UNSEEN},
            }
            for person, row in people
        ]
        name = f"{stem}_{int(recording.indices[frame]):012d}_keypoints.json"
        yield name, orjson.dumps({"version": 1.3, "people": listed})


def read(contents: Sequence[tuple[str, Any]]) -> KeypointFile:
    """Parsed frames with their file names, which bear the frames' numbers (else their order does).

    `person_id` is taken where everybody has one; OpenPose itself writes -1, and then people are followed by their
    poses. COCO-18 is given as COCO-17.

    Raises:
        Unreadable: a person that is not what OpenPose writes, by the file's name.
    """
    # Of at most 18 digits: what 64 bits do not hold is no number of a frame.
    found = [re.search(r"(?<![0-9])0*([0-9]{1,18})(?:_keypoints)?\.json$", name) for name, _ in contents]
    numbers = [int(each[1]) for each in found if each]
    if len(numbers) < len(contents):
        numbers = list(range(len(contents)))
    detections = []
    layout = "body25"
    for frame, (name, content) in zip(numbers, contents, strict=True):
        for n, entry in enumerate(content.get("people", [])):
            points = flat_points(entry.get("pose_keypoints_2d"), {25: "body25", 18: "coco17"}, f"{name}, person {n}")
            if len(points) == 18:
                layout, points = "coco17", points[[COCO18.index(joint) for joint in COCO17.joints]]
            given = entry.get("person_id", [-1])
            person = id_of(given[0] if isinstance(given, list) and given else given)
            detections.append(Detection(frame, None if person is None or person < 0 else person, points))
    return joined(detections, layout, frames=numbers)


def _body25(points: Array) -> Array:
    """(25, 3) from COCO-17: neck and middle hip are the means of what lies beside them; the feet are unknown."""
    body = np.full((25, 3), (np.nan, np.nan, 0), np.float32)
    for i, joint in enumerate(COCO17.joints):
        body[BODY25.joints.index(joint)] = points[i]
    for middle, side in (("neck", "shoulder"), ("mid_hip", "hip")):
        both = points[[COCO17.joints.index(f"left_{side}"), COCO17.joints.index(f"right_{side}")]]
        body[BODY25.joints.index(middle)] = (*both[:, :2].mean(axis=0), both[:, 2].min())
    return body
