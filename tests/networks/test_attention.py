"""Channel attention: what it computes, where it sits, and that it starts as the plain network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.networks import create, load_weights
from service.networks import hrnet as hr
from service.networks import lite_hrnet as lite
from service.networks.attention import ChannelAttention, Gate, OneValueNorm

Network = TypeVar("Network", bound=nn.Module)
Build = Callable[[str, Gate], nn.Module]

G0 = 0.11920292202211755  # sigmoid(-2)


def small_hrnet(attention: str, gate: Gate) -> hr.HRNet:
    return hr.HRNet(hr.HRNetOptions(width=8, attention=attention, gate=gate))


def small_lite(attention: str, gate: Gate) -> lite.LiteHRNet:
    return lite.LiteHRNet(lite.LiteHRNetOptions(attention=attention, gate=gate))


def lively(network: Network, seed: int = 0) -> Network:
    """Random weights and statistics such that every path carries something; gates are left as they are."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and ".cam.2" not in name:
            nn.init.kaiming_normal_(module.weight, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            for values, low, high in (
                (module.weight, 0.3, 0.7),
                (module.bias, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                nn.init.uniform_(values, low, high, generator=generator)
    return network.double().eval().requires_grad_(False)


def live_gates(network: nn.Module) -> None:
    """Gates that depend on the picture."""
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, ChannelAttention):
            last = module.get_submodule("2.conv")
            assert isinstance(last, nn.Conv2d) and last.bias is not None
            nn.init.normal_(last.weight, std=0.5, generator=generator)
            nn.init.uniform_(last.bias, -3.0, 1.0, generator=generator)


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {key: value.numpy().copy() for key, value in network.state_dict().items()}


def picture(batch: int = 1, height: int = 64, width: int = 32) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


NETWORKS = [small_hrnet, small_lite]


def test_it_strengthens_each_channel_by_its_gate() -> None:
    attention: Any = lively(ChannelAttention(16, "closed"))
    live_gates(attention)
    x = torch.rand(2, 16, 5, 4, dtype=torch.float64)
    y = x.mean((2, 3), keepdim=True)
    for step in (attention[0], attention[1]):
        y = torch.relu(step.bn(step.conv(y)))
    gate = torch.sigmoid(attention[2].conv(y))
    torch.testing.assert_close(attention(x), x + x * gate)
    assert gate.std() > 0.01


def test_it_has_the_published_number_of_weights() -> None:
    counts = {channels: sum(p.numel() for p in ChannelAttention(channels).parameters()) for channels in (32, 256, 384)}
    assert counts == {32: 640, 256: 37_376, 384: 83_712}


@pytest.mark.parametrize("build", NETWORKS)
def test_an_open_gate_put_on_trained_weights_changes_nothing_at_first(build: Build) -> None:
    plain = lively(build("none", "open"))
    gated = build("all_blocks", "open")
    load_weights(gated, arrays(plain), "plain", new_attention=True)
    gated.double().eval()
    expected = plain(picture())
    torch.testing.assert_close(gated(picture()), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    for module in gated.modules():
        if isinstance(module, ChannelAttention):
            gates = module.gates(torch.rand(1, module.get_parameter("2.conv.bias").numel(), 2, 2, dtype=torch.float64))
            torch.testing.assert_close(gates, torch.full_like(gates, G0))


@pytest.mark.parametrize("build", NETWORKS)
def test_a_gate_forced_to_zero_is_the_plain_network_exactly(build: Build) -> None:
    plain = lively(build("none", "open"))
    gated = build("all_blocks", "zero")
    load_weights(gated, arrays(plain), "plain", new_attention=True)
    live_gates(gated)
    assert torch.equal(gated.double().eval()(picture()), plain(picture()))


@pytest.mark.parametrize("build", NETWORKS)
def test_a_closed_gate_differs_from_the_plain_network_by_little(build: Build) -> None:
    plain = lively(build("none", "open"))
    gated = build("all_blocks", "closed")
    load_weights(gated, arrays(plain), "plain", new_attention=True)
    expected = plain(picture())
    difference = (gated.double().eval()(picture()) - expected).abs().max()
    assert 0 < difference < 0.1 * expected.abs().max()


class Carried:
    """Constants of the open form carried into the weights (ReLU networks are positively homogeneous)."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = dict(state)

    def divide(self, weight: str, by: float) -> None:
        self.state[weight] = self.state[weight] / by

    def multiply_norm(self, norm: str, by: float) -> None:
        for part in ("weight", "bias"):
            self.state[f"{norm}.{part}"] = self.state[f"{norm}.{part}"] * by


def literal_hrnet(network: hr.HRNet) -> dict[str, Tensor]:
    carried = Carried(network.state_dict())
    scales = [1.0, 1.0]
    for stage, modules in hr.MODULES.items():
        if stage > 2:
            carried.divide(f"transition{stage - 1}.{stage - 1}.0.0.weight", scales[-1])
            scales.append(1.0)
        for module in range(modules):
            name = f"stage{stage}.{module}"
            for branch in range(len(scales)):
                for block in (f"{name}.branches.{branch}.{k}" for k in range(hr.BLOCKS)):
                    carried.divide(f"{block}.conv1.weight", scales[branch])
                    carried.divide(f"{block}.cam.0.conv.weight", scales[branch])
                    scales[branch] *= 1 + G0
                    carried.multiply_norm(f"{block}.bn2", scales[branch])
            targets = 1 if (stage, module) == (4, 2) else len(scales)
            for i, j in ((i, j) for i in range(targets) for j in range(len(scales)) if i != j):
                path = f"{name}.fuse_layers.{i}.{j}"
                carried.divide(f"{path}.0.weight" if j > i else f"{path}.0.0.weight", scales[j])
                carried.multiply_norm(f"{path}.1" if j > i else f"{path}.{i - j - 1}.1", scales[i])
    carried.divide("final_layer.weight", scales[0])
    return carried.state


def literal_lite(network: lite.LiteHRNet) -> dict[str, Tensor]:
    carried = Carried(network.state_dict())
    scales = [1.0, 1.0]
    for stage, modules in lite.MODULES.items():
        if stage > 2:
            carried.divide(f"transition{stage - 1}.0.conv.weight", scales[-1])
            scales.append(1.0)
        for module in range(modules):
            name = f"stage{stage}.{module}"
            for branch in range(len(scales)):
                for unit in (f"{name}.branches.{branch}.{k}" for k in range(lite.UNITS)):
                    carried.divide(f"{unit}.path.0.conv.weight", scales[branch])
                    carried.divide(f"{unit}.cam.0.conv.weight", scales[branch])
                    carried.multiply_norm(f"{unit}.path.2.bn", scales[branch])
                    scales[branch] *= 1 + G0
            for i, j in ((i, j) for i in range(len(scales)) for j in range(len(scales)) if i != j):
                path = f"{name}.fusion.paths.{i}.{j}"
                carried.divide(f"{path}.0.conv.weight" if j > i else f"{path}.0.0.conv.weight", scales[j])
                carried.multiply_norm(f"{path}.0.bn" if j > i else f"{path}.{i - j - 1}.1.bn", scales[i])
    for index, branch in enumerate((3, 2, 1, 0)):
        carried.divide(f"head.projections.{index}.0.conv.weight", scales[branch])
        if branch:
            carried.multiply_norm(f"head.projections.{index}.1.bn", scales[branch - 1])
    return carried.state


@pytest.mark.parametrize(("build", "literal"), [(small_hrnet, literal_hrnet), (small_lite, literal_lite)])
def test_equation_3_as_printed_is_the_same_function_with_carried_scales(
    build: Build, literal: Callable[[Any], dict[str, Tensor]]
) -> None:
    ours = lively(build("all_blocks", "open"))
    live_gates(ours)
    printed = build("all_blocks", "closed").double().eval()  # X + X a(X), no division
    printed.load_state_dict(literal(ours))
    expected = ours(picture(2))
    assert expected.abs().max() > 0
    assert not torch.equal(expected[0], expected[1])
    torch.testing.assert_close(printed(picture(2)), expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
    printed.load_state_dict(ours.state_dict())
    assert (printed(picture(2)) - expected).abs().max() > 0.1 * expected.abs().max()


@pytest.mark.parametrize("build", NETWORKS)
def test_a_batch_of_one_trains(build: Build) -> None:
    network = build("all_blocks", "open").train()
    live_gates(network)
    # Not one that leaves 1x1 maps: an ordinary batch norm has to have two values a channel.
    network(picture(height=64, width=64).float()).square().mean().backward()
    gradients = [p.grad for p in network.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)


def test_a_norm_of_one_value_a_channel_uses_and_leaves_its_statistics() -> None:
    norm = OneValueNorm(4)
    assert norm.running_mean is not None
    nn.init.uniform_(norm.running_mean)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    x = torch.randn(1, 4, 1, 1)
    trained = norm.train()(x)
    trained.sum().backward()
    assert norm.weight.grad is not None and norm.bias.grad is not None
    torch.testing.assert_close(trained, norm.eval()(x))
    assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())


def test_a_norm_of_more_values_a_channel_is_the_plain_batch_norm() -> None:
    ours, plain = OneValueNorm(4).train(), nn.BatchNorm2d(4).train()
    x = torch.randn(2, 4, 1, 1)
    torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_an_open_gate_at_rest_survives_sixteen_bits() -> None:
    attention = ChannelAttention(32, "open").eval().bfloat16()
    x = torch.rand(1, 32, 4, 4).bfloat16()
    assert torch.equal(attention(x), x)


def test_attention_sits_where_the_list_says() -> None:
    network = create("hrnet-w32", attention=[(4, 2, 3, 2), (4, 2, 3, 3)])
    places = {key.split(".cam.")[0] for key in network.state_dict() if ".cam." in key}
    assert places == {"stage4.2.branches.3.2", "stage4.2.branches.3.3"}


@pytest.mark.parametrize("name", ["hrnet-w32", "lite-hrnet"])
def test_a_place_that_the_network_lacks_is_refused_with_those_it_has(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(2, 5, 0, 0\).*stage 2: . modules, 2 branches"):
        create(name, attention=[(2, 5, 0, 0)])


@pytest.mark.parametrize("options", [{"attention": "everywhere"}, {"gate": "ajar"}])
def test_an_unknown_preset_or_gate_is_refused_with_those_there_are(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="all_blocks" if "attention" in options else "open, closed, printed, zero"):
        create("lite-hrnet", **options)
