"""The lifter: a window of 2D poses to a 3D pose for every frame (or for the centre one).

PoseFormer (Zheng et al., ICCV 2021; its key names are kept) with the paper's two modules between attention and MLP:
SAM, a convolution over neighbouring joints, and TAM, one over neighbouring frames (eqs. 8-15). Knows no pixels, cameras
or units: how points become its input channels is the business of `engines/framing.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Form = Literal["depthwise", "paper", "crossformer"]
Head = Literal["sequence", "weighted_mean"]

JOINTS = 17
CONFIDENCE = 2  # the input channel that holds the score; below 0 there: the joint is unknown


@dataclass(frozen=True)
class LifterOptions:
    """Sizes and switches. The defaults with `head="weighted_mean"`, both modules off, are PoseFormer exactly."""

    frames: int = 27
    channels: int = 2  # of the input, a joint; x and y first, confidence third if there is one
    width: int = 32  # features a joint; the temporal width is 17 times that
    depth: int = 4  # blocks, spatial and temporal each
    heads: int = 8
    mlp_ratio: float = 2.0
    drop_path: float = 0.1  # rises linearly over the blocks up to this (PoseFormer's training script)
    form: Form = "depthwise"
    spatial: bool = False  # SAM on
    temporal: bool = False  # TAM on
    head: Head = "weighted_mean"
    spatial_head: bool = False  # a 3D pose from the spatial features alone, for the loss L_s (eq. 13)
    unknown_token: bool = False  # a learned embedding for joints whose confidence is below 0

    def __post_init__(self) -> None:
        if self.frames < 1 or self.frames % 2 == 0:
            raise ValueError(f"`frames` must be odd and at least 1, got {self.frames}")
        if self.form not in get_args(Form):
            raise ValueError(f"`form` must be one of {', '.join(get_args(Form))}, got {self.form!r}")
        if self.head not in get_args(Head):
            raise ValueError(f"`head` must be one of {', '.join(get_args(Head))}, got {self.head!r}")
        if self.temporal and self.form == "paper" and self.frames < 3:
            # A group norm over one frame's single value a channel is a constant.
            raise ValueError(f"form `paper` needs `frames` of at least 3, got {self.frames}")
        if self.temporal and self.form == "crossformer" and self.frames % 3:
            raise ValueError(f"form `crossformer` needs `frames` to be a multiple of 3, got {self.frames}")
        if self.unknown_token and self.channels <= CONFIDENCE:
            raise ValueError(f"`unknown_token` reads the confidence: `channels` must be over 2, got {self.channels}")


class ChannelsMiddle(nn.Module):
    """A norm over channels for tensors of (batch, channels, length)."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return normed


class AcrossNeighbours(nn.Module):
    """A(P) = P + conv_b(norm(GELU(conv_a(P)))): SAM over joints (kernel 5), TAM over frames (kernel 3).

    Eqs. 8 and 11. Depth-wise with LayerNorm (`depthwise`) or GroupNorm, a group a channel (`paper`); full convolutions
    with GroupNorm are CrossFormer's cross-joint module (Hassanin et al.).
    """

    def __init__(self, channels: int, kernel: int, form: Form) -> None:
        super().__init__()
        groups = 1 if form == "crossformer" else channels
        self.conv_a = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=groups)
        self.conv_b = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=groups)
        self.norm: nn.Module
        if form == "depthwise":
            self.norm = ChannelsMiddle(nn.LayerNorm(channels, eps=1e-6))
        else:
            self.norm = nn.GroupNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, channels) to the same."""
        y = self.conv_b(self.norm(F.gelu(self.conv_a(x.transpose(1, 2)))))
        out: Tensor = x + y.transpose(1, 2)
        return out


class CrossFrame(nn.Module):
    """CrossFormer's cross-frame module: a compact generalised non-local block, frames as channels (Yue et al. 2018)."""

    groups = 3

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.t = nn.Conv1d(frames, frames, 3, padding=1, bias=False)
        self.p = nn.Conv1d(frames, frames, 3, padding=1, bias=False)
        self.g = nn.Conv1d(frames, frames, 3, padding=1, bias=False)
        self.z = nn.Conv1d(frames, frames, 3, padding=1, groups=self.groups, bias=False)
        self.norm = nn.GroupNorm(self.groups, frames)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, features) to the same."""
        batch, frames, features = x.shape
        t, p, g = (conv(x).reshape(batch, self.groups, -1) for conv in (self.t, self.p, self.g))
        scaled = (p * g).sum(-1, keepdim=True) * t  # (batch, groups, frames / groups x features)
        out: Tensor = x + self.norm(self.z(scaled.reshape(batch, frames, features)))
        return out


class SelfAttention(nn.Module):
    """Multi-head self-attention, softmax(Q K^T / sqrt(head width)) V (eq. 6 with the head's own width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        # (batch, length, 3 x width) > (3, batch, heads, length, head width)
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block with a neighbour module between self-attention and MLP.

    `depthwise` and `paper` put it between the norm and the MLP (II.B.2); `crossformer` gives it a residual of its own.
    """

    def __init__(self, options: LifterOptions, width: int, drop: float, across: nn.Module | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, options.heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, int(width * options.mlp_ratio))
        self.across = across
        self.own_residual = options.form == "crossformer"
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same."""
        x = x + self._kept(self.attn(self.norm1(x)))
        if self.across is not None and self.own_residual:
            x = self.across(x)
        y = self.norm2(x)
        if self.across is not None and not self.own_residual:
            y = self.across(y)
        return x + self._kept(self.mlp(y))

    def _kept(self, branch: Tensor) -> Tensor:
        """Stochastic depth: in training a sample's branch is left out with chance `drop`, the others are scaled up."""
        if not self.training or self.drop == 0.0:
            return branch
        keep = torch.rand(branch.shape[0], 1, 1, device=branch.device, dtype=branch.dtype) >= self.drop
        return branch * keep / (1.0 - self.drop)


class Lifter(nn.Module):
    """(batch, frames, 17, channels) to (batch, frames, 17, 3), or (batch, 1, 17, 3) with the `weighted_mean` head."""

    def __init__(self, options: LifterOptions) -> None:
        super().__init__()
        self.options = options
        width, wide = options.width, JOINTS * options.width
        drops = [float(d) for d in torch.linspace(0, options.drop_path, options.depth, device="cpu")]

        self.Spatial_patch_to_embedding = nn.Linear(options.channels, width)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, JOINTS, width))
        places = 1 if options.form == "crossformer" and options.temporal else options.frames
        self.Temporal_pos_embed = nn.Parameter(torch.zeros(1, places, wide))
        self.unknown = nn.Parameter(torch.zeros(width)) if options.unknown_token else None

        def spatial_module() -> nn.Module | None:
            return AcrossNeighbours(width, 5, options.form) if options.spatial else None

        def temporal_module() -> nn.Module | None:
            if not options.temporal:
                return None
            return (
                CrossFrame(options.frames) if options.form == "crossformer" else AcrossNeighbours(wide, 3, options.form)
            )

        self.Spatial_blocks = nn.ModuleList(Block(options, width, drop, spatial_module()) for drop in drops)
        self.blocks = nn.ModuleList(Block(options, wide, drop, temporal_module()) for drop in drops)
        self.Spatial_norm = nn.LayerNorm(width, eps=1e-6)
        self.Temporal_norm = nn.LayerNorm(wide, eps=1e-6)
        self.weighted_mean = nn.Conv1d(options.frames, 1, 1) if options.head == "weighted_mean" else None
        self.head = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, JOINTS * 3))
        self.spatial_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3)) if options.spatial_head else None

    def forward(self, x: Tensor) -> Tensor:
        return self.poses(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Spatial features, frame by frame: (batch, frames, 17, channels) to (batch, frames, 17, width)."""
        batch, frames, joints, channels = x.shape
        options = self.options
        if (frames, joints, channels) != (options.frames, JOINTS, options.channels):
            wanted = f"(batch, {options.frames}, {JOINTS}, {options.channels})"
            raise ValueError(f"the lifter takes {wanted}, got {tuple(x.shape)}")
        y = self.Spatial_patch_to_embedding(x)
        if self.unknown is not None:
            y = torch.where(x[..., CONFIDENCE : CONFIDENCE + 1] < 0, self.unknown.to(y.dtype), y)
        y = y.reshape(batch * frames, JOINTS, options.width) + self.Spatial_pos_embed
        for block in self.Spatial_blocks:
            y = block(y)
        normed: Tensor = self.Spatial_norm(y)
        return normed.reshape(batch, frames, JOINTS, options.width)

    def poses(self, features: Tensor) -> Tensor:
        """Spatial features of a window to its 3D poses."""
        batch, frames = features.shape[:2]
        y = features.reshape(batch, frames, -1) + self.Temporal_pos_embed
        for block in self.blocks:
            y = block(y)
        y = self.Temporal_norm(y)
        if self.weighted_mean is not None:
            y = self.weighted_mean(y)
        pose: Tensor = self.head(y)
        return pose.reshape(batch, -1, JOINTS, 3)


def create_lifter(**options: object) -> Lifter:
    """Builds a lifter from `LifterOptions` by name; an unknown option or a value out of range is a ValueError."""
    known = LifterOptions.__dataclass_fields__
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"the lifter has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return Lifter(LifterOptions(**options))  # type: ignore[arg-type]
