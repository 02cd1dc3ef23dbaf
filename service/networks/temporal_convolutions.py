"""VideoPose3D (Pavllo et al., CVPR 2019), a plain lifter: 3D poses by dilated convolutions over frames of 2D poses.

Weights bear the official code's names, so that its checkpoints load. Knows no pixels, cameras or units.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

JOINTS = 17
KERNEL = 3  # frames that every dilated convolution sees, in all published networks


@dataclass(frozen=True)
class TemporalOptions:
    """frames: the receptive field, a power of 3 (published: 27, 81, 243). channels: features a frame.

    strided: strides instead of dilation, for training on single windows; the same weights, one pose a window, and
    nothing computed that it does not need.
    """

    frames: int = 243
    channels: int = 1024
    dropout: float = 0.25
    strided: bool = False

    def __post_init__(self) -> None:
        if self.frames < KERNEL or KERNEL**self.layers != self.frames:
            raise ValueError(f"`frames` must be a power of {KERNEL}, got {self.frames}")
        if self.channels < 1:
            raise ValueError(f"`channels` must be 1 or more, got {self.channels}")

    @property
    def layers(self) -> int:
        """Convolutions over frames, the first among them."""
        layers, seen = 0, 1
        while seen < self.frames:
            layers, seen = layers + 1, seen * KERNEL
        return layers


class TemporalConvolutions(nn.Module):
    """(batch, length, 17, 2) to (batch, length - frames + 1, 17, 3): the pose of each window's centre frame.

    With `strided` the length must be `frames`. Unlike the lifter it has no answer for the other frames of a window.
    """

    def __init__(self, options: TemporalOptions) -> None:
        super().__init__()
        self.options = options
        channels, later = options.channels, options.layers - 1

        def over_frames(inputs: int, dilation: int) -> nn.Conv1d:
            stride, dilation = (KERNEL, 1) if options.strided else (1, dilation)
            return nn.Conv1d(inputs, channels, KERNEL, stride=stride, dilation=dilation, bias=False)

        self.expand_conv = over_frames(JOINTS * 2, 1)
        self.expand_bn = nn.BatchNorm1d(channels)
        # In turn: over frames, and 1x1.
        self.layers_conv = nn.ModuleList(
            layer
            for n in range(1, later + 1)
            for layer in (over_frames(channels, KERNEL**n), nn.Conv1d(channels, channels, 1, bias=False))
        )
        self.layers_bn = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(2 * later))
        self.shrink = nn.Conv1d(channels, JOINTS * 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, joints, coordinates = x.shape
        options = self.options
        fits = length == options.frames or (length > options.frames and not options.strided)
        if not fits or (joints, coordinates) != (JOINTS, 2):
            least = f"{options.frames}" if options.strided else f"{options.frames} or more"
            raise ValueError(f"the lifter takes (batch, {least}, {JOINTS}, 2), got {tuple(x.shape)}")
        y = x.reshape(batch, length, joints * coordinates).transpose(1, 2)  # (batch, 34, length)
        y = self._activated(self.expand_bn(self.expand_conv(y)))
        for n in range(0, len(self.layers_conv), 2):
            kept = self._centres(y, KERNEL ** (n // 2 + 1))
            y = self._activated(self.layers_bn[n](self.layers_conv[n](y)))
            y = kept + self._activated(self.layers_bn[n + 1](self.layers_conv[n + 1](y)))
        poses: Tensor = self.shrink(y)  # (batch, 51, length - frames + 1)
        return poses.transpose(1, 2).reshape(batch, -1, JOINTS, 3)

    def _activated(self, x: Tensor) -> Tensor:
        return F.dropout(F.relu(x), self.options.dropout, self.training)

    def _centres(self, x: Tensor, dilation: int) -> Tensor:
        """The frames on which the next convolution is centred."""
        if self.options.strided:
            return x[:, :, KERNEL // 2 :: KERNEL]
        return x[:, :, dilation : x.shape[2] - dilation]


def create_temporal_convolutions(**options: object) -> TemporalConvolutions:
    """Builds VideoPose3D from `TemporalOptions` by name; an unknown option or a value out of range is a ValueError."""
    known = TemporalOptions.__dataclass_fields__
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"videopose3d has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return TemporalConvolutions(TemporalOptions(**options))  # type: ignore[arg-type]
