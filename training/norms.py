"""Batch norms given back to a detector whose published weights have them folded in, so that it trains on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from service.networks.lite_hrnet import ConvNorm


@dataclass(frozen=True)
class NormRecipe:
    """crops: how many norms are given back through. momentum: a batch's share in the running statistics. live: whether
    statistics follow the training's crops; else they stay as they were given back, in training too."""

    crops: int = 320
    momentum: float = 0.1
    live: bool = True


# Norms that are the identity but for their bias, as an importer leaves them.
LEAST_CHANGE = 1e-6


@torch.no_grad()
def folded(module: nn.Module) -> bool:
    """Whether the module has batch norms, and all of them do nothing but add a bias."""
    pairs = [each for each in module.modules() if isinstance(each, ConvNorm)]
    return bool(pairs) and all(_does_nothing(pair.bn) for pair in pairs)


def _does_nothing(norm: nn.BatchNorm2d) -> bool:
    mean, scale = _mean_and_scale(norm)
    return float(mean.abs().max()) < LEAST_CHANGE and float((scale - 1).abs().max()) < LEAST_CHANGE


def _mean_and_scale(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean.double(), norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)


@torch.no_grad()
def give_back_batch_norms(module: nn.Module, crops: Tensor, batch: int = 32) -> nn.Module:
    """A copy of the module with live batch norms behind every convolution that had one folded in.

    Each takes the mean m and variance v of its convolution over all crops and pixels (without the folded bias b), and
    then weight sqrt(v + eps) and bias b + m undo them: the function stays the same, to rounding. A channel that is
    always 0 gets a row of zeros, since whatever stands there would wake up with the first step.

    Args:
        module: any with `ConvNorm`s; its other norms (an attention's) are left as they are.
        crops: (n, 3, height, width) as the network takes them, some hundred.
        batch: how many go through at once; the statistics do not depend on it.
    """
    given = copy.deepcopy(module).eval()
    pairs = [each for each in given.modules() if isinstance(each, ConvNorm)]
    for pair in pairs:
        _fold(pair)
    sums = [torch.zeros(3, pair.bn.num_features, dtype=torch.float64, device=crops.device) for pair in pairs]
    hooks = [pair.conv.register_forward_hook(_summing(total)) for pair, total in zip(pairs, sums, strict=True)]
    for part in torch.split(crops, batch):
        given(part)
    for hook in hooks:
        hook.remove()
    for pair, (count, first, second) in zip(pairs, sums, strict=True):
        mean = first / count
        variance = (second / count - mean.square()).clamp(min=0)
        norm, dead = pair.bn, (variance == 0) & (mean == 0)
        assert norm.running_mean is not None and norm.running_var is not None
        pair.conv.weight[dead] = 0
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        # The statistics as they are stored, in 32 bits, so that they are undone exactly.
        norm.weight.copy_(torch.sqrt(norm.running_var.double() + norm.eps))
        norm.bias.copy_(norm.bias.double() + norm.running_mean.double())
    return given.train(module.training)


def _fold(pair: ConvNorm) -> None:
    """The norm into the convolution, up to a bias that the norm keeps."""
    norm = pair.bn
    assert norm.running_mean is not None and norm.running_var is not None
    mean, scale = _mean_and_scale(norm)
    pair.conv.weight.copy_(pair.conv.weight.double() * scale[:, None, None, None])
    norm.bias.copy_(norm.bias.double() - mean * scale)
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.weight.fill_(1)


def _summing(total: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """A hook that adds up crops, their means and their mean squares, channel by channel."""

    def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        variance, mean = (each.double() for each in torch.var_mean(output, (2, 3), correction=0))
        total[0] += len(mean)
        total[1] += mean.sum(0)
        total[2] += (variance + mean.square()).sum(0)

    return hook


class StillNorm(nn.BatchNorm2d):
    """A batch norm whose statistics stay; its weight and bias learn."""

    def train(self, mode: bool = True) -> StillNorm:
        return super().train(False)


def keep_statistics(module: nn.Module) -> None:
    """Every norm behind a convolution becomes a `StillNorm`; an attention's norms, which are new, stay live."""
    for pair in module.modules():
        if isinstance(pair, ConvNorm):
            still = StillNorm(pair.bn.num_features, pair.bn.eps)
            still.load_state_dict(pair.bn.state_dict())
            pair.bn = still.eval()


def fused(network: nn.Module) -> nn.Module:
    """A copy for answers alone, its norms taken into the convolutions."""
    copied = copy.deepcopy(network).eval()
    for pair in copied.modules():
        if isinstance(pair, ConvNorm):
            pair.conv = fuse_conv_bn_eval(pair.conv, pair.bn)
            pair.bn = nn.Identity()  # type: ignore[assignment]
    return copied


def set_momentum(module: nn.Module, momentum: float) -> None:
    """A batch's share in the running statistics, for every batch norm of the module."""
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.momentum = momentum
