"""Where and for how long a row is trained: what the command line says of every table alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..distributed import Processes


@dataclass(frozen=True)
class Where:
    """run: the row's folder. data: holds coco/, human36m/, 3dhp/. steps: 0 for the recipe's own length.

    hours: of this call at most. parts: in how many a batch is computed. backbones: weights by network, for the rows
    that start from some. checkpoint_s: seconds between two checkpoints. boxes: a file of detected people for COCO val;
    without one the labelled boxes are used. picture_gb: memory for decoded pictures.
    """

    run: Path
    data: Path
    device: torch.device
    steps: int = 0
    hours: float = float("inf")
    workers: int = 0
    parts: int = 1
    checkpoint_s: float = 180.0
    processes: Processes = field(default_factory=Processes)
    backbones: Mapping[str, Path] = field(default_factory=dict)
    boxes: Path | None = None
    bf16: bool = False
    picture_gb: float = 0.0
