"""The paper's channel attention (eqs. 1-3), and where in a network it is placed.

Three 1x1 convolutions on the mean of each channel (C > C/4 > C/4 > C), batch norm and ReLU behind the first two, bias
and sigmoid behind the last: a gate a(X), a number a channel. It strengthens a block's identity path, X > X + X a(X).
Knows no particular network: HRNet gates a block's input, Lite-HRNet a shuffle unit's output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Gate = Literal["open", "closed", "zero"]
Place = tuple[int, int, int, int]  # stage (2-4), module, branch, block

REDUCTION = 4  # s of the paper
OPEN_BIAS = -2.0  # gates start at 0.119 with a slope of 0.105: live from the first step
CLOSED_BIAS = -6.0  # gates start at 0.0025: hardly there, and slow to learn

# Which of a network's places carry attention, by name.
PRESETS: Mapping[str, Callable[[Place], bool]] = {
    "none": lambda place: False,
    "all_blocks": lambda place: True,
}


class OneValueNorm(nn.BatchNorm2d):
    """Batch norm that takes its running statistics where a training batch has one value a channel.

    That is a batch of 1 on maps of 1x1, where a plain batch norm raises. Weight and bias get their gradients as usual;
    such a call updates no statistics.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == self.num_features:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


class _Step(nn.Module):
    """One of the three 1x1 convolutions; all but the last have batch norm and ReLU, the last has a bias."""

    def __init__(self, channels: int, out: int, last: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 1, bias=last)
        self.bn = None if last else OneValueNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if self.bn is None else F.relu(self.bn(y))


class ChannelAttention(nn.Sequential):
    """(batch, C, height, width) to the same, each channel strengthened by its gate a(X) in 0..1.

    `gate` says in which form:
        open    (X + X a(X)) / (1 + g0), where g0 = sigmoid(-2) is the gate at its start: put on trained weights, the
                network is the plain one until the gates learn, and no block's identity path grows. Eq. 3's function,
                since the constants could be carried into the weights. The form to train and to serve.
        closed  X + X a(X), eq. 3 as printed; the gate starts at sigmoid(-6).
        zero    X: the gate forced to 0, so that the network is the plain one exactly, with all weights in place.
    """

    def __init__(self, channels: int, gate: Gate = "open") -> None:
        narrow = channels // REDUCTION
        super().__init__(
            _Step(channels, narrow, last=False), _Step(narrow, narrow, last=False), _Step(narrow, channels, last=True)
        )
        self.kind = gate
        self.rest = 1.0 / (1.0 + math.exp(-OPEN_BIAS)) if gate == "open" else 0.0
        self.reset()

    def reset(self) -> None:
        """Puts the gate back to its start: the same for every picture, whatever the first two steps say."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, OneValueNorm):
                module.reset_parameters()
        last = self.get_submodule("2.conv")
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, OPEN_BIAS if self.kind == "open" else CLOSED_BIAS)

    def gates(self, x: Tensor) -> Tensor:
        """a(X), eq. 1: (batch, C, 1, 1) in 0..1."""
        y = x.mean((2, 3), keepdim=True)
        for step in self:
            y = step(y)
        return torch.sigmoid(y)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "zero":
            return x
        # (1 + a) / (1 + rest), written so that 16 bits round it to 1 at rest: 1.119 does not fit in them, and thirty
        # blocks in a row would multiply its error.
        return x * (1.0 + (self.gates(x) - self.rest) / (1.0 + self.rest))


@dataclass(frozen=True)
class Placement:
    """Where a network carries attention, and in which form."""

    places: frozenset[Place]
    gate: Gate

    def __post_init__(self) -> None:
        if self.gate not in get_args(Gate):
            raise ValueError(f"`gate` must be one of {', '.join(get_args(Gate))}, got {self.gate!r}")

    def at(self, place: Place, channels: int) -> ChannelAttention | None:
        return ChannelAttention(channels, self.gate) if place in self.places else None


def place_attention(
    attention: str | Iterable[Iterable[int]],
    gate: Gate,
    modules: Mapping[int, int],
    branches: Mapping[int, int],
    blocks: int,
) -> Placement:
    """Reads a network's options.

    Args:
        attention: a preset's name, or a list of (stage, module, branch, block), each counted from 0 but the stage.
        gate: open, closed or zero (`ChannelAttention`).
        modules, branches: how many each stage has. blocks: how many each branch of a module has.

    Raises:
        ValueError: no such preset or gate, or a place that the network does not have.
    """
    every = frozenset(
        (stage, module, branch, block)
        for stage in modules
        for module in range(modules[stage])
        for branch in range(branches[stage])
        for block in range(blocks)
    )
    if isinstance(attention, str):
        if attention not in PRESETS:
            raise ValueError(f"`attention` is one of {', '.join(PRESETS)} or a list of places, got {attention!r}")
        return Placement(frozenset(filter(PRESETS[attention], every)), gate)
    places = [tuple(place) for place in attention]
    for place in places:
        if place not in every:
            sizes = "; ".join(f"stage {s}: {modules[s]} modules, {branches[s]} branches" for s in modules)
            raise ValueError(
                f"`attention` has (stage, module, branch, block) {place}; there are {sizes}; {blocks} blocks a branch"
            )
    return Placement(every & frozenset(places), gate)
