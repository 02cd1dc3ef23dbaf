"""RTMDet-nano: its size, and what its outputs are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from service.networks import create
from service.networks.rtmdet import CSPBlock


@pytest.fixture(scope="module")
def finder() -> nn.Module:
    return create("rtmdet-nano").eval().requires_grad_(False)


def test_it_has_the_published_number_of_weights(finder: nn.Module) -> None:
    assert sum(isinstance(module, nn.Conv2d) for module in finder.modules()) == 123
    assert sum(p.numel() for p in finder.parameters()) == 985_927


def test_each_level_gives_five_numbers_a_cell(finder: nn.Module) -> None:
    answers = finder(torch.randn(2, 3, 64, 96))
    assert [tuple(answer.shape) for answer in answers] == [(2, 8, 12, 5), (2, 4, 6, 5), (2, 2, 3, 5)]


def test_distances_grow_with_the_stride_and_logits_do_not() -> None:
    network: Any = create("rtmdet-nano").eval().requires_grad_(False)
    for logits, distances in zip(network.bbox_head.rtm_cls, network.bbox_head.rtm_reg, strict=True):
        for layer, bias in ((logits, -3.0), (distances, 2.0)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)
    for answer, stride in zip(network(torch.zeros(1, 3, 32, 32)), (8, 16, 32), strict=True):
        assert answer[0, 0, 0].tolist() == [-3.0] + [2.0 * stride] * 4


def test_a_batch_gives_what_each_gives_alone(finder: nn.Module) -> None:
    pictures = torch.randn(3, 3, 64, 64)
    together = finder(pictures)
    for index, picture in enumerate(pictures):
        for level, alone in zip(together, finder(picture[None]), strict=True):
            torch.testing.assert_close(level[index], alone[0])


def test_a_block_joins_its_main_path_first() -> None:
    block = CSPBlock(8, 8, 1, identity=True, gate=False).eval().requires_grad_(False)
    x = torch.randn(1, 8, 4, 4)
    seen: list[torch.Tensor] = []
    block.final_conv.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    block(x)
    torch.testing.assert_close(seen[0][:, 4:], block.short_conv(x))
    torch.testing.assert_close(seen[0][:, :4], block.blocks(block.main_conv(x)))


@pytest.mark.parametrize("size", [(320, 330), (100, 320)])
def test_sides_that_32_does_not_divide_are_refused_with_what_came(finder: nn.Module, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"divisible by 32, got {size[0]} x {size[1]}"):
        finder(torch.zeros(1, 3, *size))
