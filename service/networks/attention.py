"""The paper's channel attention (eqs. 1-3), and where in a network it is placed.

Three 1x1 convolutions on the mean of each channel (C > C/4 > C/4 > C), batch norm and ReLU behind the first two, bias
and sigmoid behind the last: a gate a(X), a number a channel. It strengthens a block's identity path, X > X + X a(X).
Knows no particular network: HRNet gates a block's input or output, Lite-HRNet a shuffle unit's output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Gate = Literal["open", "closed", "printed", "zero"]
Variant = Literal["recommended", "paper_literal", "weights_only"]
Place = tuple[int, int, int, int]  # stage (2-4), module, branch, block

REDUCTION = 4  # s of the paper
OPEN_BIAS = -2.0  # gates start at 0.119 with a slope of 0.105: live from the first step
CLOSED_BIAS = -6.0  # gates start at 0.0025: hardly there, and slow to learn


def _late(place: Place, blocks: int) -> bool:
    """The last two blocks of a branch in a module of stage 4, of which there are three: the text's six modules."""
    return place[0] == 4 and place[3] >= blocks - 2


# Which of a network's places carry attention, by name; each is asked for a place and the blocks a branch has.
# The rows of Table VII are grouped here as they meet the printed counts (28.9 / 29.1 / 29.3 and two of three); the
# words' plain readings are `hrnet_stage*` and `branch*`. `all_blocks`, `sub3` and `stage3` are one network.
PRESETS: Mapping[str, Callable[[Place, int], bool]] = {
    "none": lambda place, blocks: False,
    "six": lambda place, blocks: _late(place, blocks) and place[2] == 3,  # the text's "final sub-network"
    "six_branch2": lambda place, blocks: _late(place, blocks) and place[2] == 2,  # Fig. 2's "third sub-network"
    "six_branch0": lambda place, blocks: _late(place, blocks) and place[2] == 0,  # III.E's "first sub-network"
    "sub1": lambda place, blocks: place[2] <= 1,
    "sub2": lambda place, blocks: place[2] <= 2,
    "sub3": lambda place, blocks: True,
    "stage1": lambda place, blocks: place[:2] <= (4, 0),
    "stage2": lambda place, blocks: place[:2] <= (4, 1),
    "stage3": lambda place, blocks: True,
    "hrnet_stage2": lambda place, blocks: place[0] <= 2,
    "hrnet_stage3": lambda place, blocks: place[0] <= 3,
    "hrnet_stage4": lambda place, blocks: True,
    "branch0": lambda place, blocks: place[2] == 0,
    "branch1": lambda place, blocks: place[2] <= 1,
    "branch2": lambda place, blocks: place[2] <= 2,
    "branch3": lambda place, blocks: True,
    "all_blocks": lambda place, blocks: True,
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
    """One of the three 1x1 convolutions, with batch norm and ReLU where it is `normed`, else with ReLU where `bent`."""

    def __init__(self, channels: int, out: int, *, bias: bool, normed: bool, bent: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 1, bias=bias)
        self.bn = OneValueNorm(out) if normed else None
        self.bent = bent

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if self.bn is not None:
            y = self.bn(y)
        return F.relu(y) if self.bent else y


class ChannelAttention(nn.Sequential):
    """(batch, C, height, width) to the same, each channel strengthened by its gate a(X) in 0..1.

    `variant` says what the three convolutions have around them:
        recommended    batch norm and ReLU behind the first two, a bias and nothing behind the last.
        paper_literal  batch norm and ReLU behind all three: its gate cannot fall under a half.
        weights_only   ReLU behind the first two, neither norms nor biases.
    `gate` says in which form they are put on X:
        open     (X + X a(X)) / (1 + g0), where g0 is the gate at its start, sigmoid(-2) (`weights_only`: a half): put
                 on trained weights, the network is the plain one until the gates learn, and no block's identity path
                 grows. Eq. 3's function, since the constants could be carried into the weights. The form to train and
                 to serve.
        closed   X + X a(X), eq. 3 as printed; the gate starts at sigmoid(-6).
        printed  X + X a(X), and all weights start as any other convolution's and norm's.
        zero     X: the gate forced to 0, so that the network is the plain one exactly, with all weights in place.
    """

    def __init__(self, channels: int, gate: Gate = "open", variant: Variant = "recommended") -> None:
        check_attention(gate, variant)
        narrow = channels // REDUCTION
        normed = variant != "weights_only"
        literal = variant == "paper_literal"
        super().__init__(
            _Step(channels, narrow, bias=False, normed=normed, bent=True),
            _Step(narrow, narrow, bias=False, normed=normed, bent=True),
            _Step(narrow, channels, bias=variant == "recommended", normed=literal, bent=literal),
        )
        self.kind, self.variant = gate, variant
        start = OPEN_BIAS if variant == "recommended" else 0.0
        self.rest = 1.0 / (1.0 + math.exp(-start)) if gate == "open" else 0.0
        self.reset()

    def reset(self) -> None:
        """Puts the gate back to its start: but for `printed`, the same for every picture, whatever the steps say."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, OneValueNorm):
                module.reset_parameters()
        last = self.get_submodule("2.conv")
        assert isinstance(last, nn.Conv2d)
        if self.kind == "printed":
            return
        nn.init.zeros_(last.weight)
        if last.bias is not None:
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


def check_attention(gate: str, variant: str) -> None:
    """Raises ValueError for an unknown gate or variant, and for a gate that the variant cannot have."""
    if gate not in get_args(Gate):
        raise ValueError(f"`gate` must be one of {', '.join(get_args(Gate))}, got {gate!r}")
    if variant not in get_args(Variant):
        raise ValueError(f"`variant` must be one of {', '.join(get_args(Variant))}, got {variant!r}")
    # A ReLU whose input is 0 for every picture passes no gradient: a literal gate that starts constant stays so. And
    # without a bias nothing can close one.
    allowed = {"paper_literal": ("printed", "zero"), "weights_only": ("open", "printed", "zero")}.get(variant)
    if allowed and gate not in allowed:
        raise ValueError(f"`variant` {variant} takes `gate` {' or '.join(allowed)}, got {gate!r}")


@dataclass(frozen=True)
class Placement:
    """Where a network carries attention, and in which form."""

    places: frozenset[Place]
    gate: Gate
    variant: Variant = "recommended"

    def __post_init__(self) -> None:
        check_attention(self.gate, self.variant)

    def at(self, place: Place, channels: int) -> ChannelAttention | None:
        return ChannelAttention(channels, self.gate, self.variant) if place in self.places else None


def place_attention(
    attention: str | Iterable[Iterable[int]],
    gate: Gate,
    modules: Mapping[int, int],
    branches: Mapping[int, int],
    blocks: int,
    variant: Variant = "recommended",
) -> Placement:
    """Reads a network's options.

    Args:
        attention: a preset's name, or a list of (stage, module, branch, block), each counted from 0 but the stage.
        gate, variant: see `ChannelAttention`.
        modules, branches: how many each stage has. blocks: how many each branch of a module has.

    Raises:
        ValueError: no such preset, gate or variant, or a place that the network does not have.
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
        carries = PRESETS[attention]
        return Placement(frozenset(place for place in every if carries(place, blocks)), gate, variant)
    places = [tuple(place) for place in attention]
    for place in places:
        if place not in every:
            sizes = "; ".join(f"stage {s}: {modules[s]} modules, {branches[s]} branches" for s in modules)
            raise ValueError(
                f"`attention` has (stage, module, branch, block) {place}; there are {sizes}; {blocks} blocks a branch"
            )
    return Placement(every & frozenset(places), gate, variant)
