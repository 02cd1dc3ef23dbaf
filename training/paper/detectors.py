"""Trains and scores a 2D detector on COCO 2017 by the paper's recipe and the official protocol.

Crops, loss and decoding are the project's own (`training.pose`, `service.engines.framing`); the figures are
`training.metrics.keypoints`: flip test, rescoring, suppression by OKS, with detected boxes or with the labelled ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from service.engines.framing import CropRow, PoseFraming
from service.networks import create

from ..data.ahead import Ahead
from ..data.coco import DetectedBox, labelled_boxes, read_coco, read_detections
from ..data.crops import CropMaker, CropRecipe
from ..data.photos import PhotoSet, read_picture
from ..distributed import Schedule, ScheduledRun, own_batches, together
from ..loop import LoopRecipe
from ..metrics.keypoints import keypoint_figures, mean_oks, only_joints, pose_score, suppress_alike
from ..pose import PoseTask, as_heatmaps, pictures_of
from ..recipe import section
from ..start import ended
from .gates import watched
from .where import Where

APART = ("ap", "ar")  # figures that are told of seen and of hidden joints apart, too


@dataclass(frozen=True)
class EpochRecipe:
    """The length of a training, and to what share of itself the rate falls every so many epochs (1: as `drops` say).

    to_zero: the rate falls in a straight line over the whole training, to 0 at its last step.
    """

    epochs: int = 210
    fall: float = 1.0
    fall_epochs: int = 2
    drops: tuple[int, ...] = ()  # epochs after which the rate is a tenth
    to_zero: bool = False


def build_detector(recipe: Mapping[str, Any], where: Where) -> nn.Module:
    """The row's network; with the weights of an ImageNet backbone, or of a run, where the recipe's `backbone` is true.

    Raises:
        ValueError: the recipe starts from a backbone and none is given.
    """
    network = recipe["network"]
    module = create(network["name"], **{key: value for key, value in network.items() if key != "name"})
    if recipe.get("backbone"):
        file = where.backbones.get(network["name"])
        if file is None:
            raise ValueError(f"the row starts from given weights: name them, --backbone {network['name']}=FILE")
        start_from_backbone(module, network["name"], ended(file))
    return module


def start_from_backbone(module: nn.Module, name: str, arrays: Mapping[str, Any]) -> None:
    """Copies what a backbone has; what it lacks (attention, and an ImageNet backbone the head) stays as it was made.

    Raises:
        ValueError: a weight is not the network's by name or shape; nothing has been copied then.
    """
    targets = module.state_dict()
    for key, array in arrays.items():
        if key not in targets or tuple(targets[key].shape) != tuple(array.shape):
            raise ValueError(f"the backbone's `{key}` {tuple(array.shape)} is no weight of {name}")
    with torch.no_grad():
        for key, array in arrays.items():
            targets[key].copy_(torch.from_numpy(np.array(array)))


def train_detector(recipe: Mapping[str, Any], where: Where) -> nn.Module:
    """Trains a row's detector in its folder, or goes on there; returns it with the weights that it ended with."""
    loop, epochs = section(recipe, "loop", LoopRecipe), section(recipe, "epochs", EpochRecipe)
    torch.manual_seed(loop.seed)
    processes = where.processes
    loop = replace(loop, batch=max(1, loop.batch // processes.count))
    task = PoseTask(dict(recipe), [], where.device, where.bf16)
    photos = read_coco(where.data / "coco", "train2017")
    pictures = pictures_of([photos], where.picture_gb)
    maker = CropMaker([photos], section(recipe, "crops", CropRecipe), task.framing, loop.batch, loop.seed, pictures)
    per_epoch = -(-len(maker.people) // (loop.batch * processes.count))
    loop = replace(loop, drops=tuple(per_epoch * epoch for epoch in epochs.drops))
    module = build_detector(recipe, where).to(memory_format=torch.channels_last)
    schedule = Schedule(where.steps or epochs.epochs * per_epoch, epochs.fall, epochs.fall_epochs * per_epoch)
    run = ScheduledRun(where.run, module, loop, where.device, schedule, processes, where.hours)
    run.fit(
        Ahead(own_batches(maker, processes), where.workers),
        together(run.module, task.losses, processes, where.device, where.parts),
        lambda _: {},
        hours=float("inf"),
        decay_steps=schedule.steps if epochs.to_zero else 0,
        checkpoint_s=where.checkpoint_s,
    )
    return run.module


def score_detector(
    module: nn.Module, recipe: Mapping[str, Any], where: Where, flip_test: bool = True
) -> dict[str, Any]:
    """COCO's ten figures on val2017 in percent, `ap` and `ar` also as `seen_ap`, `hidden_ap` and the like.

    `oks` is the mean over labelled people, which tells weak networks apart where their AP is near 0. With attention
    also `gate` and `gate_spread` over people, and `fixed_ap`, `fixed_oks` with every gate at its mean over people.
    Where no label is of a kind (no hidden joint, no large person) the figure is -100, COCO's -1.
    """
    photos = read_coco(where.data / "coco", "val2017")
    boxes = labelled_boxes(photos.photos) if where.boxes is None else read_detections(where.boxes)
    task = PoseTask(dict(recipe), [], where.device, where.bf16)
    was = module.training
    module.eval()
    with watched(module) as gates:
        results = detected_poses(module, task, photos, boxes, flip_test)
        figures = keypoint_figures(photos.coco, results) | {"oks": mean_oks(photos.coco, results)} | gates.figures()
        if gates.fix():
            fixed = detected_poses(module, task, photos, boxes, flip_test)
            figures |= {"fixed_ap": keypoint_figures(photos.coco, fixed)["ap"]}
            figures |= {"fixed_oks": mean_oks(photos.coco, fixed)}
    module.train(was)
    for which in ("seen", "hidden"):
        apart = keypoint_figures(only_joints(photos.coco, which), results)
        figures |= {f"{which}_{name}": apart[name] for name in APART}
    return {name: 100 * value for name, value in figures.items()}


@torch.no_grad()
def detected_poses(
    module: nn.Module, task: PoseTask, photos: PhotoSet, boxes: Sequence[DetectedBox], flip_test: bool
) -> list[dict[str, Any]]:
    """Results in COCO's words: rescored, and those that are alike suppressed in every photo."""
    found: dict[int, list[tuple[DetectedBox, Any]]] = defaultdict(list)
    for rows in _rows(photos, boxes, flip_test):
        crops = task.crops(torch.from_numpy(task.framing.inputs([row for _, row in rows])))
        heatmaps = as_heatmaps(module(crops).float(), task.weights.kind, task.sigma)
        answers = task.framing.answers([heatmaps.cpu().numpy()], [row for _, row in rows])
        for (box, _), points in zip(rows, answers, strict=True):
            found[box.image_id].append((box, points))
    results = []
    for image, people in found.items():
        points = np.stack([each for _, each in people])
        scores = [pose_score(each[:, 2], box.score) for box, each in people]
        areas = [padded_area(box, task.framing) for box, _ in people]
        for number in suppress_alike(points, scores, areas):
            triples = np.column_stack([points[number][:, :2], np.ones(17)]).ravel().tolist()
            results.append({"image_id": image, "category_id": 1, "keypoints": triples, "score": scores[number]})
    return results


def padded_area(box: DetectedBox, framing: PoseFraming) -> float:
    """Square pixels of the crop around a box, before it is shrunk: what suppression by OKS measures a person with."""
    _, _, wide, tall = (float(side) for side in box.box)
    aspect = framing.width / framing.height
    wide = max(wide, tall * aspect) * framing.padding
    return wide * wide / aspect


def _rows(
    photos: PhotoSet, boxes: Sequence[DetectedBox], flip_test: bool, batch: int = 32
) -> Iterator[list[tuple[DetectedBox, CropRow]]]:
    """Photo by photo, so that each is decoded once. Boxes of photos that are not in the set are left out."""
    by_image: dict[int, list[DetectedBox]] = defaultdict(list)
    for box in boxes:
        by_image[box.image_id].append(box)
    rows: list[tuple[DetectedBox, CropRow]] = []
    for photo in photos.photos:
        mine = by_image[photo.id]
        picture = read_picture(photo.file) if mine else np.empty((0, 0, 3), np.uint8)
        rows += [(box, CropRow(picture, box.box, flip_test)) for box in mine]
        while len(rows) >= batch:
            yield rows[:batch]
            rows = rows[batch:]
    if rows:
        yield rows
