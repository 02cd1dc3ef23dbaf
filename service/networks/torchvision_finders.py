"""Torchvision's person finders (SSDLite, Faster R-CNN, FCOS), made to answer as our own finder does.

Pictures (batch, 3, side, side) RGB in 0..1 to three levels (batch, side / stride, side / stride, 5), logit and the
distances left, top, right and bottom of a cell's corner in input pixels. Theirs is a list of boxes: the k-th is written
into the k-th cell of the first level, and all other cells say that nobody is there. Resizing and normalising are
torchvision's own, as its published scores have them; only class 1, person, is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection

from .sides import check_sides

STRIDES = (8, 16, 32)
PERSON = 1
CLASSES = 91  # COCO's, as torchvision numbers them
NOBODY = -20.0  # a logit: no chance at all
MOST_CHANCE = 1 - 1e-6  # of a score, so that its logit stays a number

# By our name.
MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "ssdlite320-mobilenet": detection.ssdlite320_mobilenet_v3_large,
    "fasterrcnn-mobilenet-320": detection.fasterrcnn_mobilenet_v3_large_320_fpn,
    "fasterrcnn-mobilenet": detection.fasterrcnn_mobilenet_v3_large_fpn,
    "fasterrcnn-resnet50-v2": detection.fasterrcnn_resnet50_fpn_v2,
    "fcos-resnet50": detection.fcos_resnet50_fpn,
}


class TorchvisionFinder(nn.Module):
    """One of MODELS. The weights bear torchvision's names.

    eager: how many boxes there are depends on the picture, so it can neither be traced nor recorded: torch runs it.
    """

    eager = True

    def __init__(self, name: str) -> None:
        super().__init__()
        built = MODELS[name](weights=None, weights_backbone=None, num_classes=CLASSES)
        for part, module in built.named_children():
            self.add_module(part, module)
        # Not a child of its own: the names would have a prefix more than the published files'.
        object.__setattr__(self, "detector", built)

    def train(self, mode: bool = True) -> TorchvisionFinder:
        super().train(mode)
        self.__dict__["detector"].train(mode)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        check_sides(x)
        found = self.__dict__["detector"](list(x))
        side = x.shape[-1]
        first = torch.stack([self._level(each, side // STRIDES[0]) for each in found])
        empty = [x.new_full((len(x), side // stride, side // stride, 5), NOBODY) for stride in STRIDES[1:]]
        return (first, *empty)

    def _level(self, found: Mapping[str, Tensor], cells: int) -> Tensor:
        """(cells, cells, 5): the people among the found boxes, the best first, as many as there are cells."""
        person = found["labels"] == PERSON
        boxes, scores = found["boxes"][person][: cells * cells], found["scores"][person][: cells * cells]
        number = torch.arange(len(scores), device=scores.device)
        x, y = (number % cells) * STRIDES[0], (number // cells) * STRIDES[0]
        left, top, right, bottom = boxes.unbind(1)
        chance = scores.clamp(max=MOST_CHANCE)
        logit = torch.log(chance) - torch.log(1 - chance)  # OpenVINO has no logit of its own
        rows = torch.stack([logit, x - left, y - top, right - x, bottom - y], 1)
        level = scores.new_full((cells * cells, 5), NOBODY)
        return torch.cat([rows, level])[: cells * cells].reshape(cells, cells, 5)


def create_torchvision_finder(name: str, **options: Any) -> TorchvisionFinder:
    """Builds one of MODELS, untrained; it has no options."""
    if options:
        raise ValueError(f"{name} has no option {', '.join(sorted(options))}; it has none")
    return TorchvisionFinder(name)
