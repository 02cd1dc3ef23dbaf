from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from service.networks import create
from service.networks.lite_hrnet import ConvNorm, depthwise
from training.norms import folded, fused, give_back_batch_norms, keep_statistics, set_momentum


class Small(nn.Module):
    """Some convolutions in a row; channel 2 of the depthwise one never gets anything but zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.middle, self.last = ConvNorm(3, 8, 3), depthwise(8), ConvNorm(8, 4, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.middle(self.entry(x)))
        return out


def fold(module: nn.Module) -> nn.Module:
    """Norms as an importer leaves them: nothing but a bias."""
    for pair in module.modules():
        if isinstance(pair, ConvNorm):
            assert pair.bn.running_var is not None
            pair.bn.running_var.fill_(1 - pair.bn.eps)
            nn.init.normal_(pair.bn.bias, std=0.1)
    return module.eval()


def dead_channel(module: Small) -> Small:
    with torch.no_grad():
        module.entry.bn.bias[2] = -100  # behind its ReLU nothing is left
        module.middle.conv.weight[2] = 1000
    return module


@torch.no_grad()
def test_given_back_norms_leave_the_function_and_fit_the_crops() -> None:
    torch.manual_seed(0)
    plain = fold(create("lite-hrnet"))
    crops = torch.randn(6, 3, 64, 64)
    given = give_back_batch_norms(plain, crops, batch=4).eval()
    other = torch.randn(2, 3, 64, 64)
    answer = plain(other)
    assert torch.allclose(given(other), answer, atol=2e-6 * max(1.0, float(answer.abs().max())), rtol=1e-4)
    assert folded(plain) and not folded(given)
    given.train()  # statistics of the batch are those of the crops now: trained or not, the same answer
    live = given(crops)
    assert torch.allclose(live, plain(crops), atol=1e-3 * float(answer.abs().max()))


@torch.no_grad()
def test_statistics_do_not_depend_on_how_crops_are_split() -> None:
    torch.manual_seed(0)
    plain, crops = fold(Small()), torch.randn(7, 3, 16, 16)
    one, other = (give_back_batch_norms(plain, crops, batch).state_dict() for batch in (2, 7))
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


@torch.no_grad()
def test_norms_that_were_live_are_folded_first() -> None:
    torch.manual_seed(0)
    live = fold(Small())
    for pair in (live.entry, live.last):
        assert isinstance(pair, ConvNorm) and pair.bn.running_mean is not None
        nn.init.normal_(pair.bn.running_mean)
        nn.init.uniform_(pair.bn.weight, 0.5, 2)
    assert not folded(live)
    crops = torch.randn(4, 3, 16, 16)
    assert torch.allclose(give_back_batch_norms(live, crops)(crops), live(crops), atol=1e-5)


@torch.no_grad()
def test_channels_that_never_get_anything_are_put_to_rest() -> None:
    torch.manual_seed(0)
    plain = dead_channel(fold(Small()))  # type: ignore[arg-type]
    crops = torch.randn(4, 3, 16, 16)
    given = give_back_batch_norms(plain, crops)
    assert isinstance(given, Small)
    assert (given.middle.conv.weight[2] == 0).all() and (plain.middle.conv.weight[2] == 1000).all()
    assert (given.middle.conv.weight[3] != 0).any()
    assert torch.allclose(given(crops), plain(crops), atol=1e-5)


def test_networks_without_such_norms_have_nothing_folded() -> None:
    assert not folded(nn.Conv2d(3, 3, 1))
    assert not folded(create("rtmdet-nano"))


def test_momentum_is_set_everywhere() -> None:
    module = Small()
    set_momentum(module, 0.02)
    assert [each.momentum for each in module.modules() if isinstance(each, nn.BatchNorm2d)] == pytest.approx([0.02] * 3)


def test_kept_statistics_make_training_see_what_the_finished_network_has() -> None:
    torch.manual_seed(0)
    crops = torch.randn(6, 3, 16, 16)
    module = give_back_batch_norms(fold(Small()), crops)
    expected = module.eval()(crops[:2])
    names = set(module.state_dict())
    keep_statistics(module)
    module.train()
    answer = module(crops[:2])
    assert torch.allclose(answer, expected, atol=1e-6) and set(module.state_dict()) == names
    answer.square().sum().backward()
    assert all(each.grad is not None for each in module.parameters())
    assert torch.allclose(module.eval()(crops[:2]), expected, atol=1e-6)


@torch.no_grad()
def test_a_fused_copy_answers_the_same_without_norms() -> None:
    torch.manual_seed(0)
    crops = torch.randn(6, 3, 16, 16)
    module = give_back_batch_norms(fold(Small()), crops).eval()
    copied = fused(module)
    assert torch.allclose(copied(crops), module(crops), atol=1e-5)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in copied.modules())
    assert any(isinstance(each, nn.BatchNorm2d) for each in module.modules())
