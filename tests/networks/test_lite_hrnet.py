"""Lite-HRNet: its sizes, the order of its channels, and the habits that its published weights rely on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from service.networks import create
from service.networks.lite_hrnet import Fusion, Head, ShuffleUnit, shuffled


def settled(module: nn.Module) -> Any:
    """In evaluation, with norms that shift and scale."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            nn.init.uniform_(norm.running_mean, -0.2, 0.2)
    return module.eval().requires_grad_(False)


def test_it_has_the_published_number_of_weights() -> None:
    network = create("lite-hrnet")
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert (len(convolutions), len(norms)) == (269, 268)
    assert sum(p.numel() for p in network.parameters()) == 1_318_625
    folded = sum(c.weight.numel() for c in convolutions) + sum(n.num_features for n in norms) + 17
    assert folded == 1_300_177


def test_attention_on_all_48_units_adds_the_published_number() -> None:
    network = create("lite-hrnet", attention="all_blocks")
    assert len({key.split(".cam.")[0] for key in network.state_dict() if ".cam." in key}) == 48
    assert sum(p.numel() for p in network.parameters()) == 1_804_065


def test_a_shuffle_takes_channels_of_both_halves_in_turn() -> None:
    first, second = torch.arange(3.0).reshape(1, 3, 1, 1), torch.arange(10.0, 13.0).reshape(1, 3, 1, 1)
    assert shuffled(first, second).flatten().tolist() == [0, 10, 1, 11, 2, 12]


def test_half_of_the_channels_pass_a_unit_untouched() -> None:
    unit = settled(ShuffleUnit(8, None))
    x = torch.randn(2, 8, 4, 4)
    y = unit(x)
    assert torch.equal(y[:, 0::2], x[:, :4])
    torch.testing.assert_close(y[:, 1::2], unit.path(x[:, 4:]))


def test_fusion_counts_branch_0_twice_and_later_targets_read_it_fused() -> None:
    fusion = settled(Fusion((4, 8, 16)))
    x = [torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4), torch.randn(1, 16, 2, 2)]
    before = [branch.clone() for branch in x]
    path = fusion.paths
    y0 = 2 * x[0] + path[0][1](x[1]) + path[0][2](x[2])
    y1 = 2 * path[1][0](y0) + x[1] + path[1][2](x[2])
    y2 = 2 * path[2][0](y0) + path[2][1](x[1]) + x[2]
    for ours, expected in zip(fusion(x), (y0, y1, y2), strict=True):
        torch.testing.assert_close(ours, F.relu(expected))
    assert all(torch.equal(branch, copy) for branch, copy in zip(x, before, strict=True)), "its input is left alone"


def test_the_head_lifts_corners_onto_corners() -> None:
    head = settled(Head(17))
    branches = [torch.zeros(1, c, 16 >> i, 16 >> i) for i, c in enumerate((40, 80, 160, 320))]
    seen: list[torch.Tensor] = []
    head.projections[1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    branches[3] = torch.randn(1, 320, 2, 2)
    head(branches)
    low = head.projections[0](branches[3])
    torch.testing.assert_close(seen[0][..., 0, 0], low[..., 0, 0])
    torch.testing.assert_close(seen[0][..., -1, -1], low[..., -1, -1])


def test_a_batch_gives_what_each_gives_alone() -> None:
    network = settled(create("lite-hrnet"))
    crops = torch.randn(3, 3, 64, 32)
    alone = torch.cat([network(crop[None]) for crop in crops])
    assert alone.shape == (3, 17, 16, 8)
    torch.testing.assert_close(network(crops), alone)


def test_sides_that_32_does_not_divide_are_refused_with_what_came() -> None:
    with pytest.raises(ValueError, match="divisible by 32, got 250 x 192"):
        create("lite-hrnet")(torch.zeros(1, 3, 250, 192))
