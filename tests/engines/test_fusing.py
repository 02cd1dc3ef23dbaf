"""Batch norms folded and steps joined: another graph, the same answers."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, fx, nn

from service.engines.fusing import fused
from service.networks import create

from .test_runtimes import tried


def finish(y: Tensor, bias: Tensor, other: Tensor | None, relu: bool) -> Tensor:
    """What the kernel does, in torch."""
    total = y + bias[:, None, None] + (0 if other is None else other)
    return total.relu() if relu else total


def kinds(module: nn.Module) -> Counter[str]:
    assert isinstance(module, fx.GraphModule)
    return Counter(str(node.target) for node in module.graph.nodes if node.op == "call_function")


def seeded(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return tried(network).eval().requires_grad_(False)


def answers(network: nn.Module, given: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        outputs = network(given)
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


@pytest.mark.parametrize("name", ["hrnet-w32", "lite-hrnet", "rtmdet-nano"])
@pytest.mark.parametrize("joined", [False, True])
def test_the_answers_are_the_networks_own_at_any_batch_size(name: str, joined: bool) -> None:
    torch.manual_seed(1)
    network = seeded(create(name))
    lean = fused(network, torch.randn(2, 3, 64, 64), finish if joined else None)
    assert kinds(lean)["aten.batch_norm.default"] == 0
    if joined:
        assert kinds(lean)["aten.relu.default"] <= kinds(fused(network, torch.randn(2, 3, 64, 64)))["aten.relu.default"]
    for count in (1, 3):
        given = torch.randn(count, 3, 64, 64)
        for one, other in zip(answers(lean, given), answers(network, given), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()), rtol=0)


class Branching(nn.Module):
    """A convolution that two read: its norm may not be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        total: Tensor = self.norm(y) + y
        return total


class Spreading(nn.Module):
    """A sum that spreads a smaller tensor over a larger one, and one of a tensor with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        small = self.gate(x.mean((2, 3), keepdim=True))
        wide = (self.conv(x) + small).relu()
        twice = self.conv(x)
        total: Tensor = wide + (twice + twice).relu()
        return total


@pytest.mark.parametrize("network", [Branching(), Spreading()], ids=["branching", "spreading"])
def test_what_cannot_be_joined_is_left_alone(network: nn.Module) -> None:
    network = seeded(network)
    lean = fused(network, torch.randn(2, 3, 8, 8), finish)
    given = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(answers(lean, given)[0], answers(network, given)[0], atol=1e-5, rtol=0)


def test_a_norm_is_not_folded_into_a_convolution_that_others_read() -> None:
    assert kinds(fused(seeded(Branching()), torch.randn(2, 3, 8, 8)))["aten.batch_norm.default"] == 1


def test_the_network_itself_is_left_as_it_was() -> None:
    network = seeded(create("lite-hrnet"))
    before = {name: values.clone() for name, values in network.state_dict().items()}
    fused(network, torch.randn(2, 3, 64, 64), finish)
    for name, values in network.state_dict().items():
        torch.testing.assert_close(values, before[name], atol=0, rtol=0)
