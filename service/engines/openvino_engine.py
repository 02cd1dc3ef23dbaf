"""A network run by OpenVINO on the CPU, converted from its torch module at start. Knows arrays in and arrays out.

OpenVINO is an optional extra (`poselift[cpu]`); where it is missing, torch runs the CPU.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
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
    openvino = _openvino()
    converted = _converted(openvino, module.eval().requires_grad_(False), torch.from_numpy(example))
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


def _openvino() -> Any:
    """OpenVINO without its telemetry: by default it reports every conversion to Google Analytics, from forked children
    of the process that wait 3 s each where there is no network. It does without the package where that is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is Python's mark of a missing one
    import openvino

    return openvino


def _converted(openvino: Any, module: nn.Module, example: torch.Tensor) -> Any:
    """The module as an OpenVINO model.

    It is traced as a function, once and by one thread: left to itself, `convert_model` traces every submodule as one of
    its own, and then all again to check, which took lite-hrnet 7 s instead of 2.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # OpenVINO's way in is the old one; what the networks ask about their input's sides holds for all batches.
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
            warnings.filterwarnings("ignore", message="Converting a tensor to a Python boolean")
            trace: Any = torch.jit.trace
            traced = trace(lambda inputs: module(inputs), example, check_trace=False)
            return openvino.convert_model(traced, example_input=example)
    finally:
        torch.set_num_threads(threads)
