"""Trains the person finder: `python -m training person RECIPE --photos FOLDER --run FOLDER`.

RTMDet's own assignment and losses in a plain form: each labelled person gets its cheapest few cells; the logit learns
the overlap that the cell's box has with the person (quality focal loss), the distances learn the box (GIoU). Boxes are
corners in the pixels of the letterboxed square.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.engines.framing import FinderFraming, PictureRow
from service.engines.torch_framing import FromPixels, from_pixels
from service.networks import create

from .data.ahead import Ahead
from .data.photos import PhotoSet, read_picture
from .data.squares import SquareBatch, SquareMaker, SquareRecipe
from .loop import LoopRecipe, Losses, Run
from .pose import read_sets
from .recipe import section
from .scores import average_precision, box_result
from .start import read_start, started


@dataclass(frozen=True)
class PersonLoss:
    """box: weight of GIoU beside the logit's loss. candidates: overlaps whose sum says how many cells a person gets.

    overlap, classify: weights of -log IoU and of the logit's loss in the cost of a cell. reach: strides from the
    middle of the person at which a cell costs as much as one whose box misses it altogether (RTMDet: 3).
    """

    box: float = 2.0
    candidates: int = 13
    overlap: float = 3.0
    classify: float = 1.0
    reach: float = 3.0


def flattened(levels: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Levels (n, rows, columns, 5) to logits (n, cells), boxes (n, cells, 4), and cells (cells, 3): x, y, stride."""
    cells = []
    for level, stride in zip(levels, strides, strict=True):
        rows, columns = (torch.arange(side, device=level.device) * float(stride) for side in level.shape[1:3])
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        cells.append(torch.stack([x, y, torch.full_like(x, stride)], -1).flatten(0, 1))
    where = torch.cat(cells)
    answers = torch.cat([level.flatten(1, 2) for level in levels], 1).float()
    boxes = torch.cat([where[:, :2] - answers[..., 1:3], where[:, :2] + answers[..., 3:5]], -1)
    return answers[..., 0], boxes, where


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and GIoU of boxes (..., 4) with boxes (..., 4), broadcast."""
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).clamp(min=0).prod(-1) for each in (a, b)]
    joint = (areas[0] + areas[1] - shared).clamp(min=1e-6)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1).clamp(min=1e-6)
    return shared / joint, shared / joint - (hull - joint) / hull


@torch.no_grad()
def assign(
    logits: Tensor, boxes: Tensor, cells: Tensor, people: Tensor, recipe: PersonLoss
) -> tuple[Tensor, Tensor, Tensor]:
    """Which cells of one picture stand for which person.

    A cell can stand for a person if it lies in the box (at least half a stride from its middle). Its cost is the loss
    that its answer has now, plus how far it is from the middle. A person gets as many of its cheapest cells as the sum
    of its best overlaps says, at least one; a cell wanted by two goes to the one that it costs less.

    Args:
        logits (cells,), boxes (cells, 4): the network's answers. cells (cells, 3): x, y, stride. people (m, 4).

    Returns:
        (k,) cells, (k,) the person of each, (k,) its overlap with that person, 0..1.
    """
    none = torch.zeros(0, dtype=torch.long, device=logits.device)
    if not len(people):
        return none, none, logits[:0]
    middle, half = (people[:, :2] + people[:, 2:]) / 2, (people[:, 2:] - people[:, :2]) / 2
    away = (cells[:, None, :2] - middle).abs()  # (cells, m, 2)
    inside = (away <= torch.maximum(half, cells[:, None, 2:] / 2)).all(-1)
    overlap = overlaps(boxes[:, None], people)[0]
    logit = logits[:, None].expand_as(overlap)
    classify = F.binary_cross_entropy_with_logits(logit, overlap, reduction="none")
    classify = classify * (overlap - logit.sigmoid()).square()
    far = 10 ** (away.square().sum(-1).sqrt() / cells[:, None, 2] - recipe.reach).clamp(max=6)
    cost = recipe.classify * classify - recipe.overlap * (overlap + 1e-7).log() + far
    cost = cost.masked_fill(~inside, torch.inf)
    best = (overlap * inside).topk(min(recipe.candidates, len(cells)), 0).values.sum(0)
    wanted = torch.zeros_like(inside)
    for person, count in enumerate(best.int().clamp(min=1).tolist()):
        wanted[cost[:, person].topk(count, largest=False).indices, person] = True
    cost = cost.masked_fill(~(wanted & inside), torch.inf)
    chosen = torch.nonzero(cost.amin(1) < torch.inf).flatten()
    whom = cost[chosen].argmin(1)
    return chosen, whom, overlap[chosen, whom]


def person_losses(
    levels: Sequence[Tensor], boxes: Tensor, kinds: Tensor, strides: Sequence[int], recipe: PersonLoss
) -> Losses:
    """Losses of a batch: levels as the network answers them, boxes (n, most, 4), kinds (n, most) as `SquareBatch`.

    Cells in an ignored box (maybe a person, a crowd, hardly visible) that stand for nobody are not punished.
    """
    logits, answered, cells = flattened(levels, strides)
    quality, counts = torch.zeros_like(logits), torch.ones_like(logits)
    giou = logits.new_zeros(())
    for n in range(len(logits)):
        people, ignored = boxes[n, kinds[n] == 1], boxes[n, kinds[n] == -1]
        in_ignored = (cells[:, None, :2] >= ignored[:, :2]) & (cells[:, None, :2] <= ignored[:, 2:])
        counts[n, in_ignored.all(-1).any(-1)] = 0
        chosen, whom, overlap = assign(logits[n], answered[n], cells, people, recipe)
        quality[n, chosen], counts[n, chosen] = overlap, 1
        giou = giou + (overlap.clamp(min=0.1) * (1 - overlaps(answered[n, chosen], people[whom])[1])).sum()
    share = logits.sigmoid()
    focal = F.binary_cross_entropy_with_logits(logits, quality, reduction="none") * (quality - share).square()
    total = quality.sum().clamp(min=1)
    score, box = (counts * focal).sum() / total, giou / total
    return {"loss": score + recipe.box * box, "score": score, "box": box, "overlap": _mean_positive(quality)}


def _mean_positive(quality: Tensor) -> Tensor:
    """Mean overlap of the cells that stand for somebody."""
    return quality.sum() / (quality > 0).sum().clamp(min=1)


class PersonTask:
    """The losses of a batch and the figures of a network, for `Run.fit`."""

    def __init__(
        self, recipe: dict[str, Any], validation: Sequence[tuple[str, PhotoSet]], device: torch.device, bf16: bool
    ) -> None:
        self.framing = FinderFraming(recipe["input"], int(recipe["input"]["side"]))
        self.weights = section(recipe, "loss", PersonLoss)
        self.validation, self.device, self.bf16 = validation, device, bf16
        self.pixels: FromPixels = from_pixels(nn.Identity(), recipe["input"]).to(device)

    def losses(self, module: nn.Module, batch: SquareBatch[Tensor]) -> Losses:
        pixels, boxes, kinds = (each.to(self.device, non_blocking=True) for each in batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            levels = module(self.pixels(pixels).contiguous(memory_format=torch.channels_last))
        return person_losses(levels, boxes, kinds, self.framing.strides, self.weights)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Box AP at the preset's side over the photos of each validation file whose boxes are complete."""
        figures = {}
        for name, photos in self.validation:
            complete = {photo.id for photo in photos.photos if photo.complete}
            coco = photos.coco | {
                "images": [image for image in photos.coco["images"] if image["id"] in complete],
                "annotations": [each for each in photos.coco["annotations"] if each["image_id"] in complete],
            }
            scores = average_precision(coco, list(self._answers(module, photos)), "bbox")
            figures.update(
                {f"{name}_{key}": scores[key] for key in ("ap", "ap50", "ap_small", "ap_medium", "ap_large")}
            )
        return figures

    @torch.no_grad()
    def _answers(self, module: nn.Module, photos: PhotoSet) -> Iterator[dict[str, Any]]:
        for photo in photos.photos:
            if not photo.complete:
                continue
            row = PictureRow(read_picture(photo.file))
            pixels = torch.from_numpy(self.framing.inputs([row])).to(self.device)
            levels = [np.asarray(level.float().cpu()) for level in module(self.pixels(pixels))]
            found = self.framing.answers(levels, [row])[0]
            for box, score in zip(found.boxes, found.scores.tolist(), strict=True):
                yield box_result(photo.id, box, score)


def freeze(module: nn.Module, parts: Sequence[str]) -> None:
    """Keeps those parts of the network as they are. Raises ValueError for a part that it has not."""
    for part in parts:
        try:
            module.get_submodule(part).requires_grad_(False)
        except AttributeError as none:
            raise ValueError(f"`frozen` names {part!r}; the network has no such part") from none


def train(recipe: dict[str, Any], arguments: Namespace) -> dict[str, float]:
    """Runs a `person` recipe in `arguments.run` until the time or the decay leg is over; returns validation figures."""
    device = torch.device(arguments.device)
    loop = section(recipe, "loop", LoopRecipe)
    torch.manual_seed(loop.seed)
    task = PersonTask(recipe, read_sets(recipe, "validation", arguments.photos), device, arguments.bf16)
    sets = [photos for _, photos in read_sets(recipe, "train", arguments.photos)]
    maker = SquareMaker(sets, section(recipe, "squares", SquareRecipe), loop.batch, loop.seed)
    source = arguments.start or recipe.get("start", "")
    if source:
        module = started(recipe["network"], read_start(source, arguments.store), source)
    else:
        module = create(**recipe["network"])
    freeze(module, recipe.get("frozen", []))
    run = Run(arguments.run, module.to(memory_format=torch.channels_last), loop, device)
    if arguments.start_from:
        run.start_from(arguments.start_from)
    return run.fit(
        Ahead(maker, arguments.workers, pinned=device.type == "cuda"),
        task.losses,
        task.validate,
        hours=arguments.hours,
        decay_steps=arguments.decay_steps,
        decay_hours=arguments.decay_hours,
    )
