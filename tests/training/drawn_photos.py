"""Photos in COCO's form, drawn here, with a blot for every joint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# A standing person of COCO's 17 joints, in a box of 1 x 1.
STANDING = np.array(
    [[.5, .1], [.54, .08], [.46, .08], [.58, .1], [.42, .1], [.68, .25], [.32, .25], [.75, .4], [.25, .4], [.78, .54],
     [.22, .54], [.6, .55], [.4, .55], [.62, .75], [.38, .75], [.63, .95], [.37, .95]],
    np.float64,
)  # fmt: skip
PHOTO_SIZE = (160, 120)


def joints_in(box: list[float]) -> NDArray[np.float64]:
    return np.array(box[:2]) + STANDING * box[2:]


def annotation(number: int, image: int, box: list[float], **more: Any) -> dict[str, Any]:
    labels = np.column_stack([joints_in(box), np.full(17, 2)])
    plain = {"id": number, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
    return plain | {"keypoints": labels.ravel().tolist(), "num_keypoints": 17} | more


def write_set(root: Path, name: str, people: dict[int, list[dict[str, Any]]], **photo: Any) -> None:
    """Draws the photos and writes `name`.json; `people` by the number of the photo."""
    (root / name).mkdir(parents=True)
    images = []
    for number, labelled in people.items():
        rng = np.random.default_rng(number)
        picture = rng.integers(60, 120, (PHOTO_SIZE[1], PHOTO_SIZE[0], 3)).astype(np.uint8)
        for person in labelled:
            for joint, (x, y) in enumerate(joints_in(person["bbox"])):
                cv2.circle(picture, (round(x), round(y)), 3, (15 * joint, 255 - 15 * joint, 255), -1)
        cv2.imwrite(str(root / name / f"{number}.png"), picture)
        size = {"width": PHOTO_SIZE[0], "height": PHOTO_SIZE[1]}
        images.append({"id": number, "file_name": f"{name}/{number}.png"} | size | photo)
    coco = {
        "info": {},
        "images": images,
        "annotations": [person for labelled in people.values() for person in labelled],
        "categories": [{"id": 1, "name": "person", "keypoints": [str(i) for i in range(17)]}],
    }
    (root / f"{name}.json").write_text(json.dumps(coco))
