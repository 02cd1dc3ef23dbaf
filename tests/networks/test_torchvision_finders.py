"""Torchvision's finders: their names and weights, and boxes that come out as our own finder's do."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection

from service.engines.framing import FinderFraming, PictureRow
from service.networks import TORCHVISION, create
from service.networks.torchvision_finders import MODELS, STRIDES, TorchvisionFinder


def test_every_name_is_a_model() -> None:
    assert set(TORCHVISION) == set(MODELS)


def test_the_weights_bear_torchvisions_names() -> None:
    with torch.device("meta"):
        ours = create("ssdlite320-mobilenet").state_dict()
        theirs = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


class Answering(nn.Module):
    """A detector that finds what it is told, in torchvision's words."""

    def __init__(self, boxes: list[list[float]], labels: list[int], scores: list[float]) -> None:
        super().__init__()
        self.found = {
            "boxes": torch.tensor(boxes).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.tensor(scores),
        }

    def forward(self, pictures: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self.found for _ in pictures]


def finding(boxes: list[list[float]], labels: list[int], scores: list[float]) -> TorchvisionFinder:
    with torch.device("meta"):
        made: Any = TorchvisionFinder("ssdlite320-mobilenet")
    made.__dict__["detector"] = Answering(boxes, labels, scores)
    finder: TorchvisionFinder = made.eval()
    return finder


PRESET = {"suppress_iou": 1.0}


def answered(finder: nn.Module, size: tuple[int, int] = (64, 128), side: int = 128) -> Any:
    framing, row = FinderFraming(PRESET, side), PictureRow(np.zeros((*size, 3), np.uint8))
    pictures = torch.from_numpy(framing.inputs([row, row])).permute(0, 3, 1, 2).float() / 255
    levels = [level.numpy() for level in finder(pictures)]
    assert [level.shape for level in levels] == [(2, side // s, side // s, 5) for s in STRIDES]
    both = framing.answers(levels, [row, row])
    np.testing.assert_array_equal(both[0].boxes, both[1].boxes)
    return both[0]


def test_the_people_among_the_boxes_come_out_where_they_are() -> None:
    boxes: list[list[float]] = [[10, 5, 50, 60], [0, 0, 30, 30], [70, 1, 100, 50]]
    found = answered(finding(boxes, [1, 18, 1], [0.9, 0.8, 0.3]))
    np.testing.assert_allclose(found.boxes, [[10, 5, 40, 55], [70, 1, 30, 49]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.9, 0.3], atol=1e-5)


def test_overlapping_boxes_are_not_suppressed_a_second_time() -> None:
    found = answered(finding([[10.0, 5, 50, 60], [10, 5, 50, 61]], [1, 1], [0.9, 0.8]))
    assert len(found.boxes) == 2


def test_nobody_and_certainty_are_numbers() -> None:
    assert len(answered(finding([], [], [])).boxes) == 0
    assert answered(finding([[1.0, 1, 9, 9]], [1], [1.0])).scores[0] == pytest.approx(1, abs=1e-5)


def test_more_people_than_cells_are_cut_to_the_best() -> None:
    count = 300
    boxes = [[1.0, 1, 2 + n / 10, 30] for n in range(count)]
    found = answered(finding(boxes, [1] * count, np.linspace(0.9, 0.1, count).tolist()))
    assert len(found.boxes) == (128 // 8) ** 2
    assert found.scores[0] == pytest.approx(0.9)


def test_a_real_one_answers_numbers() -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        finder = create("ssdlite320-mobilenet").eval()
        with torch.inference_mode():
            levels = finder(torch.rand(1, 3, 128, 128))
    assert all(bool(level.isfinite().all()) for level in levels)


def test_it_has_no_options() -> None:
    with pytest.raises(ValueError, match="fcos-resnet50 has no option colour"):
        create("fcos-resnet50", colour="red")
