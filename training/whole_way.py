"""`python -m training whole-way`: rendered photos and clips through a running service, held against what was rendered.

Talks HTTP only, so it measures what a client gets: found people, 2D, 3D in the camera's axes, ids over a clip. Metres
and pixels; 3D errors are told in millimetres. Reads what `python -m training render` wrote.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.geometry.alignment import mpjpe, n_mpjpe, p_mpjpe, pck, stature
from service.geometry.boxes import iou, oks

from .scores import average_precision, box_result, pose_result

Floats = NDArray[np.float64]

SAME_PERSON_IOU = 0.5
WHOLE_SHARE = 0.85  # of the silhouette that must be seen of a person whom nothing covers or cuts
LEAST_SHARE = 0.25  # people of whom less is seen are not asked for
SHOWN_SCORE = 0.4  # the service's default `min_person_score`
LEAST_SCORE, MOST_PEOPLE = 0.05, 20  # what the 2D average precision is made of
PATIENCE_MS = 600_000


@dataclass
class Poses:
    """True and found 3D joints of matched people, (17, 3) each, metres, and how many people were asked for."""

    wanted: int = 0
    true: list[Floats] = field(default_factory=list)
    found: list[Floats] = field(default_factory=list)
    similarity: list[float] = field(default_factory=list)  # OKS of the 2D joints
    exact: list[Floats] = field(default_factory=list)  # what the lifter makes of the true 2D, of everybody asked for
    of_exact: list[Floats] = field(default_factory=list)

    def figures(self) -> dict[str, float | int]:
        """Errors in millimetres, PCK and found share 0..1."""
        out: dict[str, float | int] = {"people": self.wanted, "found": len(self.true)}
        if self.wanted:
            out["found_share"] = round(len(self.true) / self.wanted, 3)
        if self.exact:
            out["n_exact_2d_mm"] = _mm(n_mpjpe(np.stack(self.exact), np.stack(self.of_exact)))
        if self.true:
            true, found = np.stack(self.true), np.stack(self.found)
            scaled = found * (np.array([stature(each[None]) for each in true]) / ASSUMED_STATURE_M)[:, None, None]
            out |= {
                "p1_mm": _mm(mpjpe(found, true)),
                "p1_with_stature_mm": _mm(mpjpe(scaled, true)),
                "n_mm": _mm(n_mpjpe(found, true)),
                "n_median_mm": _mm(float(np.median([n_mpjpe(*pair) for pair in zip(found, true, strict=True)]))),
                "p2_mm": _mm(p_mpjpe(found, true)),
                "pck150": round(float(pck(found, true)), 3),
                "oks": round(float(np.mean(self.similarity)), 3),
            }
        return out


ASSUMED_STATURE_M = 1.70


def add_arguments(task: argparse.ArgumentParser) -> None:
    task.add_argument("--url", required=True, help="of the running service")
    task.add_argument("--rendered", type=Path, required=True, help="folder that `training render` wrote")
    task.add_argument("--name", default="synthetic_train", help="of the annotation file in it; `render` has the same")
    task.add_argument("--camera", choices=("given", "assumed"), default="given", help="is the focal length told?")
    task.add_argument("--flip-test", action="store_true")
    task.add_argument("--key", help="API key, where the service wants one")


def whole_way(arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores of photos and clips, whichever lie in the folder."""
    headers = {"Request-Timeout-Ms": str(PATIENCE_MS)}
    if arguments.key:
        headers["Authorization"] = f"Bearer {arguments.key}"
    out: dict[str, Any] = {}
    with httpx.Client(base_url=arguments.url, timeout=PATIENCE_MS / 1000, headers=headers) as client:
        labels = arguments.rendered / f"{arguments.name}.json"
        if labels.is_file():
            out["photos"] = score_photos(client, labels, arguments.camera == "given", arguments.flip_test)
        clips = sorted((arguments.rendered / f"{arguments.name}_clips").glob("*.mp4"))
        if clips:
            out["clips"] = [score_clip(client, clip, arguments.camera == "given") for clip in clips]
    if not out:
        raise ValueError(f"{arguments.rendered} has no {labels.name} and no clips of that name")
    return out


def score_photos(client: httpx.Client, labels: Path, told: bool, flip_test: bool) -> dict[str, Any]:
    """Asks for every photo of an annotation file with `joints3d`; people by how much of them is to be seen."""
    coco = json.loads(labels.read_text(encoding="utf-8"))
    people = defaultdict(list)
    for person in coco["annotations"]:
        people[person["image_id"]].append(person)
    kinds = {kind: Poses() for kind in ("whole", "whole_tilted", "cut", "covered")}
    poses, boxes, false_people, models = [], [], 0, {}
    for image in coco["images"]:
        options: dict[str, Any] = {"min_person_score": LEAST_SCORE, "max_people": MOST_PEOPLE, "flip_test": flip_test}
        if told:
            options["camera"] = {"focal_px": image["focal_px"]}
        answer = _photo(client, labels.parent / image["file_name"], options)
        models = answer["models"]
        for person in answer["people"]:
            box = np.array(person["box"], np.float32)
            points = np.array(person["keypoints"], np.float32)
            poses.append(pose_result(image["id"], points, person["score"]))
            boxes.append(box_result(image["id"], box, person["score"]))
        shown = [person for person in answer["people"] if person["score"] >= SHOWN_SCORE]
        pairs = matched([p["bbox"] for p in people[image["id"]]], [p["box"] for p in shown])
        false_people += len(shown) - len(pairs)
        for number, true in enumerate(people[image["id"]]):
            if true["whole"] < LEAST_SHARE:
                continue
            kind = kind_of(true, image)
            for each in (kind, "whole_tilted") if kind == "whole" and tilted(true) else (kind,):
                _add(kinds[each], true, shown[pairs[number]] if number in pairs else None)
            if kind == "whole":
                kinds[kind].exact.append(_lifted(client, true, image))
                kinds[kind].of_exact.append(np.array(true["joints3d"], np.float64))
    return {
        "models": models,
        "pose": _rounded(average_precision(coco, poses, "keypoints")),
        "box": _rounded(average_precision(coco, boxes, "bbox")),
        "false_people_a_photo": round(false_people / max(len(coco["images"]), 1), 3),
        **{kind: found.figures() for kind, found in kinds.items()},
    }


def score_clip(client: httpx.Client, clip: Path, told: bool) -> dict[str, Any]:
    """Asks for a clip; its poses, and how the ids that came out follow the true ones."""
    truth = json.loads(clip.with_suffix(".json").read_text(encoding="utf-8"))
    # A joint that is never seen counts as well, as a photo's does.
    options = {"inferred": True} | ({"camera": {"focal_px": truth["focal_px"]}} if told else {})
    answer = client.post(
        "/v1/clips",
        files={"clip": (clip.name, clip.read_bytes(), "video/mp4")},
        data={"options": json.dumps(options)},
    )
    if answer.status_code != 200:
        raise ValueError(f"{clip.name}: HTTP {answer.status_code}: {answer.text[:300]}")
    lines = [json.loads(line) for line in answer.text.splitlines() if line]
    last = lines[-1]
    if last["type"] != "end":
        raise ValueError(f"{clip.name}: the answer ends with {json.dumps(last)[:300]}")
    merged = {int(old): int(new) for old, new in (last.get("merged") or {}).items()}
    found = {line["index"]: line["people"] for line in lines if line["type"] == "frame"}
    poses, pairs = Poses(), []
    held: dict[int, int] = {}
    for frame in truth["frames"]:
        true = [person for person in frame["people"] if person["whole"] >= LEAST_SHARE]
        shown = found.get(frame["index"], [])
        before = [(person["id"], other["id"]) for person in true for other in shown]
        kept = {divmod(n, len(shown)) for n, (own, given) in enumerate(before) if held.get(own) == given}
        match = matched([p["bbox"] for p in true], [p["box"] for p in shown], kept)
        for number, person in enumerate(true):
            other = shown[match[number]] if number in match else None
            _add(poses, person, other)
            pairs.append((person["id"], None if other is None else merged.get(other["id"], other["id"])))
            if other is not None:
                held[person["id"]] = other["id"]
    return {"clip": clip.name, "frames": len(truth["frames"]), **poses.figures(), **followed(pairs)}


def followed(pairs: Sequence[tuple[int, int | None]]) -> dict[str, int | float]:
    """How well ids stick: pairs of a true id and the one that was answered (None: not found), in the order of time.

    ids: distinct ids answered; swaps: how often a person's id differs from the one it had when it was last found;
    kept_share: of all sightings, those under the id that the person has most often (and nobody else more often).
    """
    before: dict[int, int] = {}
    swaps = 0
    for true, answered in pairs:
        if answered is None:
            continue
        swaps += before.get(true, answered) != answered
        before[true] = answered
    counts = Counter((true, answered) for true, answered in pairs if answered is not None)
    kept, taken = 0, set()
    named = set()
    for (true, answered), count in counts.most_common():
        if true not in named and answered not in taken:
            kept += count
            named.add(true)
            taken.add(answered)
    people = {true for true, _ in pairs}
    ids = {answered for _, answered in pairs if answered is not None}
    return {
        "true_ids": len(people),
        "ids": len(ids),
        "swaps": swaps,
        "kept_share": round(kept / max(len(pairs), 1), 3),
    }


def matched(
    true: Sequence[ArrayLike], found: Sequence[ArrayLike], before: Collection[tuple[int, int]] = ()
) -> dict[int, int]:
    """Which found box is which true one: best overlaps first, each once, SAME_PERSON_IOU or more.

    before: pairs that belonged together in the frame before; as long as they overlap enough, they come first (CLEAR
    MOT, Bernardin 2008): of two people behind each other, boxes alone do not tell who is who.
    """
    if not len(true) or not len(found):
        return {}
    overlap = iou(np.array(true, np.float32), np.array(found, np.float32))
    places = [divmod(int(place), overlap.shape[1]) for place in np.argsort(-overlap, axis=None, kind="stable")]
    pairs: dict[int, int] = {}
    for row, column in sorted(places, key=lambda place: place not in before):
        if overlap[row, column] >= SAME_PERSON_IOU and row not in pairs and column not in pairs.values():
            pairs[row] = column
    return pairs


def kind_of(person: Mapping[str, Any], image: Mapping[str, Any]) -> str:
    """whole: all joints in the picture, next to nothing covered; cut: a joint lies beyond the border; else covered."""
    size = np.array([image["width"], image["height"]])
    places = np.array(person["projected"], np.float64)  # null becomes NaN, which is in no picture
    if not ((places >= 0) & (places < size)).all():
        return "cut"
    return "whole" if person["whole"] >= WHOLE_SHARE else "covered"


def tilted(person: Mapping[str, Any]) -> bool:
    """Whether the trunk is more than 45 degrees off the picture's vertical: lying, bent down, or upside down."""
    joints = np.array(person["joints3d"], np.float64)
    trunk = joints[8] - joints[0]
    return bool(-trunk[1] < np.sqrt(0.5) * np.linalg.norm(trunk))


def _lifted(client: httpx.Client, true: Mapping[str, Any], image: Mapping[str, Any]) -> Floats:
    """(17, 3) what the lifter makes of a person's true 2D joints."""
    points = np.column_stack([true["projected"], np.ones(17)]).tolist()
    size = [image["width"], image["height"]]
    camera = {"focal_px": image["focal_px"]}
    asked = {"skeleton": "coco17", "image_size": size, "keypoints": [points], "camera": camera}
    answer = client.post("/v1/lift", json=asked)
    if answer.status_code != 200:
        raise ValueError(f"{image['file_name']}: /v1/lift: HTTP {answer.status_code}: {answer.text[:300]}")
    return np.array(answer.json()["joints3d"][0], np.float64)


def _add(poses: Poses, true: Mapping[str, Any], found: Mapping[str, Any] | None) -> None:
    poses.wanted += 1
    if found is None or found.get("joints3d") is None:
        return
    joints = np.array(found["joints3d"], np.float64)
    if not np.isfinite(joints).all():
        return
    poses.true.append(np.array(true["joints3d"], np.float64))
    poses.found.append(joints)
    points = np.array(true["projected"], np.float64)
    flat = np.column_stack([points, np.ones(17)])
    poses.similarity.append(float(oks(flat, np.array(found["keypoints"], np.float64), true["area"])))


def _photo(client: httpx.Client, file: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    answer = client.post(
        "/v1/images",
        files={"image": (file.name, file.read_bytes(), "image/jpeg")},
        data={"options": json.dumps(options)},
    )
    if answer.status_code != 200:
        raise ValueError(f"{file.name}: HTTP {answer.status_code}: {answer.text[:300]}")
    people: dict[str, Any] = answer.json()
    return people


def _mm(metres: float) -> float:
    return round(1000 * metres, 1)


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}
