"""The gates of a trained network: what is told of them, and that holding them undoes what each picture does to them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from service.networks import create
from service.networks.attention import ChannelAttention
from training.paper.gates import watched


def attention() -> ChannelAttention:
    """Gates of eight channels that differ by picture."""
    torch.manual_seed(3)
    module = ChannelAttention(8).eval()
    torch.nn.init.normal_(module.get_parameter("2.conv.weight"), std=2.0)
    return module


def pictures() -> Tensor:
    return torch.rand(6, 8, 3, 2, generator=torch.Generator().manual_seed(4)) * 3


@torch.no_grad()
def test_mean_and_spread_are_those_of_the_gates_that_crops_met() -> None:
    module, crops = attention(), pictures()
    gates = module.gates(crops).flatten(1)
    with watched(module) as seen:
        for part in (crops[:2], crops[2:]):
            module(part)
        told = seen.figures()
    assert told["gate"] == pytest.approx(float(gates.mean()), abs=1e-6)
    assert told["gate_spread"] == pytest.approx(float(gates.std(0, correction=0).mean()), abs=1e-6)
    assert told["gate_spread"] > 0.01


@torch.no_grad()
def test_fixed_gates_are_the_same_for_every_picture_until_the_watching_ends() -> None:
    module, crops = attention(), pictures()
    before = module(crops)
    mean = module.gates(crops).mean(0, keepdim=True)
    with watched(module) as seen:
        torch.testing.assert_close(module(crops), before)
        assert seen.fix()
        fixed = module(crops)
    torch.testing.assert_close(fixed, crops * (1 + (mean - module.rest) / (1 + module.rest)))
    assert not torch.allclose(fixed, before)
    assert torch.equal(module(crops), before)


@torch.no_grad()
def test_a_plain_network_has_no_gates_to_tell_of_or_to_fix() -> None:
    network = create("hrnet-w16", blocks=1).eval()
    with watched(network) as seen:
        network(torch.zeros(1, 3, 32, 32))
        assert seen.figures() == {} and not seen.fix()
