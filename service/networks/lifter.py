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

from .fitting import Fitting

Form = Literal["depthwise", "paper", "crossformer"]
# Where a block has its module (Table VIII; "after MSA" has two readings): MSA(A(LN x)); MLP(A(LN x)); A(x + MSA(LN x))
# before the MLP, a residual branch of its own; A(x) at the block's end.
Place = Literal["before_attention", "after_attention", "own_residual", "after_mlp"]
Head = Literal["sequence", "weighted_mean"]

JOINTS = 17  # that are answered; as many are read, but for the 16 of a Human3.6M Hourglass
LAYER_SCALE = 1e-5  # where CrossFormer's learned factors start
FITTED_CHANNELS = 6  # the service's: `service.engines.framing.window_channels`
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
    dropout: float = 0.0  # of single features, behind embeddings, self-attention and in the MLP
    form: Form = "depthwise"
    spatial: bool = False  # SAM on
    temporal: bool = False  # TAM on
    place: Place | None = None  # by default `own_residual` for crossformer, `after_attention` for the others
    spatial_kernel: int = 5  # joints; 1 is Fig. 4's and Table VIII's Conv1x1
    temporal_kernel: int = 3  # frames; of the crossformer form: features
    layer_scale: bool = False  # CrossFormer's released block: learned factors from 1e-5 on, a norm before the module
    joints: int = JOINTS  # of the input
    head: Head = "weighted_mean"
    spatial_head: bool = False  # a 3D pose from the spatial features alone, for the loss L_s (eq. 13)
    unknown_token: bool = False  # a learned embedding for joints whose confidence is below 0
    fitted: bool = False  # poses are fitted to the places and to bones of one length: `fitting.Fitting`

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
        if self.place is not None and self.place not in get_args(Place):
            raise ValueError(f"`place` must be one of {', '.join(get_args(Place))}, got {self.place!r}")
        for name in ("spatial_kernel", "temporal_kernel"):
            kernel = getattr(self, name)
            if kernel < 1 or kernel % 2 == 0:
                raise ValueError(f"`{name}` must be odd and at least 1, got {kernel}")
        for name in ("dropout", "drop_path"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise ValueError(f"`{name}` must be in 0..1, below 1, got {share}")
        if self.layer_scale and self.placed != "own_residual":
            raise ValueError(f"`layer_scale` needs `place` own_residual, got {self.placed}")
        if self.joints < 1:
            raise ValueError(f"`joints` must be at least 1, got {self.joints}")
        if self.spatial_head and self.joints != JOINTS:
            raise ValueError(f"`spatial_head` answers a joint a joint: it needs `joints` = {JOINTS}, got {self.joints}")
        if self.fitted and (self.head != "sequence" or self.joints != JOINTS or self.channels != FITTED_CHANNELS):
            wanted = f"head `sequence`, {JOINTS} joints and {FITTED_CHANNELS} channels"
            raise ValueError(f"`fitted` needs {wanted}, got {self.head}, {self.joints} and {self.channels}")
        if self.unknown_token and self.channels <= CONFIDENCE:
            raise ValueError(f"`unknown_token` reads the confidence: `channels` must be over 2, got {self.channels}")

    @property
    def placed(self) -> Place:
        """Where the modules are."""
        return self.place or ("own_residual" if self.form == "crossformer" else "after_attention")


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

    written_out: computes the depth-wise form as sums of shifted products, which a compiler fuses; cuDNN's gradients of
    depth-wise weights are slow.
    """

    written_out = False

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
        if self.written_out and isinstance(self.norm, ChannelsMiddle):
            return x + _across(self.norm.norm(F.gelu(_across(x, self.conv_a))), self.conv_b)
        y = self.conv_b(self.norm(F.gelu(self.conv_a(x.transpose(1, 2)))))
        out: Tensor = x + y.transpose(1, 2)
        return out


def _across(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """A depth-wise convolution over the middle axis as a sum of shifted products: (batch, length, channels) to it."""
    reach, length = conv.kernel_size[0] // 2, x.shape[1]
    padded = F.pad(x, (0, 0, reach, reach))
    assert conv.bias is not None
    steps = (padded[:, k : k + length] * conv.weight[:, 0, k] for k in range(2 * reach + 1))
    return sum(steps, start=conv.bias)


class CrossFrame(nn.Module):
    """CrossFormer's cross-frame module: a compact generalised non-local block, frames as channels (Yue et al. 2018)."""

    groups = 3

    def __init__(self, frames: int, kernel: int = 3) -> None:
        super().__init__()
        pad = kernel // 2
        self.t = nn.Conv1d(frames, frames, kernel, padding=pad, bias=False)
        self.p = nn.Conv1d(frames, frames, kernel, padding=pad, bias=False)
        self.g = nn.Conv1d(frames, frames, kernel, padding=pad, bias=False)
        self.z = nn.Conv1d(frames, frames, kernel, padding=pad, groups=self.groups, bias=False)
        self.norm = nn.GroupNorm(self.groups, frames)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, features) to the same."""
        batch, frames, features = x.shape
        t, p, g = (conv(x).reshape(batch, self.groups, -1) for conv in (self.t, self.p, self.g))
        scaled = (p * g).sum(-1, keepdim=True) * t  # (batch, groups, frames / groups x features)
        out: Tensor = x + self.norm(self.z(scaled.reshape(batch, frames, features)))
        return out


class SelfAttention(nn.Module):
    """Multi-head self-attention, softmax(Q K^T / sqrt(head width)) V (eq. 6 with the head's own width).

    written_out: computes it without the fused kernel, which wants heads of eight numbers or more; for a compiler.
    """

    written_out = False

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        if length == 1:  # who is alone attends to itself, whatever is asked
            alone: Tensor = self.proj(F.linear(x, self.qkv.weight[2 * width :], self.qkv.bias[2 * width :]))
            return alone
        # (batch, length, 3 x width) > (3, batch, heads, length, head width)
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.written_out:
            logits = ((q * q.shape[-1] ** -0.5).unsqueeze(-2) * k.unsqueeze(-3)).sum(-1)
            mixed = (logits.softmax(-1).unsqueeze(-1) * v.unsqueeze(-3)).sum(-2)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        y = F.dropout(F.gelu(self.fc1(x)), self.dropout, self.training)
        out: Tensor = F.dropout(self.fc2(y), self.dropout, self.training)
        return out


class Block(nn.Module):
    """Pre-norm transformer block with a neighbour module where `LifterOptions.placed` has it."""

    def __init__(self, options: LifterOptions, width: int, drop: float, across: nn.Module | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, options.heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, int(width * options.mlp_ratio), options.dropout)
        self.across, self.place = across, options.placed
        self.drop, self.dropout = drop, options.dropout
        self.norm3: nn.LayerNorm | None = None
        self.scales: nn.ParameterList | None = None
        if options.layer_scale and across is not None:
            self.norm3 = nn.LayerNorm(width, eps=1e-6)
            self.scales = nn.ParameterList(nn.Parameter(torch.full((width,), LAYER_SCALE)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same."""
        attended = self.attn(self._across_at("before_attention", self.norm1(x)))
        x = x + self._kept(self._scaled(0, F.dropout(attended, self.dropout, self.training)))
        if self.norm3 is not None:
            x = x + self._kept(self._scaled(1, self._across_at("own_residual", self.norm3(x))))
        else:
            x = self._across_at("own_residual", x)
        x = x + self._kept(self._scaled(2, self.mlp(self._across_at("after_attention", self.norm2(x)))))
        return self._across_at("after_mlp", x)

    def _across_at(self, place: Place, x: Tensor) -> Tensor:
        return x if self.across is None or self.place != place else self.across(x)

    def _scaled(self, branch: int, x: Tensor) -> Tensor:
        return x if self.scales is None else x * self.scales[branch]

    def _kept(self, branch: Tensor) -> Tensor:
        """Stochastic depth: in training a sample's branch is left out with chance `drop`, the others are scaled up."""
        if not self.training or self.drop == 0.0:
            return branch
        keep = torch.rand(branch.shape[0], 1, 1, device=branch.device, dtype=branch.dtype) >= self.drop
        return branch * keep / (1.0 - self.drop)


class Lifter(nn.Module):
    """(batch, frames, joints, channels) to (batch, frames, 17, 3), or (batch, 1, 17, 3) with the `weighted_mean` head.

    joints: 17, or the option's.
    """

    def __init__(self, options: LifterOptions) -> None:
        super().__init__()
        self.options = options
        width, wide = options.width, options.joints * options.width
        drops = [float(d) for d in torch.linspace(0, options.drop_path, options.depth, device="cpu")]

        self.Spatial_patch_to_embedding = nn.Linear(options.channels, width)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, options.joints, width))
        places = 1 if options.form == "crossformer" and options.temporal else options.frames
        self.Temporal_pos_embed = nn.Parameter(torch.zeros(1, places, wide))
        self.unknown = nn.Parameter(torch.zeros(width)) if options.unknown_token else None

        def spatial_module() -> nn.Module | None:
            return AcrossNeighbours(width, options.spatial_kernel, options.form) if options.spatial else None

        def temporal_module() -> nn.Module | None:
            if not options.temporal:
                return None
            if options.form == "crossformer":
                return CrossFrame(options.frames, options.temporal_kernel)
            return AcrossNeighbours(wide, options.temporal_kernel, options.form)

        self.Spatial_blocks = nn.ModuleList(Block(options, width, drop, spatial_module()) for drop in drops)
        self.blocks = nn.ModuleList(Block(options, wide, drop, temporal_module()) for drop in drops)
        self.Spatial_norm = nn.LayerNorm(width, eps=1e-6)
        self.Temporal_norm = nn.LayerNorm(wide, eps=1e-6)
        self.weighted_mean = nn.Conv1d(options.frames, 1, 1) if options.head == "weighted_mean" else None
        self.head = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, JOINTS * 3))
        self.fitting = Fitting() if options.fitted else None
        self.spatial_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3)) if options.spatial_head else None

    @property
    def _any_length(self) -> bool:
        counts_frames = self.options.temporal and self.options.form == "crossformer"
        return self.options.head == "sequence" and not counts_frames

    def forward(self, x: Tensor) -> Tensor:
        poses = self.poses(self.features(x))
        fitted: Tensor = poses if self.fitting is None else self.fitting(poses, x)
        return fitted

    def features(self, x: Tensor) -> Tensor:
        """Spatial features, frame by frame: (batch, frames, joints, channels) to (batch, frames, joints, width).

        A window may be shorter by an even number of frames where all that knows their number is the frames' places: its
        frames take the places in the middle.
        """
        batch, frames, joints, channels = x.shape
        options = self.options
        shorter = self._any_length and 0 < frames < options.frames and frames % 2
        if (joints, channels) != (options.joints, options.channels) or not (frames == options.frames or shorter):
            wanted = f"(batch, {options.frames}, {options.joints}, {options.channels})"
            raise ValueError(f"the lifter takes {wanted}, got {tuple(x.shape)}")
        of_frames = self.frame_features(x.reshape(batch * frames, joints, channels))
        return of_frames.reshape(batch, frames, joints, options.width)

    def frame_features(self, x: Tensor) -> Tensor:
        """The same of single frames: (frames, joints, channels) to (frames, joints, width). No frame knows another."""
        y = self.Spatial_patch_to_embedding(x)
        if self.unknown is not None:
            y = torch.where(x[..., CONFIDENCE : CONFIDENCE + 1] < 0, self.unknown.to(y.dtype), y)
        y = F.dropout(y + self.Spatial_pos_embed, self.options.dropout, self.training)
        for block in self.Spatial_blocks:
            y = block(y)
        normed: Tensor = self.Spatial_norm(y)
        return normed

    def poses(self, features: Tensor) -> Tensor:
        """Spatial features of a window to its 3D poses, not fitted."""
        batch, frames = features.shape[:2]
        first = (self.Temporal_pos_embed.shape[1] - frames) // 2 if self._any_length else 0
        y = features.reshape(batch, frames, -1) + self.Temporal_pos_embed[:, first : first + frames]
        y = F.dropout(y, self.options.dropout, self.training)
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
