"""Which input sizes the convolutional networks take: each halves its maps five times."""

from __future__ import annotations

import torch
from torch import Tensor

MULTIPLE = 32


def check_sides(x: Tensor) -> None:
    """Raises ValueError unless both sides of (batch, channels, height, width) are divisible by 32."""
    # A trace would record the question; whoever traces brings an input of the right size.
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return
    height, width = x.shape[2:]
    if height % MULTIPLE or width % MULTIPLE:
        raise ValueError(f"both sides of the input must be divisible by {MULTIPLE}, got {height} x {width}")
