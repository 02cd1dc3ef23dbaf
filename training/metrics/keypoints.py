"""COCO's keypoint metric, written anew: OKS, average precision and recall, rescoring, suppression by OKS.

Labels and results are in COCO's own words (a dict of images and annotations; results with image_id, keypoints, score);
positions in pixels. Equal to pycocotools' figures, a test holds it; knows no network. `seen` and `hidden` joints can be
scored apart, since the paper claims its gain where people are covered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# In the annotation's own digits; geometry.boxes has them in 32 bits for the service.
SIGMAS: Floats = np.array(
    [.026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107, .087, .087, .089, .089]
)  # fmt: skip
THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
RECALLS: Floats = np.linspace(0.0, 1.0, 101)
AREAS: Mapping[str, tuple[float, float]] = {"all": (0, 1e10), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
MOST_RESULTS = 20  # of a photo, the best by score
FIGURES = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large")
LEAST_JOINT_SCORE = 0.2  # joints below do not count in a pose's score
SUPPRESS_OKS = 0.9
TINY = float(np.spacing(1))


def oks(results: ArrayLike, labels: ArrayLike, areas: ArrayLike, boxes: ArrayLike) -> Floats:
    """Object keypoint similarity of every result with every label.

    The mean over labelled joints of exp(-d^2 / (2 s^2 k^2)), s^2 the segment's area, k twice the joint's sigma. Where
    nothing is labelled, d is how far each joint lies outside the box enlarged by its own size on every side.

    Args:
        results: (n, 17, 2 or more) x, y. labels: (m, 17, 3) x, y and visibility, labelled over 0.
        areas: (m,) of the segments in square pixels. boxes: (m, 4) x, y, width, height.

    Returns:
        (n, m) 0..1.
    """
    found = np.asarray(results, np.float64)[:, None, :, :2]  # (n, 1, 17, 2)
    wanted = np.asarray(labels, np.float64).reshape(-1, 17, 3)
    box = np.asarray(boxes, np.float64).reshape(-1, 1, 4)
    known: NDArray[np.bool_] = np.asarray(wanted[..., 2] > 0)  # (m, 17)
    first, last = box[..., :2] - box[..., 2:], box[..., :2] + 2 * box[..., 2:]
    outside = np.maximum(0, first - found) + np.maximum(0, found - last)
    any_known: NDArray[np.bool_] = np.asarray(known.any(axis=1))
    away = np.where(any_known[:, None, None], found - wanted[..., :2], outside)  # (n, m, 17, 2)
    size = np.asarray(areas, np.float64)[:, None] + TINY
    alike = np.exp(-np.square(away).sum(-1) / np.square(2 * SIGMAS) / size / 2)
    counts = np.where(any_known[:, None], known, True)
    similarity: Floats = (alike * counts).sum(-1) / counts.sum(-1)
    return similarity


def pose_score(joint_scores: ArrayLike, box_score: float = 1.0) -> float:
    """HRNet's rescoring: the box's score times the mean of the joints' scores over 0.2, 0 if there are none."""
    scores = np.asarray(joint_scores, np.float64)
    sure = scores[scores > LEAST_JOINT_SCORE]
    return float(box_score * sure.mean()) if sure.size else 0.0


def suppress_alike(
    poses: ArrayLike, scores: ArrayLike, areas: ArrayLike, limit: float = SUPPRESS_OKS
) -> NDArray[np.intp]:
    """Greedy suppression: a pose goes if its OKS with a kept one of higher score is over `limit`.

    Args:
        poses: (n, 17, 2 or more). scores: (n,). areas: (n,) of the padded boxes; a pair's is their mean.

    Returns:
        (k,) indices of the kept poses by falling score; of equal scores the earlier comes first.
    """
    points = np.asarray(poses, np.float64).reshape(-1, 17, np.shape(poses)[-1] if np.size(poses) else 2)[..., :2]
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    points, size = points[order], np.asarray(areas, np.float64)[order]
    squares = np.square(points[:, None] - points[None]).sum(-1)
    pair = (size[:, None] + size[None]) / 2 + TINY
    alike = np.exp(-squares / np.square(2 * SIGMAS) / pair[..., None] / 2).mean(-1) if len(points) else squares
    kept: list[int] = []
    for candidate in range(len(points)):
        if all(alike[earlier, candidate] <= limit for earlier in kept):
            kept.append(candidate)
    return order[kept]


def only_joints(coco: Mapping[str, Any], which: Literal["seen", "hidden"]) -> dict[str, Any]:
    """The same labels with those joints alone: seen ones (visibility 2) or labelled but covered ones (1).

    A person without any of them is ignored by the metric, as one without labels always is.
    """
    wanted = {"seen": 2, "hidden": 1}[which]
    annotations = []
    for annotation in coco["annotations"]:
        labels = np.array(annotation["keypoints"], np.float64).reshape(-1, 3)
        labels[labels[:, 2] != wanted] = 0
        count = int((labels[:, 2] > 0).sum())
        annotations.append(annotation | {"keypoints": labels.ravel().tolist(), "num_keypoints": count})
    return {**coco, "annotations": annotations}


@dataclass(frozen=True, eq=False)
class _Matches:
    """Of one photo: scores of the results by falling score; at every threshold, whether each has a label, and whether
    it does not count; how many labels count."""

    scores: Floats
    matched: NDArray[np.bool_]  # (thresholds, results)
    ignored: NDArray[np.bool_]
    labels: int


def keypoint_figures(coco: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """COCO's ten figures of poses: FIGURES, each 0..1, or -1 where no label counts.

    Args:
        coco: `images` and `annotations` (image_id, keypoints, num_keypoints, area, bbox, iscrowd).
        results: image_id, keypoints (51 numbers), score.

    Raises:
        ValueError: a result's photo is not among the images.
    """
    images = sorted({image["id"] for image in coco["images"]})
    labels, found = defaultdict(list), defaultdict(list)
    for annotation in coco["annotations"]:
        labels[annotation["image_id"]].append(annotation)
    for result in results:
        found[result["image_id"]].append(result)
    if strange := set(found) - set(images):
        raise ValueError(f"results speak of image {min(strange)}, which is not among the {len(images)} labelled ones")
    tables = {}
    for name, area in AREAS.items():
        each = [_matches(labels[i], found[i], area) for i in images if labels[i] or found[i]]
        tables[name] = _accumulated(each)
    values = {}
    for figure in FIGURES:
        precision, recall = tables[figure.partition("_")[2] or "all"]
        table = precision if figure.startswith("ap") else recall
        at = {"50": [0], "75": [5]}.get(figure[2:], slice(None))
        values[figure] = float(table[at].mean()) if table.size else -1.0
    return values


def mean_oks(coco: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> float:
    """Mean over labelled people (crowds apart) of the best OKS that a result of their photo has, whatever its score.

    0..1, and 0 for a person in whose photo nothing was found; -1 where nobody is labelled. Several people may share
    a result: it is no measure of finding people, but with given boxes it tells of joints where AP is still 0.
    """
    found = defaultdict(list)
    for result in results:
        found[result["image_id"]].append(np.reshape(result["keypoints"], (17, 3)))
    best = []
    for each in coco["annotations"]:
        if each["num_keypoints"] and not each.get("iscrowd"):
            poses = found[each["image_id"]]
            alike = oks(poses, [each["keypoints"]], [each["area"]], [each["bbox"]]) if poses else np.zeros(1)
            best.append(alike.max())
    return float(np.mean(best)) if best else -1.0


def _matches(labels: list[Any], results: list[Any], area: tuple[float, float]) -> _Matches:
    """COCO's greedy matching of one photo."""
    low, high = area
    ignore = np.array([_ignored(label) or not low <= label["area"] <= high for label in labels], bool)
    order = np.argsort(ignore, kind="stable")
    labels, ignore = [labels[n] for n in order], ignore[order]
    crowd = np.array([bool(label.get("iscrowd")) for label in labels], bool)
    by_score = np.argsort([-result["score"] for result in results], kind="stable")[:MOST_RESULTS]
    results = [results[n] for n in by_score]
    points = np.array([result["keypoints"] for result in results], np.float64).reshape(-1, 17, 3)
    matched = np.zeros((len(THRESHOLDS), len(results)), bool)
    ignored = np.zeros_like(matched)
    if labels and results:
        alike = oks(
            points,
            [np.reshape(label["keypoints"], (17, 3)) for label in labels],
            [label["area"] for label in labels],
            [label["bbox"] for label in labels],
        )
        for number, threshold in enumerate(THRESHOLDS):
            taken = np.zeros(len(labels), bool)
            for result, row in enumerate(alike):
                best = _best(row, ignore, taken & ~crowd, min(threshold, 1 - 1e-10))
                if best >= 0:
                    matched[number, result], ignored[number, result], taken[best] = True, ignore[best], True
    extent = np.ptp(points[..., :2], axis=1).prod(-1) if results else np.zeros(0)
    ignored |= ~matched & ((extent < low) | (extent > high))
    return _Matches(np.array([result["score"] for result in results]), matched, ignored, int((~ignore).sum()))


def _ignored(label: Mapping[str, Any]) -> bool:
    """Crowds, and people without a labelled joint."""
    return bool(label.get("ignore") or label.get("iscrowd") or label["num_keypoints"] == 0)


def _best(alike: Floats, ignore: NDArray[np.bool_], closed: NDArray[np.bool_], least: float) -> int:
    """The label of highest OKS that is still open, at least `least`; one that counts goes before all ignored ones.

    Of equals the last wins, as in COCO's code. -1 where there is none.
    """
    for kind in (~ignore, ignore):
        fitting = np.flatnonzero(kind & ~closed & (alike >= least))
        if fitting.size:
            return int(fitting[len(fitting) - 1 - int(alike[fitting][::-1].argmax())])
    return -1


def _accumulated(photos: list[_Matches]) -> tuple[Floats, Floats]:
    """Precision (thresholds, 101) at every recall, and the last recall (thresholds,); empty where no label counts."""
    labels = sum(photo.labels for photo in photos)
    if not labels:
        return np.zeros((0, len(RECALLS))), np.zeros(0)
    order = np.argsort(-np.concatenate([photo.scores for photo in photos]), kind="stable")
    matched = np.concatenate([photo.matched for photo in photos], axis=1)[:, order]
    counts = ~np.concatenate([photo.ignored for photo in photos], axis=1)[:, order]
    right = (matched & counts).cumsum(1, dtype=np.float64)
    wrong = (~matched & counts).cumsum(1, dtype=np.float64)
    recall = right / labels
    precision = right / (right + wrong + TINY)
    # The best precision at this recall or any higher one.
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    table = np.zeros((len(THRESHOLDS), len(RECALLS)))
    for number, reached in enumerate(recall):
        at = np.searchsorted(reached, RECALLS, side="left")
        inside = at < reached.size
        table[number, inside] = precision[number, at[inside]]
    return table, recall[:, -1] if recall.shape[1] else np.zeros(len(THRESHOLDS))
