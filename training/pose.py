"""Trains a detector: `python -m training pose RECIPE --photos FOLDER --run FOLDER`.

Crops and their heatmaps come from `data/crops.py`; crops and decoding of the validation are the service's own. The
loss is the paper's (eqs. 4 and 5), a mean of squared differences over the labelled joints' heatmaps; the cross-entropy
of the softmaxed heatmap against the Gaussian is the alternative for training from nothing, where the former can rest
on heatmaps of zeros for more than 150,000 crops: the mean peak is printed beside the loss.
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from service.engines.framing import CropRow, PoseFraming
from service.engines.torch_framing import FromPixels, from_pixels
from service.networks import create

from .data.ahead import Ahead
from .data.crops import CropBatch, CropMaker, CropRecipe, heatmap_size
from .data.photos import LabelledPhoto, PhotoSet, PhotoSetRecipe, Picture, Pictures, read_photos, read_picture
from .loop import LoopRecipe, Losses, Run
from .norms import NormRecipe, folded, fused, give_back_batch_norms, keep_statistics, set_momentum
from .recipe import section, sections
from .scores import average_precision, pose_result
from .start import attended, read_start, started

LAST_BATCH = 2**62  # batches from here down have no step of their own; norms are given back through them


@dataclass(frozen=True)
class PoseLoss:
    """kind: `mse` or `cross_entropy`. distil: weight of the distance to the starting network's flip-tested heatmaps."""

    kind: Literal["mse", "cross_entropy"] = "mse"
    distil: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("mse", "cross_entropy"):
            raise ValueError(f"[loss] `kind` must be mse or cross_entropy, got {self.kind!r}")
        if self.distil and self.kind != "mse":
            raise ValueError("[loss] `distil` needs `kind` = mse: the starting network answers heatmaps, not logits")


def gaussians(
    cells: Tensor, weights: Tensor, columns: int, rows: int, sigma: float, rounded: bool = False
) -> tuple[Tensor, Tensor]:
    """`service.geometry.heatmaps.gaussian_targets` where the batch lies, its weights times the labels' own.

    cells: (n, joints, 2), NaN allowed; weights: (n, joints). Returns heatmaps (n, joints, rows, columns) and weights.
    """
    reach = 3 * sigma
    if rounded:
        cells = (cells + 0.5).trunc()
    # Sizes one by one: an array of them would have to travel to the device, which all steps would wait for.
    near = [
        (cells[..., axis] >= -reach - rounded) & (cells[..., axis] <= size - 1 + reach)
        for axis, size in enumerate((columns, rows))
    ]
    inside = near[0] & near[1] & (weights > 0)  # False for NaN
    centres = torch.where(inside[..., None], cells, 0.0)
    x, y = (
        torch.arange(size, device=cells.device) - centres[..., axis, None] for axis, size in enumerate((columns, rows))
    )
    across, along = (torch.exp(-each.square() / (2 * sigma**2)) for each in (x, y))
    if rounded:
        across, along = across * (x.abs() <= reach), along * (y.abs() <= reach)
    return (along * inside[..., None])[..., :, None] * across[..., None, :], weights * inside


def squared_error(heatmaps: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Eqs. 4 and 5 as HRNet's authors compute them: half of the mean over crops, joints and cells, unlabelled ones 0.

    heatmaps, targets: (n, joints, rows, columns); weights: (n, joints), 0..1.
    """
    return 0.5 * (weights[..., None, None] * (heatmaps - targets).square()).mean()


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of the softmax over cells against the Gaussian as a distribution, mean over labelled joints."""
    shares = targets.flatten(2)
    shares = shares / shares.sum(-1, keepdim=True).clamp(min=1e-6)
    each = -(shares * logits.flatten(2).log_softmax(-1)).sum(-1)
    return (weights * each).sum() / weights.sum().clamp(min=1)


def as_heatmaps(answers: Tensor, kind: str, sigma: float) -> Tensor:
    """What a network answers, as heatmaps whose peak is 1 where it is sure."""
    if kind == "mse":
        return answers
    # A Gaussian that sums to 1 has this height.
    return answers.flatten(2).softmax(-1).reshape(answers.shape) * (2 * math.pi * sigma**2)


class Teacher:
    """The starting network with flip test, as a soft target that one pass should learn to give."""

    def __init__(
        self,
        network: nn.Module,
        framing: PoseFraming,
        device: torch.device,
        bf16: bool = False,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self.kind, self.layout = torch.bfloat16 if bf16 else torch.float32, layout
        self.network = fused(network).requires_grad_(False).to(device, self.kind)
        self.network.to(memory_format=layout)
        self.order = torch.from_numpy(framing.order).to(device)
        self.shift = framing.flip_shift

    @torch.no_grad()
    def __call__(self, crops: Tensor) -> Tensor:
        """crops (n, 3, height, width) to heatmaps (n, joints, rows, columns): `geometry.heatmaps.merge_mirrored`."""
        heatmaps, back = self.network(self.both(crops)).float().chunk(2)
        back = back[:, self.order].flip(3)
        columns = torch.arange(back.shape[3], device=back.device)
        columns[self.shift :] -= self.shift
        merged: Tensor = (heatmaps + back[..., columns]) / 2
        return merged

    def both(self, crops: Tensor) -> Tensor:
        """(2 n, 3, height, width): crops, then their mirror images."""
        crops = crops.to(self.kind)
        return torch.cat([crops, crops.flip(3)]).contiguous(memory_format=self.layout)


class PoseTask:
    """The losses of a batch and the figures of a network, for `Run.fit`."""

    def __init__(
        self,
        recipe: dict[str, Any],
        validation: Sequence[tuple[str, PhotoSet]],
        device: torch.device,
        bf16: bool,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self.framing = PoseFraming(recipe["input"])
        self.weights = section(recipe, "loss", PoseLoss)
        crops = section(recipe, "crops", CropRecipe)
        self.sigma, self.rounded = crops.sigma, crops.rounded
        self.validation, self.device, self.bf16, self.layout = validation, device, bf16, layout
        self.pixels: FromPixels = from_pixels(nn.Identity(), recipe["input"]).to(device)
        self.teacher: Teacher | None = None
        self.even = device.type == "cuda"  # every batch has the same shape throughout, so that it can be recorded

    def autocast(self) -> AbstractContextManager[Any]:
        # Weights are used once a pass, so keeping their 16 bits gains nothing, and a graph cannot be made with it.
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False)

    def as_graphs(self, module: nn.Module, batch: CropBatch[Tensor]) -> None:
        """From here on module and teacher run as CUDA graphs, on batches of this batch's size: they are some thousand
        kernels so small that starting them one by one takes longer than they do."""
        crops = self.crops(batch.pixels)
        before = [buffer.clone() for buffer in module.buffers()]
        with self.autocast():
            torch.cuda.make_graphed_callables(module.train(), (crops,), allow_unused_input=True)
        # What warmed it up was no training.
        for buffer, value in zip(module.buffers(), before, strict=True):
            buffer.copy_(value)
        if self.teacher is not None:
            with torch.no_grad():
                torch.cuda.make_graphed_callables(self.teacher.network, (self.teacher.both(crops),))

    def crops(self, pixels: Tensor) -> Tensor:
        """(n, height, width, 3) uint8 to (n, 3, height, width), normalised."""
        normalised: Tensor = self.pixels(pixels.to(self.device, non_blocking=True))
        return normalised.contiguous(memory_format=self.layout)

    def losses(self, module: nn.Module, batch: CropBatch[Tensor]) -> Losses:
        crops = self.crops(batch.pixels)
        cells, worth = (each.to(self.device, non_blocking=True) for each in (batch.cells, batch.weights))
        targets, weights = gaussians(cells, worth, *heatmap_size(self.framing), self.sigma, self.rounded)
        with self.autocast():
            answers = module(crops)
        answers = answers.float()
        loss = (squared_error if self.weights.kind == "mse" else cross_entropy)(answers, targets, weights)
        losses = {"labels": loss}
        if self.teacher is not None:
            losses["distil"] = self._distilled(answers, crops, batch.taught)
            loss = loss + self.weights.distil * losses["distil"]
        with torch.no_grad():
            peaks = as_heatmaps(answers, self.weights.kind, self.sigma).amax((2, 3))
            losses["peak"] = (weights * peaks).sum() / weights.sum().clamp(min=1e-6)
        return {"loss": loss, **losses}

    def _distilled(self, answers: Tensor, crops: Tensor, taught: Tensor) -> Tensor:
        """The distance to the teacher's heatmaps, 0 at crops in which it has no say; these are computed only if they
        must be."""
        assert self.teacher is not None
        if not self.even:
            rows = taught.nonzero()[:, 0]
            share = len(rows) / len(taught)
            if not share:
                return answers.new_zeros(())
            every = answers.new_ones(len(rows), answers.shape[1])
            return share * squared_error(answers[rows], self.teacher(crops[rows]), every)
        weights = taught.to(self.device, non_blocking=True)[:, None].expand(answers.shape[:2])
        return squared_error(answers, self.teacher(crops), weights)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """OKS AP with labelled boxes, one pass a crop, of each validation file."""
        figures = {}
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False  # batches differ in size
        for name, photos in self.validation:
            scores = average_precision(photos.coco, list(self._answers(module, photos.photos)), "keypoints")
            figures.update({f"{name}_{key}": scores[key] for key in ("ap", "ap50", "ap_medium", "ap_large", "ar")})
        torch.backends.cudnn.benchmark = before
        return figures

    @torch.no_grad()
    def _answers(self, module: nn.Module, photos: Sequence[LabelledPhoto]) -> Iterator[dict[str, Any]]:
        for rows in _in_batches(photos):
            pixels = torch.from_numpy(self.framing.inputs([row for _, row in rows]))
            heatmaps = as_heatmaps(module(self.crops(pixels)).float(), self.weights.kind, self.sigma)
            answers = self.framing.answers([heatmaps.cpu().numpy()], [row for _, row in rows])
            for (image_id, _), points in zip(rows, answers, strict=True):
                assert isinstance(points, np.ndarray)  # the rows have boxes: answers are in the picture
                yield pose_result(image_id, points)


def _in_batches(photos: Sequence[LabelledPhoto], batch: int = 32) -> Iterator[list[tuple[int, CropRow]]]:
    """(image, row) of every person with a labelled joint."""
    rows: list[tuple[int, CropRow]] = []
    for photo in photos:
        people = [person for person in photo.people if person.has_pose]
        picture = read_picture(photo.file) if people else np.empty((0, 0, 3), np.uint8)
        rows += [(photo.id, CropRow(picture, person.box)) for person in people]
        while len(rows) >= batch:
            yield rows[:batch]
            rows = rows[batch:]
    if rows:
        yield rows


def read_sets(recipe: dict[str, Any], name: str, root: Path) -> list[tuple[str, PhotoSet]]:
    """The recipe's [[name]] files, each with its file's name."""
    return [(Path(each.file).stem, read_photos(root, each)) for each in sections(recipe, name, PhotoSetRecipe)]


def pictures_of(sets: Sequence[PhotoSet], gigabytes: float) -> Callable[[Path], Picture]:
    """Reads the sets' pictures; those with people are kept decoded, as many as fit."""
    files = (photo.file for photos in sets for photo in photos.photos if any(each.has_pose for each in photo.people))
    return Pictures(files, gigabytes * 1e9) if gigabytes else read_picture


def train(recipe: dict[str, Any], arguments: Namespace) -> dict[str, float]:
    """Runs a `pose` recipe in `arguments.run` until the time or the decay leg is over; returns validation figures.

    The hours are the whole call's, what comes before the first step included.
    """
    began = time.monotonic()
    device = torch.device(arguments.device)
    cuda = device.type == "cuda"
    loop = section(recipe, "loop", LoopRecipe)
    torch.manual_seed(loop.seed)
    torch.set_float32_matmul_precision("high")
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    task = PoseTask(recipe, read_sets(recipe, "validation", arguments.photos), device, arguments.bf16, layout)
    sets = [photos for _, photos in read_sets(recipe, "train", arguments.photos)]
    pictures = pictures_of(sets, arguments.picture_gb)
    maker = CropMaker(sets, section(recipe, "crops", CropRecipe), task.framing, loop.batch, loop.seed, pictures)
    norms = section(recipe, "norms", NormRecipe)
    network, source = recipe["network"], arguments.start or recipe.get("start", "")
    if source:
        plain = started(network, read_start(source, arguments.store), source)
        if task.weights.distil:
            task.teacher = Teacher(plain, task.framing, device, arguments.bf16, layout)
        goes_on = arguments.start_from or (arguments.run / "latest.pt").exists()
        if folded(plain) and not goes_on:
            batches = range(LAST_BATCH, LAST_BATCH - -(-norms.crops // loop.batch), -1)
            pixels = torch.from_numpy(np.concatenate([maker(number).pixels for number in batches])[: norms.crops])
            plain = give_back_batch_norms(plain.to(device), task.crops(pixels))
        module = attended(network, plain, source)
    else:
        module = create(network["name"], **{key: value for key, value in network.items() if key != "name"})
    set_momentum(module, norms.momentum)
    if not norms.live:
        keep_statistics(module)
    run = Run(arguments.run, module.to(memory_format=layout), loop, device)
    if arguments.start_from:
        run.start_from(arguments.start_from)
    if cuda and arguments.hours:
        # Fixed shapes in training alone: the validation's last batch has one of its own.
        torch.backends.cudnn.benchmark = True
        if arguments.graphs:
            # Before there are processes and threads: what they do to the device would spoil the recording.
            task.as_graphs(run.module, CropBatch(*map(torch.from_numpy, maker(run.step))))
        print(f"ready to train after {time.monotonic() - began:.1f} s", flush=True)
    ahead = Ahead(maker, arguments.workers, pinned=cuda)
    figures = run.fit(
        ahead,
        task.losses,
        task.validate,
        hours=max(0.0, arguments.hours - (time.monotonic() - began) / 3600) if arguments.hours else 0.0,
        decay_steps=arguments.decay_steps,
        decay_hours=arguments.decay_hours,
    )
    ahead.close()
    return figures
