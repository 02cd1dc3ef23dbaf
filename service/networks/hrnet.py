"""HRNet (Sun et al., CVPR 2019), with the paper's channel attention where it is placed: the 2D detector.

Published are W32 and W48; a W16 with fewer blocks is there for ablations.

Crops (batch, 3, height, width) to heatmaps (batch, joints, height / 4, width / 4). The names of the weights are those
of the official code, so that its checkpoints load; attention adds names of its own (`.cam.`) and changes none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from .attention import ChannelAttention, Gate, Placement, Variant, place_attention
from .sides import check_sides

MODULES = {2: 1, 3: 4, 4: 3}
BRANCHES = {2: 2, 3: 3, 4: 4}
BLOCKS = 4  # basic blocks a branch of a module, and bottlenecks of the first layer
STEM = 64
LAYER1 = 256  # channels that the first layer of bottlenecks gives

Gated = Literal["input", "output"]


@dataclass(frozen=True)
class HRNetOptions:
    width: int = 32  # channels of branch 0; each further branch has twice as many
    joints: int = 17
    attention: str | Iterable[Iterable[int]] = "none"  # a preset or a list of (stage, module, branch, block)
    gate: Gate = "open"
    variant: Variant = "recommended"
    gated: Gated = "input"  # what the gate is made of and multiplies: a block's input (eq. 3) or output (the text)
    blocks: int = BLOCKS  # a branch of a module; fewer make the small network for ablations

    def __post_init__(self) -> None:
        if self.gated not in get_args(Gated):
            raise ValueError(f"`gated` must be one of {', '.join(get_args(Gated))}, got {self.gated!r}")
        if self.blocks < 1:
            raise ValueError(f"`blocks` must be 1 or more, got {self.blocks}")


def conv3x3(channels: int, out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride, 1, bias=False)


def conv1x1(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 1, bias=False)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to four times the width, and the input."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1, self.bn1 = conv1x1(channels, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv1x1(width, out), nn.BatchNorm2d(out)
        same = channels == out
        self.downsample = None if same else nn.Sequential(conv1x1(channels, out), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions F and the input: Z = ReLU(F(X) + X).

    With attention on its input ReLU(F(X) + X + X a(X)), eq. 3; on its output U = ReLU(F(X) + X), Z = U + U a(U), the
    text's "after one residual block". The paper's literal form has one ReLU more, behind F (below eq. 3).
    """

    def __init__(self, channels: int, attention: ChannelAttention | None, gated: Gated = "input") -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(channels, channels), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv3x3(channels, channels), nn.BatchNorm2d(channels)
        self.cam, self.gated = attention, gated
        self.literal = attention is not None and attention.variant == "paper_literal" and attention.kind != "zero"

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.literal:
            y = F.relu(y)
        if self.cam is None:
            return F.relu(y + x)
        if self.gated == "output":
            out: Tensor = self.cam(F.relu(y + x))
            return out
        return F.relu(y + self.cam(x))


def _step(channels: int, out: int, stride: int, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [conv3x3(channels, out, stride), nn.BatchNorm2d(out)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


def _path(widths: list[int], source: int, target: int) -> nn.Module:
    """From one branch to another: stays, goes up by nearest neighbours, or goes down in steps of 2."""
    channels, out = widths[source], widths[target]
    if source > target:
        up = nn.Upsample(scale_factor=2.0 ** (source - target), mode="nearest")
        return nn.Sequential(conv1x1(channels, out), nn.BatchNorm2d(out), up)
    if source < target:
        steps = [_step(channels, channels, 2) for _ in range(target - source - 1)]
        return nn.Sequential(*steps, _step(channels, out, 2, relu=False))
    return nn.Identity()


class HighResolutionModule(nn.Module):
    """Four blocks on every branch; then each of the first `targets` branches becomes the sum of all, and a ReLU."""

    def __init__(self, branches: list[list[BasicBlock]], widths: list[int], targets: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*blocks) for blocks in branches)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_path(widths, source, target) for source in range(len(widths))) for target in range(targets)
        )

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        sources = [blocks(x) for blocks, x in zip(self.branches, branches, strict=True)]
        fused = []
        for paths in self.fuse_layers:
            assert isinstance(paths, nn.ModuleList)
            total = paths[0](sources[0])
            for path, source in zip(list(paths)[1:], sources[1:], strict=True):
                total = total + path(source)
            fused.append(F.relu(total))
        return fused


class HRNet(nn.Module):
    """(batch, 3, height, width), sides divisible by 32, to (batch, joints, height / 4, width / 4)."""

    def __init__(self, options: HRNetOptions) -> None:
        super().__init__()
        placement = place_attention(options.attention, options.gate, MODULES, BRANCHES, options.blocks, options.variant)
        widths = [options.width * 2**branch for branch in range(4)]

        self.conv1, self.bn1 = conv3x3(3, STEM, 2), nn.BatchNorm2d(STEM)
        self.conv2, self.bn2 = conv3x3(STEM, STEM, 2), nn.BatchNorm2d(STEM)
        self.layer1 = nn.Sequential(
            Bottleneck(STEM, LAYER1 // 4), *(Bottleneck(LAYER1, LAYER1 // 4) for _ in range(BLOCKS - 1))
        )
        # A new branch has one index more in the official names.
        self.transition1 = nn.ModuleList([_step(LAYER1, widths[0], 1), nn.Sequential(_step(LAYER1, widths[1], 2))])
        self.stage2 = _stage(2, widths, placement, options)
        self.transition2 = _new_branch(widths, 2)
        self.stage3 = _stage(3, widths, placement, options)
        self.transition3 = _new_branch(widths, 3)
        self.stage4 = _stage(4, widths, placement, options)
        self.final_layer = nn.Conv2d(widths[0], options.joints, 1)
        self._initialise()

    def _initialise(self) -> None:
        """As the official pose code does; attention has a start of its own."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.001)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ChannelAttention):
                module.reset()

    def forward(self, x: Tensor) -> Tensor:
        check_sides(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.layer1(x)
        branches = self.stage2([branch(x) for branch in self.transition1])
        branches = self.stage3([*branches, self.transition2[-1](branches[-1])])
        branches = self.stage4([*branches, self.transition3[-1](branches[-1])])
        heatmaps: Tensor = self.final_layer(branches[0])
        return heatmaps


def _new_branch(widths: list[int], branch: int) -> nn.ModuleList:
    """The older branches pass; a new one comes from the lowest of them."""
    new = nn.Sequential(_step(widths[branch - 1], widths[branch], 2))
    return nn.ModuleList([*(nn.Identity() for _ in range(branch)), new])


def _stage(stage: int, widths: list[int], placement: Placement, options: HRNetOptions) -> nn.Sequential:
    widths = widths[: BRANCHES[stage]]

    def block(module: int, branch: int, index: int) -> BasicBlock:
        attention = placement.at((stage, module, branch, index), widths[branch])
        return BasicBlock(widths[branch], attention, options.gated)

    modules = []
    for module in range(MODULES[stage]):
        branches = [[block(module, branch, k) for k in range(options.blocks)] for branch in range(len(widths))]
        # The heatmaps are read from branch 0 alone, so the last module fuses no other.
        last = stage == max(MODULES) and module == MODULES[stage] - 1
        modules.append(HighResolutionModule(branches, widths, targets=1 if last else len(widths)))
    return nn.Sequential(*modules)


def create_hrnet(width: int, **options: object) -> HRNet:
    """Builds an HRNet of a width (published: 32, 48) from `HRNetOptions` by name; an unknown one is a ValueError."""
    known = [name for name in HRNetOptions.__dataclass_fields__ if name != "width"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"hrnet-w{width} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return HRNet(HRNetOptions(width=width, **options))  # type: ignore[arg-type]
