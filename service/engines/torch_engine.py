"""A network run by torch, on a CPU or a CUDA device. Knows arrays in and arrays out, nothing of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .engine import Infer


def torch_infer(module: nn.Module, device: str, precision: str, threads: int) -> Infer:
    """Moves the module to the device and returns its forward pass over numpy arrays.

    Args:
        device: cpu or cuda:N.
        precision: f32 or bf16 (autocast).
        threads: CPU threads of torch, for the whole process.
    """
    if device == "cpu":
        torch.set_num_threads(threads)
    placed = module.to(device).eval().requires_grad_(False)
    kind = torch.device(device).type

    @torch.inference_mode()
    def infer(inputs: NDArray[Any]) -> list[NDArray[Any]]:
        given = torch.from_numpy(np.ascontiguousarray(inputs)).to(device)
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
            outputs = placed(given)
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        return [output.float().cpu().numpy() for output in outputs]

    return infer
