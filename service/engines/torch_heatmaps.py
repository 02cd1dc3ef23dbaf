"""Reading heatmaps in plain torch on any device: the rules of geometry/heatmaps.py, held equal to them by tests.

Every shape is known beforehand and nothing is copied or waited for, so that a CUDA graph can hold it: numbers go into
kernels (`masked_fill`), never to the device (`where`). Positions are (x, y) in cells, from the top-left one's centre.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import cv2
import torch
from torch import Tensor
from torch.nn import functional as F

from service.geometry.heatmaps import LEAST_VALUE, LONGEST_STEP_CELLS, UDP_LEAST, UDP_MOST

# (people, joints, height, width) float32 to positions (people, joints, 2) and scores (people, joints)
Decode = Callable[[Tensor], tuple[Tensor, Tensor]]


def decoder_named(name: str, blur: int) -> Decode:
    """The rule of a preset's `decode`; `blur` is for those that blur."""
    decoders: dict[str, Decode] = {
        "argmax": decode_argmax,
        "quarter": decode_quarter,
        "dark": partial(decode_dark, blur=blur),
        "udp": partial(decode_udp, blur=blur),
    }
    if name not in decoders:
        raise ValueError(f"`decode` must be one of {', '.join(decoders)}, got {name!r}")
    return decoders[name]


def decode_argmax(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """`geometry.heatmaps.decode_argmax`."""
    x, y, scores = _peaks(heatmaps)
    return torch.stack([x, y], dim=-1).float(), scores


def decode_quarter(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """`geometry.heatmaps.decode_quarter`."""
    x, y, scores = _peaks(heatmaps)
    height, width = heatmaps.shape[2:]
    inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    around = _around(heatmaps, x, y, 1)
    toward_x = torch.sign(around[..., 1, 2] - around[..., 1, 0])
    toward_y = torch.sign(around[..., 2, 1] - around[..., 0, 1])
    positions = torch.stack([x + 0.25 * inner * toward_x, y + 0.25 * inner * toward_y], dim=-1)
    return positions.masked_fill((scores <= 0)[..., None], 0), scores


def decode_dark(heatmaps: Tensor, blur: int) -> tuple[Tensor, Tensor]:
    """`geometry.heatmaps.decode_dark`."""
    x, y, scores = _peaks(heatmaps)
    height, width = heatmaps.shape[2:]
    inner = (x >= 2) & (x < width - 2) & (y >= 2) & (y < height - 2)
    sliding = _sliding(blur, heatmaps.device)
    patches = _around(heatmaps, x, y, 2 + blur // 2).double()
    log = torch.log((sliding @ patches @ sliding.T).clamp(min=LEAST_VALUE))
    dx, dy = (log[..., 2, 3] - log[..., 2, 1]) / 2, (log[..., 3, 2] - log[..., 1, 2]) / 2
    dxx = (log[..., 2, 4] - 2 * log[..., 2, 2] + log[..., 2, 0]) / 4
    dyy = (log[..., 4, 2] - 2 * log[..., 2, 2] + log[..., 0, 2]) / 4
    dxy = (log[..., 3, 3] - log[..., 1, 3] - log[..., 3, 1] + log[..., 1, 1]) / 4
    determinant = dxx * dyy - dxy * dxy
    curved = determinant.abs() > 1e-9
    return _stepped(x, y, dx, dy, dxx, dyy, dxy, determinant, curved & inner), scores


def decode_udp(heatmaps: Tensor, blur: int) -> tuple[Tensor, Tensor]:
    """`geometry.heatmaps.decode_udp`."""
    x, y, scores = _peaks(heatmaps)
    smooth = _blurred(heatmaps, blur)
    highest = smooth.amax(dim=(2, 3))
    empty = highest <= 0
    scale = (scores / highest.masked_fill(empty, 1)).masked_fill(empty, 1)
    nine = torch.log(_around(smooth * scale[..., None, None], x, y, 1).double().clamp(UDP_LEAST, UDP_MOST))
    middle = nine[..., 1, 1]
    left, right, up, down = nine[..., 1, 0], nine[..., 1, 2], nine[..., 0, 1], nine[..., 2, 1]
    tiny = torch.finfo(torch.float32).eps
    dx, dy = (right - left) / 2, (down - up) / 2
    dxx, dyy = right - 2 * middle + left + tiny, down - 2 * middle + up + tiny
    dxy = (nine[..., 2, 2] - right - down + 2 * middle - left - up + nine[..., 0, 0]) / 2
    determinant = dxx * dyy - dxy * dxy
    return _stepped(x, y, dx, dy, dxx, dyy, dxy, determinant, determinant != 0), scores


def merge_mirrored(heatmaps: Tensor, mirrored: Tensor, order: Tensor, shift: int) -> Tensor:
    """`geometry.heatmaps.merge_mirrored`."""
    back = mirrored[:, order].flip(-1)
    if shift:
        back = torch.cat([back[..., :shift], back[..., :-shift]], dim=-1)
    return (heatmaps + back) * 0.5


def _peaks(heatmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(people, joints) column, row and height of the highest cells; the first of equals, which `argmax` of torch does
    not promise."""
    width = heatmaps.shape[-1]
    flat = heatmaps.flatten(2)
    scores = flat.amax(-1)
    cells = torch.arange(flat.shape[-1], device=flat.device)
    best = cells.expand_as(flat).masked_fill(flat != scores[..., None], flat.shape[-1] - 1).amin(-1)
    return best % width, best // width, scores


def _around(heatmaps: Tensor, x: Tensor, y: Tensor, reach: int) -> Tensor:
    """(people, joints, 2 reach + 1, 2 reach + 1) cells around (x, y); beyond the border its cells repeat."""
    height, width = heatmaps.shape[2:]
    steps = torch.arange(-reach, reach + 1, device=heatmaps.device)
    rows = (y[..., None] + steps).clamp(0, height - 1)
    columns = (x[..., None] + steps).clamp(0, width - 1)
    cells = (rows[..., :, None] * width + columns[..., None, :]).flatten(2)
    return heatmaps.flatten(2).gather(2, cells).reshape(*heatmaps.shape[:2], len(steps), len(steps))


def _stepped(
    x: Tensor,
    y: Tensor,
    dx: Tensor,
    dy: Tensor,
    dxx: Tensor,
    dyy: Tensor,
    dxy: Tensor,
    determinant: Tensor,
    allowed: Tensor,
) -> Tensor:
    """The peaks moved by a Taylor step where it is allowed and not too long."""
    step = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], dim=-1)
    step = step / determinant.masked_fill(~allowed, 1)[..., None]
    near = allowed & (step.abs().amax(-1) < LONGEST_STEP_CELLS)
    return (torch.stack([x, y], dim=-1) + step.masked_fill(~near[..., None], 0)).float()


def _blurred(heatmaps: Tensor, blur: int) -> Tensor:
    """By a Gaussian with nothing around the map. By shifts: a convolution might run in TF32."""
    reach = blur // 2
    weights = [float(weight) for weight in cv2.getGaussianKernel(blur, 0).ravel()]
    height, width = heatmaps.shape[2:]
    wide = F.pad(heatmaps, (reach, reach, 0, 0))
    along = sum(w * wide[..., i : i + width] for i, w in enumerate(weights))
    assert isinstance(along, Tensor)
    tall = F.pad(along, (0, 0, reach, reach))
    smooth = sum(w * tall[..., i : i + height, :] for i, w in enumerate(weights))
    assert isinstance(smooth, Tensor)
    return smooth


@cache
def _sliding(blur: int, device: torch.device) -> Tensor:
    """(5, 5 + blur - 1) float64: makes the blurred 5 cells around a peak of those before the blur.

    Kept: a number that is copied to a device makes it wait, which a graph may not.
    """
    kernel = torch.from_numpy(cv2.getGaussianKernel(blur, 0).ravel()).double()
    return torch.stack([F.pad(kernel, (i, 4 - i)) for i in range(5)]).to(device)
