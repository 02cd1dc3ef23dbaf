"""HRNet: published sizes and names, and the laws of its forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from service.networks import create
from service.networks.hrnet import HighResolutionModule, HRNet, HRNetOptions


def on_paper(name: str, **options: object) -> nn.Module:
    """Without memory: sizes and names only."""
    with torch.device("meta"):
        return create(name, **options)


@pytest.mark.parametrize(
    ("name", "attention", "weights", "entries"),
    [
        ("hrnet-w32", "none", 28_536_113, 1_754),
        ("hrnet-w48", "none", 63_595_745, 1_754),
        ("hrnet-w32", "all_blocks", 29_348_145, 1_754 + 104 * 14),
        ("hrnet-w48", "all_blocks", 65_408_225, 1_754 + 104 * 14),
    ],
)
def test_it_has_the_published_number_of_weights(name: str, attention: str, weights: int, entries: int) -> None:
    network = on_paper(name, attention=attention)
    assert sum(p.numel() for p in network.parameters()) == weights
    assert len(network.state_dict()) == entries


def test_more_joints_widen_the_last_layer_only() -> None:
    assert sum(p.numel() for p in on_paper("hrnet-w32", joints=26).parameters()) == 28_536_410


def test_its_weights_bear_the_official_names() -> None:
    shapes = {key: tuple(value.shape) for key, value in on_paper("hrnet-w32").state_dict().items()}
    expected = {
        "conv2.weight": (64, 64, 3, 3),
        "layer1.0.downsample.1.running_var": (256,),
        "layer1.3.conv3.weight": (256, 64, 1, 1),
        "transition1.0.0.weight": (32, 256, 3, 3),
        "transition1.1.0.0.weight": (64, 256, 3, 3),
        "transition2.2.0.1.bias": (128,),
        "transition3.3.0.0.weight": (256, 128, 3, 3),
        "stage2.0.branches.1.3.bn2.num_batches_tracked": (),
        "stage3.3.fuse_layers.0.2.0.weight": (32, 128, 1, 1),
        "stage3.3.fuse_layers.0.2.1.weight": (32,),
        "stage4.1.fuse_layers.3.0.0.0.weight": (32, 32, 3, 3),
        "stage4.1.fuse_layers.3.0.2.0.weight": (256, 32, 3, 3),
        "stage4.1.fuse_layers.3.0.2.1.running_mean": (256,),
        "final_layer.weight": (17, 32, 1, 1),
        "final_layer.bias": (17,),
    }
    assert {key: shapes.get(key) for key in expected} == expected
    last = {key.split(".")[3] for key in shapes if key.startswith("stage4.2.fuse_layers.")}
    assert last == {"0"}, "the last module fuses branch 0 alone"
    assert not any(key.startswith(("transition2.0", "transition2.1", "transition3.2")) for key in shapes)


def test_attention_leaves_the_official_names_alone() -> None:
    plain = on_paper("hrnet-w32").state_dict().keys()
    gated = on_paper("hrnet-w32", attention="all_blocks").state_dict().keys()
    assert plain == {key for key in gated if ".cam." not in key}


def test_it_gives_a_heatmap_a_joint_at_a_quarter_of_the_size() -> None:
    network = HRNet(HRNetOptions(width=8)).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 17, 16, 24)


def test_a_batch_gives_what_each_gives_alone() -> None:
    network = HRNet(HRNetOptions(width=8, attention="all_blocks")).eval()
    nn.init.normal_(network.final_layer.weight)
    crops = torch.randn(3, 3, 64, 32)
    with torch.inference_mode():
        alone = torch.cat([network(crop[None]) for crop in crops])
        torch.testing.assert_close(network(crops), alone)


@pytest.mark.parametrize("size", [(256, 190), (200, 192)])
def test_sides_that_32_does_not_divide_are_refused_with_what_came(size: tuple[int, int]) -> None:
    network = HRNet(HRNetOptions(width=8))
    with pytest.raises(ValueError, match=f"divisible by 32, got {size[0]} x {size[1]}"):
        network(torch.zeros(1, 3, *size))


def test_a_fresh_network_has_the_official_start() -> None:
    network: Any = HRNet(HRNetOptions(width=8, attention=[(2, 0, 0, 0)]))
    deviations = [
        m.weight.std().item() for m in (network.conv2, network.layer1[0].conv2, network.transition3[-1][0][0])
    ]
    assert deviations == pytest.approx([0.001] * 3, rel=0.05)
    assert not network.final_layer.bias.any()
    gate = network.stage2[0].branches[0][0].cam
    assert gate[2].conv.bias.tolist() == [-2.0] * 8 and not gate[2].conv.weight.any()


def test_fusion_sums_the_branches_at_each_size_and_leaves_its_input_alone() -> None:
    module: Any = HighResolutionModule([[], []], [2, 4], targets=2).eval()
    fine, coarse = torch.randn(1, 2, 4, 4), torch.randn(1, 4, 2, 2)
    branches = [fine, coarse]
    with torch.inference_mode():
        first, second = module(branches)
        up, down = module.fuse_layers[0][1], module.fuse_layers[1][0]
        raised = up[1](up[0](coarse)).repeat_interleave(2, 2).repeat_interleave(2, 3)  # by nearest neighbours
        torch.testing.assert_close(first, torch.relu(fine + raised))
        torch.testing.assert_close(second, torch.relu(down(fine) + coarse))
    assert branches[0] is fine and branches[1] is coarse
