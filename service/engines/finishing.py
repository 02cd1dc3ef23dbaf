"""What follows a convolution in one pass over its output: bias, a sum, a ReLU. In Triton, which CUDA's torch brings."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _finish(y, bias, other, total, channels, ADDS: tl.constexpr, RELU: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = place < total
    value = tl.load(y + place, mask=there).to(tl.float32) + tl.load(bias + place % channels, mask=there).to(tl.float32)
    if ADDS:
        value += tl.load(other + place, mask=there).to(tl.float32)
    if RELU:
        value = tl.maximum(value, 0.0)
    tl.store(y + place, value.to(y.dtype.element_ty), mask=there)


def finish(y: Tensor, bias: Tensor, other: Tensor | None, relu: bool) -> Tensor:
    """ReLU(y + bias + other), written into `y`: a convolution's fresh output that nobody else reads.

    Args:
        y: (n, channels, height, width).
        bias: (channels,).
        other: like y, or None.
        relu: else the plain sum.
    """
    tensors = (y,) if other is None else (y, other)
    flat = all(each.is_contiguous(memory_format=torch.channels_last) and each.shape == y.shape for each in tensors)
    if not (flat and y.is_cuda):
        total = y + bias[:, None, None] if other is None else y + bias[:, None, None] + other
        return total.relu() if relu else total
    blocks = (triton.cdiv(y.numel(), BLOCK),)
    _finish[blocks](y, bias, y if other is None else other, y.numel(), y.shape[1], other is not None, relu, BLOCK)
    return y
