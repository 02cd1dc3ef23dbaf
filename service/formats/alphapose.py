"""AlphaPose's result list (its default format): COCO-like, with picture names instead of numbers.

Pixels from the picture's corner. An unknown joint is 0, 0, 0. AlphaPose's own scores are not bounded by 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .coco import listed
from .detections import MOST, Detection, KeypointFile, flat_points, id_of, joined
from .recording import Recording

# Halpe-136 is Halpe-26 with 68 points of the face and 42 of the hands after it.
LAYOUTS = {17: "coco17", 26: "halpe26", 136: "halpe26"}


def chunks(recording: Recording) -> Iterator[bytes]:
    """The file in pieces. `image_id` is "<frame>.jpg", as AlphaPose names a video's frames; `idx` the person's id."""
    return listed(recording, "box", lambda frame, person: {"image_id": f"{frame}.jpg", "idx": person})


def read(content: Any) -> KeypointFile:
    """A parsed result list; of Halpe-136 the first 26 joints.

    A frame's number is the last one in its picture's name; without one in every name, the place among the names.

    Raises:
        Unreadable: an entry that is not what AlphaPose writes, by its number.
    """
    names = sorted({str(entry.get("image_id")) for entry in content})
    digits = {name: re.findall(r"[0-9]+", name) for name in names}
    # What 64 bits do not hold is no number of a frame.
    numbered = all(found and len(found[-1].lstrip("0")) < len(str(MOST)) for found in digits.values())
    frames = {name: int(digits[name][-1]) if numbered else n for n, name in enumerate(names)}
    detections = []
    layout = "coco17"
    for n, entry in enumerate(content):
        points = flat_points(entry.get("keypoints"), LAYOUTS, f"entry {n}")
        layout = LAYOUTS[len(points)]
        detections.append(Detection(frames[str(entry.get("image_id"))], id_of(entry.get("idx")), points[:26]))
    return joined(detections, layout)
