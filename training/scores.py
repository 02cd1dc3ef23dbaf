"""The official metric of COCO, quietly: average precision of poses and of boxes. Knows no network."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

POSE_FIGURES = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar")
BOX_FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
LEAST_JOINT_SCORE = 0.2  # joints below do not count in a pose's score


def pose_result(image_id: int, points: NDArray[np.float32], person_score: float = 1.0) -> dict[str, Any]:
    """A pose in COCO's words: points (17, 3) in picture pixels; its score is the person's times the seen joints' mean
    (HRNet's rescoring)."""
    seen = points[:, 2][points[:, 2] > LEAST_JOINT_SCORE]
    triples = np.column_stack([points[:, :2], np.ones(len(points))]).ravel().tolist()
    score = person_score * float(seen.mean() if seen.size else 0)
    return {"image_id": image_id, "category_id": 1, "keypoints": triples, "score": score}


def box_result(image_id: int, box: NDArray[np.float32], score: float) -> dict[str, Any]:
    """A box (4,) x, y, width, height in COCO's words."""
    return {"image_id": image_id, "category_id": 1, "bbox": box.tolist(), "score": score}


def average_precision(
    coco: Mapping[str, Any], results: Sequence[dict[str, Any]], kind: Literal["keypoints", "bbox"]
) -> dict[str, float]:
    """AP and its like over a file of labels in COCO's form; all 0 where there are no results."""
    names = POSE_FIGURES if kind == "keypoints" else BOX_FIGURES
    if not results:
        return dict.fromkeys(names, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dict(coco)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(list(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(names, evaluation.stats, strict=False)}
