"""Lite-HRNet in its wide naive form (Yu et al., CVPR 2021; PP-TinyPose of PaddleDetection): the 2D detector for CPUs.

Crops (batch, 3, height, width), RGB with ImageNet's mean and deviation taken out, to heatmaps (batch, 17, height / 4,
width / 4). Four branches of 40, 80, 160, 320 channels at strides 4 to 32; every convolution has its batch norm, so that
it trains like any other. Modules stand in the order of the published weights: an importer relies on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import ChannelAttention, Gate, Placement, place_attention
from .sides import check_sides

WIDTHS = (40, 80, 160, 320)
MODULES = {2: 2, 3: 4, 4: 2}
BRANCHES = {2: 2, 3: 3, 4: 4}
UNITS = 2  # shuffle units a branch of a module


@dataclass(frozen=True)
class LiteHRNetOptions:
    joints: int = 17
    attention: str | Iterable[Iterable[int]] = "none"  # a preset or a list of (stage, module, branch, unit)
    gate: Gate = "open"


class ConvNorm(nn.Module):
    """A convolution without bias and its batch norm, with a ReLU if asked for."""

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return F.relu(y) if self.relu else y


def depthwise(channels: int, stride: int = 1) -> ConvNorm:
    return ConvNorm(channels, channels, 3, stride, groups=channels, relu=False)


def separable(channels: int, out: int, stride: int = 1, relu: bool = True) -> nn.Sequential:
    return nn.Sequential(depthwise(channels, stride), ConvNorm(channels, out, 1, relu=relu))


def shuffled(first: Tensor, second: Tensor) -> Tensor:
    """Channels of two halves in turn: 2k is the first half's k, 2k + 1 the second half's."""
    return torch.stack((first, second), dim=2).flatten(1, 2)


class Stem(nn.Module):
    """(batch, 3, height, width) to (batch, 32, height / 4, width / 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = ConvNorm(3, 32, 3, stride=2)
        self.first = separable(16, 16, stride=2)
        self.second = nn.Sequential(ConvNorm(16, 32, 1), depthwise(32, stride=2), ConvNorm(32, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.entry(x).chunk(2, dim=1)
        return shuffled(self.first(first), self.second(second))


class ShuffleUnit(nn.Module):
    """Half of the channels pass untouched, which is the identity path; the others go through three convolutions."""

    def __init__(self, channels: int, attention: ChannelAttention | None) -> None:
        super().__init__()
        half = channels // 2
        self.path = nn.Sequential(ConvNorm(half, half, 1), depthwise(half), ConvNorm(half, half, 1))
        self.cam = attention

    def forward(self, x: Tensor) -> Tensor:
        untouched, half = x.chunk(2, dim=1)
        out = shuffled(untouched, self.path(half))
        # The paper's text, "after one residual block": the gate is made from the unit's output and multiplies it.
        return out if self.cam is None else self.cam(out)


class Fusion(nn.Module):
    """Every branch becomes the sum of all, brought to its size and width, and a ReLU.

    Two habits of the original code, on which published weights rely: the path from branch 0 counts twice, and later
    targets read branch 0 after it was fused (before its ReLU). y_0 = 2 x_0 + ..., y_i = 2 down(y_0) + x_i + ...
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.ModuleList(_path(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        sources = list(branches)
        fused = []
        for target, paths in enumerate(self.paths):
            assert isinstance(paths, nn.ModuleList)
            total = 2 * paths[0](sources[0])
            for source in range(1, len(sources)):
                total = total + paths[source](sources[source])
            if target == 0:
                sources[0] = total
            fused.append(F.relu(total))
        return fused


def _path(widths: tuple[int, ...], source: int, target: int) -> nn.Module:
    """From one branch to another: stays, goes up by nearest neighbours, or goes down in steps of 2."""
    channels, out = widths[source], widths[target]
    if source > target:
        up = nn.Upsample(scale_factor=2.0 ** (source - target), mode="nearest")
        return nn.Sequential(ConvNorm(channels, out, 1, relu=False), up)
    if source < target:
        steps = [separable(channels, channels, stride=2) for _ in range(target - source - 1)]
        return nn.Sequential(*steps, separable(channels, out, stride=2, relu=False))
    return nn.Identity()


class FusionModule(nn.Module):
    """Shuffle units on every branch, then the fusion."""

    def __init__(self, stage: int, module: int, placement: Placement) -> None:
        super().__init__()
        widths = WIDTHS[: BRANCHES[stage]]

        def unit(branch: int, block: int) -> ShuffleUnit:
            return ShuffleUnit(widths[branch], placement.at((stage, module, branch, block), widths[branch]))

        self.branches = nn.ModuleList(
            nn.Sequential(*(unit(branch, block) for block in range(UNITS))) for branch in range(len(widths))
        )
        self.fusion = Fusion(widths)

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        fused: list[Tensor] = self.fusion([units(x) for units, x in zip(self.branches, branches, strict=True)])
        return fused


class Head(nn.Module):
    """Branches, lowest first, are added up to branch 0; then one convolution gives a heatmap a joint."""

    def __init__(self, joints: int) -> None:
        super().__init__()
        widths = WIDTHS[::-1]
        outs = (*widths[1:], widths[-1])
        self.projections = nn.ModuleList(separable(width, out) for width, out in zip(widths, outs, strict=True))
        self.last = nn.Conv2d(WIDTHS[0], joints, 1)

    def forward(self, branches: list[Tensor]) -> Tensor:
        lowest, *others = reversed(branches)
        x: Tensor = self.projections[0](lowest)
        for projection, branch in zip(list(self.projections)[1:], others, strict=True):
            up = F.interpolate(x, size=branch.shape[2:], mode="bilinear", align_corners=True)
            x = projection(branch + up)
        heatmaps: Tensor = self.last(x)
        return heatmaps


class LiteHRNet(nn.Module):
    """(batch, 3, height, width), sides divisible by 32, to (batch, joints, height / 4, width / 4)."""

    def __init__(self, options: LiteHRNetOptions) -> None:
        super().__init__()
        placement = place_attention(options.attention, options.gate, MODULES, BRANCHES, UNITS)

        def stage(number: int) -> nn.Sequential:
            return nn.Sequential(*(FusionModule(number, m, placement) for m in range(MODULES[number])))

        self.stem = Stem()
        self.transition1 = nn.ModuleList([separable(32, WIDTHS[0]), separable(32, WIDTHS[1], stride=2)])
        self.stage2 = stage(2)
        self.transition2 = separable(WIDTHS[1], WIDTHS[2], stride=2)
        self.stage3 = stage(3)
        self.transition3 = separable(WIDTHS[2], WIDTHS[3], stride=2)
        self.stage4 = stage(4)
        self.head = Head(options.joints)

    def forward(self, x: Tensor) -> Tensor:
        check_sides(x)
        stem = self.stem(x)
        branches = self.stage2([branch(stem) for branch in self.transition1])
        branches = self.stage3([*branches, self.transition2(branches[-1])])
        branches = self.stage4([*branches, self.transition3(branches[-1])])
        heatmaps: Tensor = self.head(branches)
        return heatmaps


def create_lite_hrnet(**options: object) -> LiteHRNet:
    """Builds a Lite-HRNet from `LiteHRNetOptions` by name; an unknown option is a ValueError."""
    known = LiteHRNetOptions.__dataclass_fields__
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"lite-hrnet has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return LiteHRNet(LiteHRNetOptions(**options))  # type: ignore[arg-type]
