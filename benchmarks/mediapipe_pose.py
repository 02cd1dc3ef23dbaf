"""`python -m benchmarks.mediapipe_pose ANNOTATIONS PHOTOS --python PYTHON`: MediaPipe Pose "full" beside the service.

Photos with exactly one labelled person, since it answers one; both see each photo in turn and without a box. AP is
COCO's over these photos (OKS; the likeliest person, or all with --everybody). PYTHON is that of an environment
with mediapipe 0.10.21, whose wheel is the last that carries the network. Times are ms a photo: of MediaPipe's call and
its decoding, of the service a whole request over HTTP.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .machine import TREE, load_average, machine
from .report import table
from .served import own_service

WARM_PHOTOS = 3


def single_people(annotations: dict[str, Any]) -> list[dict[str, Any]]:
    """The images with exactly one annotation, no crowd, at least one labelled joint, and no people left unlabelled."""
    people = Counter(each["image_id"] for each in annotations["annotations"])
    labelled = {
        each["image_id"]
        for each in annotations["annotations"]
        if any(each["keypoints"][2::3]) and not each.get("iscrowd")
    }
    return [
        image
        for image in annotations["images"]
        if people[image["id"]] == 1 and image["id"] in labelled and image.get("boxes_complete", True)
    ]


def detection(image: int, keypoints: list[list[float]], score: float) -> dict[str, Any]:
    """A line of COCO's results."""
    flat = [number for x, y, _ in keypoints for number in (x, y, 1)]
    return {"image_id": image, "category_id": 1, "keypoints": flat, "score": score}


def average_precision(truth: COCO, images: list[int], found: list[dict[str, Any]]) -> dict[str, float]:
    """AP and AP50 by OKS over these images."""
    if not found:
        return {"AP": 0.0, "AP50": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        scored = COCOeval(truth, truth.loadRes(found), "keypoints")
        scored.params.imgIds = images
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return {"AP": round(float(scored.stats[0]), 4), "AP50": round(float(scored.stats[1]), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mediapipe_pose", description=__doc__)
    parser.add_argument("annotations", type=Path, help="in COCO's form")
    parser.add_argument("photos", type=Path, help="the folder of their files")
    parser.add_argument("--python", type=Path, required=True, help="of an environment with mediapipe 0.10.21")
    parser.add_argument("--most", type=int, help="so many photos, the first ones")
    parser.add_argument("--everybody", action="store_true", help="score all people that the service finds")
    arguments = parser.parse_args()
    images = single_people(json.loads(arguments.annotations.read_text()))[: arguments.most]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(arguments.annotations))
    before, ids = machine(), [image["id"] for image in images]
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    times: dict[str, list[float]] = {"ours": [], "mediapipe": [], "mediapipe_with_decoding": []}
    environment = os.environ | {"PYTHONPATH": str(TREE), "GLOG_minloglevel": "2"}
    # Not resolved: the link in a virtual environment is what makes it one.
    command = [str(arguments.python.absolute()), "-m", "benchmarks.peers.servers.on_mediapipe"]
    with (
        own_service() as (url, _),
        subprocess.Popen(
            command, cwd=TREE, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        assert other.stdin is not None and other.stdout is not None
        for image in images[:WARM_PHOTOS] + images:
            photo = arguments.photos.absolute() / image["file_name"]
            other.stdin.write(f"{photo}\n")
            other.stdin.flush()
            told = json.loads(other.stdout.readline())
            content, started = photo.read_bytes(), time.perf_counter()
            asked = {"lift": "false"} | ({"min_person_score": "0.01"} if arguments.everybody else {"max_people": "1"})
            answer = client.post("/v1/images", params=asked, content=content, headers={"Content-Type": "image/jpeg"})
            spent_ms = 1000 * (time.perf_counter() - started)
            answer.raise_for_status()
            times["ours"].append(spent_ms)
            times["mediapipe"].append(told["ms"])
            times["mediapipe_with_decoding"].append(told["ms"] + told["decode_ms"])
            if len(times["ours"]) <= WARM_PHOTOS:
                continue
            if told["keypoints"] is not None:
                score = statistics.mean(visible for _, _, visible in told["keypoints"])
                theirs.append(detection(image["id"], told["keypoints"], score))
            for person in answer.json()["people"]:
                ours.append(detection(image["id"], person["keypoints"], person["score"]))
        other.stdin.close()
    lines = [
        _line("ours", times["ours"], ours, average_precision(truth, ids, ours)),
        _line("mediapipe", times["mediapipe"], theirs, average_precision(truth, ids, theirs)),
        _line("mediapipe with decoding", times["mediapipe_with_decoding"], theirs, {}),
    ]
    figures = {"machine": before, "load_average_after": load_average(), "photos": len(images), "lines": lines}
    print(json.dumps(figures, indent=1))
    print(table(lines))


def _line(name: str, spent_ms: list[float], found: list[dict[str, Any]], scores: dict[str, float]) -> dict[str, Any]:
    spent_ms = sorted(spent_ms[WARM_PHOTOS:])
    return {
        "way": name,
        "p50_ms": round(statistics.median(spent_ms), 1),
        "p90_ms": round(spent_ms[int(0.9 * (len(spent_ms) - 1))], 1),
        "photos_with_people": len({each["image_id"] for each in found}),
        "AP": scores.get("AP"),
        "AP50": scores.get("AP50"),
    }


if __name__ == "__main__":
    main()
