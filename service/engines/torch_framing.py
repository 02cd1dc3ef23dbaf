"""Framing inside the network: plain torch on any device, so that only bytes travel to it.

Pictures come as they are cut, (n, height, width, 3) uint8 RGB; colour order and normalisation are the network's first
step. The same module is what OpenVINO converts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class FromPixels(nn.Module):
    """(n, height, width, 3) uint8 RGB to the network's outputs.

    mean, deviation: per channel of 0..255, in the order that the network sees; bgr: whether that order is BGR.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float], bgr: bool) -> None:
        super().__init__()
        self.network, self.bgr = network, bgr
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32).reshape(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Any:
        channels = pixels.permute(0, 3, 1, 2).to(self.mean.dtype)
        if self.bgr:
            channels = channels.flip(1)
        return self.network((channels - self.mean) / self.deviation)


def from_pixels(network: nn.Module, preset: Mapping[str, Any]) -> FromPixels:
    """`FromPixels` by a manifest's preset: its `mean`, `deviation` and `colour` (rgb or bgr)."""
    if preset["colour"] not in ("rgb", "bgr"):
        raise ValueError(f"`colour` must be rgb or bgr, got {preset['colour']!r}")
    return FromPixels(network, preset["mean"], preset["deviation"], preset["colour"] == "bgr")
