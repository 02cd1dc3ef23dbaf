"""Framing inside the network: plain torch on any device, so that little travels to it and back.

Pixels come as bytes and colour order and normalisation are the network's first step; on a device that cuts by itself,
parts of photos come and keypoints go back. The same arithmetic as geometry/crops.py, held equal by tests. Frames are
geometry's: pixels from the corner, heatmap cells from the centre of the top-left one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from service.geometry.crops import udp_stride
from service.geometry.skeletons import SKELETONS, mirror_order

from .torch_heatmaps import decoder_named, merge_mirrored

# One line a crop: the way from its pixels to the part's, both from centres, as [x, y] = [0:6] x [column, row, 1]; where
# the part begins in the bytes, its width and height; the way from the crop's pixels to the picture's, both from the
# corner; and how many lines further its mirror image is, 0 without one.
TO_PART, BEGIN, PART_SIZE, TO_PICTURE, PARTNER = slice(0, 6), 6, slice(7, 9), slice(9, 15), 15
LINE = 16


class FromPixels(nn.Module):
    """(n, height, width, 3) RGB in 0..255, uint8 or floating, to the network's outputs.

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
        return self.network(self.normalised(pixels))

    def around(self, network: nn.Module) -> FromPixels:
        """The same first step before another network."""
        made = FromPixels(network, self.mean.flatten().tolist(), self.deviation.flatten().tolist(), self.bgr)
        return made.to(self.mean.device)

    def normalised(self, pixels: Tensor) -> Tensor:
        """(n, 3, height, width) float32, as the network sees it."""
        channels = pixels.permute(0, 3, 1, 2).to(self.mean.dtype)
        if self.bgr:
            channels = channels.flip(1)
        return (channels - self.mean) / self.deviation


def from_pixels(network: nn.Module, preset: Mapping[str, Any]) -> FromPixels:
    """`FromPixels` by a manifest's preset: its `mean`, `deviation` and `colour` (rgb or bgr)."""
    if preset["colour"] not in ("rgb", "bgr"):
        raise ValueError(f"`colour` must be rgb or bgr, got {preset['colour']!r}")
    return FromPixels(network, preset["mean"], preset["deviation"], preset["colour"] == "bgr")


class FromParts(nn.Module):
    """Parts of photos to keypoints in the photos: cut, normalise, network, mirror images merged, peaks read.

    The network is `FromPixels`, by itself or with what runs it faster; the preset is its manifest's.
    """

    stride: Tensor
    centre: Tensor
    order: Tensor

    def __init__(self, network: nn.Module, preset: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.width, self.height = int(preset["width"]), int(preset["height"])
        stride = float(preset["stride"])
        across, along = (
            udp_stride(self.width, self.height, stride) if preset.get("transform") == "udp" else (stride, stride)
        )
        self.register_buffer("stride", torch.tensor([across, along]), persistent=False)
        half = [0.5 - float(shift) for shift in preset["shift"]]
        self.register_buffer("centre", torch.tensor(half), persistent=False)
        order = torch.from_numpy(mirror_order(SKELETONS["coco17"]).copy())
        self.register_buffer("order", order, persistent=False)
        self.flip_shift = int(preset["flip_shift"])
        self.decode = decoder_named(preset["decode"], int(preset.get("blur", 3)))

    def forward(self, parts: Tensor, lines: Tensor) -> tuple[Tensor, Tensor]:
        """Reads the crops that `lines` describe out of `parts`.

        Args:
            parts: (bytes,) uint8, RGB parts of pictures, row after row, one after the other.
            lines: (n, LINE) float64, one a crop, see above.

        Returns:
            points: (n, 17, 3) float32, x and y in picture pixels and score 0..1; of a mirror image, merged or not, no
                point is of use.
            heatmaps: (n, 17, rows, columns) float32, as the network answered them.
        """
        heatmaps = self.network(cut_parts(parts, lines, self.height, self.width)).float()
        partner = lines[:, PARTNER].long()
        own = torch.arange(len(lines), device=lines.device)
        merged = merge_mirrored(heatmaps, heatmaps[own + partner], self.order, self.flip_shift)
        alone = (partner == 0)[:, None, None, None]
        read = torch.where(alone, heatmaps, merged)
        positions, scores = self.decode(read)
        in_input = (positions.double() * self.stride + self.centre).float().double()
        way = lines[:, TO_PICTURE].reshape(-1, 2, 3)
        points = in_input @ way[:, :, :2].transpose(1, 2) + way[:, None, :, 2]
        return torch.cat([points.float(), scores.clamp(0, 1)[..., None]], dim=-1), heatmaps


def cut_parts(parts: Tensor, lines: Tensor, height: int, width: int) -> Tensor:
    """The crops' pixels by bilinear interpolation, rounded as bytes are; black outside the parts.

    Args:
        parts, lines: as `FromParts` takes them.
        height, width: of a crop.

    Returns:
        (n, height, width, 3) float32, 0..255.
    """
    way = lines[:, TO_PART].float()[:, :, None, None]  # (n, 6, 1, 1)
    begin = lines[:, BEGIN].long()[:, None, None] // 3
    whole = parts.reshape(-1, 3)  # an index a pixel, not a byte: a third of what the device must read
    wide, tall = lines[:, PART_SIZE].long()[:, :, None, None].unbind(1)  # (n, 1, 1)
    column = torch.arange(width, device=lines.device, dtype=torch.float32)[None, None]
    row = torch.arange(height, device=lines.device, dtype=torch.float32)[None, :, None]
    x = way[:, 0] * column + way[:, 1] * row + way[:, 2]  # (n, height, width)
    y = way[:, 3] * column + way[:, 4] * row + way[:, 5]
    left, top = x.floor(), y.floor()
    right_share, lower_share = x - left, y - top
    pixels = torch.zeros((), device=lines.device)
    for across, share_x in ((0, 1 - right_share), (1, right_share)):
        for down, share_y in ((0, 1 - lower_share), (1, lower_share)):
            at_x, at_y = left.long() + across, top.long() + down
            inside = (at_x >= 0) & (at_x < wide) & (at_y >= 0) & (at_y < tall)
            place = (begin + at_y * wide + at_x).masked_fill(~inside, 0)
            share = share_x * share_y * inside
            pixels = pixels + whole[place].float() * share[..., None]
    return pixels.round()
