"""RTMDet-nano for one class (Lyu et al. 2022; key names of OpenMMLab's MMDetection): the person finder.

Pictures (batch, 3, height, width), BGR with their mean and deviation taken out, to raw scores and distances; boxes and
their suppression are geometry's. The form is the folded one: every convolution has a bias and no batch norm, as the
public file holds it. It can be trained on like that; a norm put back first is training's business.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sides import check_sides

STRIDES = (8, 16, 32)
WIDTHS = (16, 32, 64, 128, 256)  # of the stem and the four stages
UNITS = (1, 2, 2, 1)  # CSPNeXt units of each stage's block
FEATURES = 64  # channels that the head sees
PRIOR = 0.01  # share of cells that hold a person, as training from scratch starts


class Conv(nn.Module):
    """A convolution with bias and SiLU."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv(x))


class Separable(nn.Module):
    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise_conv = Conv(channels, channels, kernel, stride, groups=channels)
        self.pointwise_conv = Conv(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return y


class Unit(nn.Module):
    """CSPNeXt's unit: two separable convolutions, 3x3 and 5x5, plus the input where `identity` is set."""

    def __init__(self, channels: int, identity: bool) -> None:
        super().__init__()
        self.conv1 = Separable(channels, channels, 3)
        self.conv2 = Separable(channels, channels, 5)
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.identity else y


class ChannelGate(nn.Module):
    """Every channel times a hard sigmoid of a linear map of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class CSPBlock(nn.Module):
    """Two 1x1 halves of the input, one of them through units; joined, gated in the backbone, and mixed by a 1x1."""

    def __init__(self, channels: int, out: int, units: int, identity: bool, gate: bool) -> None:
        super().__init__()
        half = out // 2
        # In the order of the published graph.
        self.short_conv = Conv(channels, half, 1)
        self.main_conv = Conv(channels, half, 1)
        self.blocks = nn.Sequential(*(Unit(half, identity) for _ in range(units)))
        self.attention = ChannelGate(out) if gate else nn.Identity()
        self.final_conv = Conv(out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat((self.blocks(self.main_conv(x)), self.short_conv(x)), dim=1)
        y: Tensor = self.final_conv(self.attention(joined))
        return y


class PyramidPooling(nn.Module):
    """The map beside its maxima over windows of 5, 9 and 13 cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv(channels, channels // 2, 1)
        self.poolings = nn.ModuleList(nn.MaxPool2d(window, 1, window // 2) for window in (5, 9, 13))
        self.conv2 = Conv(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y: Tensor = self.conv2(torch.cat((x, *(pooling(x) for pooling in self.poolings)), dim=1))
        return y


class Backbone(nn.Module):
    """CSPNeXt. Gives its last three stages, at strides 8, 16, 32 with 64, 128, 256 channels."""

    def __init__(self) -> None:
        super().__init__()
        narrow = WIDTHS[0] // 2
        self.stem = nn.Sequential(Conv(3, narrow, 3, 2), Conv(narrow, narrow, 3), Conv(narrow, WIDTHS[0], 3))
        for index, units in enumerate(UNITS):
            last = index == len(UNITS) - 1
            out = WIDTHS[index + 1]
            parts: list[nn.Module] = [Separable(WIDTHS[index], out, 3, stride=2)]
            if last:
                parts.append(PyramidPooling(out))
            parts.append(CSPBlock(out, out, units, identity=not last, gate=True))
            self.add_module(f"stage{index + 1}", nn.Sequential(*parts))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.stem(x)]
        for index in range(len(UNITS)):
            maps.append(self.get_submodule(f"stage{index + 1}")(maps[-1]))
        return maps[-3:]


class Neck(nn.Module):
    """PAFPN (CSPNeXtPAFPN): once from low to high and back, then every level to 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        high, middle, low = WIDTHS[-3:]  # channels; `high` is the finest map

        def block(channels: int, out: int) -> CSPBlock:
            return CSPBlock(channels, out, 1, identity=False, gate=False)

        self.reduce_layers = nn.ModuleList([Conv(low, middle, 1), Conv(middle, high, 1)])
        self.top_down_blocks = nn.ModuleList([block(2 * middle, middle), block(2 * high, high)])
        self.downsamples = nn.ModuleList([Separable(high, high, 3, stride=2), Separable(middle, middle, 3, stride=2)])
        self.bottom_up_blocks = nn.ModuleList([block(2 * high, middle), block(2 * middle, low)])
        self.out_convs = nn.ModuleList([Separable(width, FEATURES, 3) for width in (high, middle, low)])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = maps
        reduced_coarse = self.reduce_layers[0](coarse)
        middle = self.top_down_blocks[0](torch.cat((_doubled(reduced_coarse), middle), dim=1))
        reduced_middle = self.reduce_layers[1](middle)
        fine = self.top_down_blocks[1](torch.cat((_doubled(reduced_middle), fine), dim=1))
        middle = self.bottom_up_blocks[0](torch.cat((self.downsamples[0](fine), reduced_middle), dim=1))
        coarse = self.bottom_up_blocks[1](torch.cat((self.downsamples[1](middle), reduced_coarse), dim=1))
        return [out(level) for out, level in zip(self.out_convs, (fine, middle, coarse), strict=True)]


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class BoxHead(nn.Module):
    """A logit and four distances for each cell of each level; nothing is shared between levels."""

    def __init__(self) -> None:
        super().__init__()

        def towers() -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(Separable(FEATURES, FEATURES, 3), Separable(FEATURES, FEATURES, 3)) for _ in STRIDES
            )

        self.cls_convs, self.reg_convs = towers(), towers()
        self.rtm_cls = nn.ModuleList(nn.Conv2d(FEATURES, 1, 1) for _ in STRIDES)
        self.rtm_reg = nn.ModuleList(nn.Conv2d(FEATURES, 4, 1) for _ in STRIDES)
        for layer in self.rtm_cls:
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.constant_(layer.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, ...]:
        answers = []
        for index, (level, stride) in enumerate(zip(levels, STRIDES, strict=True)):
            logits = self.rtm_cls[index](self.cls_convs[index](level))
            distances = self.rtm_reg[index](self.reg_convs[index](level)) * stride
            answers.append(torch.cat((logits, distances), dim=1).permute(0, 2, 3, 1))
        return tuple(answers)


class RTMDet(nn.Module):
    """The finder's network.

    Takes (batch, 3, height, width), both sides divisible by 32. Gives for the strides 8, 16 and 32 a tensor (batch,
    rows, columns, 5): the logit of a person, then the distances left, top, right, bottom in input pixels from the
    cell's top-left corner, (column x stride, row x stride), to the sides of the box.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.neck = Neck()
        self.bbox_head = BoxHead()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        check_sides(x)
        answers: tuple[Tensor, ...] = self.bbox_head(self.neck(self.backbone(x)))
        return answers


def create_rtmdet_nano(**options: object) -> RTMDet:
    """Builds RTMDet-nano. It has no options: one that is given is a ValueError."""
    if options:
        raise ValueError(f"rtmdet-nano has no option {', '.join(sorted(options))}; it has none")
    return RTMDet()
