"""A network run by OpenVINO on the CPU, converted from its torch module at start. Knows arrays in and arrays out.

OpenVINO is an optional extra (`poselift[cpu]`); where it is missing, torch runs the CPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .engine import Infer


def openvino_available() -> bool:
    return importlib.util.find_spec("openvino") is not None


def openvino_infer(
    module: nn.Module, example: NDArray[Any], sizes: Sequence[int], threads: int, precision: str
) -> Infer:
    """Converts the module and compiles it for each batch size; returns its forward pass over numpy arrays.

    Args:
        example: (1, ...) one input.
        sizes: the batch sizes that will be asked for, no other. A shape of its own each: dynamic ones are slower.
        threads: CPU threads of one run.
        precision: f32 or bf16.
    """
    import openvino

    module = module.eval().requires_grad_(False)
    with torch.no_grad():
        converted = openvino.convert_model(module, example_input=torch.from_numpy(example), share_weights=True)
    core = openvino.Core()
    hints = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        # Pinned threads of two compiled models land on the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    requests = {}
    for size in sizes:
        converted.reshape([size, *example.shape[1:]])
        requests[size] = core.compile_model(converted, "CPU", hints).create_infer_request()

    def infer(inputs: NDArray[Any]) -> list[NDArray[Any]]:
        request = requests[len(inputs)]
        request.infer([np.ascontiguousarray(inputs)], share_inputs=True)
        return [np.array(output.data) for output in request.output_tensors]

    return infer
