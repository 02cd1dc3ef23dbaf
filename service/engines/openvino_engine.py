"""A network run by OpenVINO on the CPU, converted from its torch module at start. Knows arrays in and arrays out.

OpenVINO is an optional extra (`poselift[cpu]`); where it is missing, torch runs the CPU.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.errors import SettingWrong

from .device import Lanes
from .engine import Infer

# Tracing, warnings' filters and torch's count of threads are the process's; compiling is not.
_TRACING = threading.Lock()


def openvino_available() -> bool:
    return importlib.util.find_spec("openvino") is not None


def bf16_native() -> bool:
    """Whether OpenVINO is here, and this CPU multiplies in bf16 by itself."""
    return openvino_available() and "BF16" in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def openvino_infer(
    module: nn.Module,
    example: NDArray[Any],
    sizes: Sequence[int],
    threads: int,
    precision: str,
    lanes: Lanes | None = None,
) -> Infer:
    """Converts the module and compiles it for each batch size; returns its forward pass over numpy arrays.

    Args:
        example: (1, ...) one input.
        sizes: the batch sizes that will be asked for, no other. A shape of its own each: dynamic ones are slower.
        threads: CPU threads of all lanes together.
        precision: f32, bf16, or mixed: linear layers in bf16, all else in f32.
        lanes: how many runs there may be at once; by default one.

    Raises:
        SettingWrong: `mixed` needs a folder for temporary files with room for the weights.
    """
    openvino = _openvino()
    converted = _converted(openvino, module.eval().requires_grad_(False), torch.from_numpy(example))
    core = openvino.Core()
    if precision == "mixed":
        try:
            converted = _mixed(openvino, core, converted)
        except OSError as error:
            message = f"the lifter is written to the folder for temporary files once, and cannot be: {error}"
            raise SettingWrong(message, field="precision", limit="f32 does without") from error
    lanes = lanes or Lanes()

    def compiled(size: int, streams: int) -> Requests:
        converted.reshape([size, *example.shape[1:]])
        hints = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": "f32" if precision == "f32" else "bf16",
            # Pinned threads of two compiled models land on the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        return Requests(core.compile_model(converted, "CPU", hints))

    requests = {size: compiled(size, lanes.count) for size in sizes}
    alone_one = compiled(1, 1) if lanes.count > 1 and 1 in sizes else None
    if alone_one is not None:
        alone_one.run([example])  # no caller meets a first time

    def infer(inputs: NDArray[Any]) -> list[NDArray[Any]]:
        with lanes.taken() as alone:
            if alone and len(inputs) == 1 and alone_one is not None:
                return alone_one.run([inputs])
            count = len(inputs)
            # A lane for each part, where there are parts for all of them.
            each = max((n for n in sizes if alone and count % n == 0 and count // n >= lanes.count), default=count)
            return requests[each].run([inputs[first : first + each] for first in range(0, count, each)])

    return infer


class Requests:
    """Runs of one compiled network: as many at once as are asked for, each with buffers of its own."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: list[Any] = []  # appending to a list and taking from it need no lock

    def run(self, parts: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of inputs that are run side by side, joined; copies, which no later run overwrites."""
        requests = [self._take() for _ in parts]
        arrays = [np.ascontiguousarray(part) for part in parts]
        if len(parts) == 1:
            requests[0].infer(arrays, share_inputs=True)
        else:
            for request, array in zip(requests, arrays, strict=True):
                request.start_async([array], share_inputs=True)
            for request in requests:
                request.wait()
        outputs = [[np.array(output.data) for output in request.output_tensors] for request in requests]
        # One that failed is not used again: some of it may still run.
        self._idle += requests
        return outputs[0] if len(parts) == 1 else [np.concatenate(each) for each in zip(*outputs, strict=True)]

    def _take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._compiled.create_infer_request()


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
    with _TRACING:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                # OpenVINO's way in is the old one; what the networks ask about their input's sides holds for any batch.
                warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
                warnings.filterwarnings("ignore", message="Converting a tensor to a Python boolean")
                trace: Any = torch.jit.trace
                traced = trace(lambda inputs: module(inputs), example, check_trace=False)
                return openvino.convert_model(traced, example_input=example)
        finally:
            torch.set_num_threads(threads)


def _mixed(openvino: Any, core: Any, model: Any) -> Any:
    """The model with a mark on all but its linear layers: to stay in 32 bits, whatever is hinted.

    Python cannot set that mark, so it is written into the model's file. (A layer that carried it would lose it, as its
    product and its bias become one: a product that must stay exact has none.)
    """
    layers = {op.get_friendly_name() for op in model.get_ordered_ops() if _is_linear(op)}
    with tempfile.TemporaryDirectory(prefix="poselift-") as folder:
        text, weights = Path(folder, "model.xml"), Path(folder, "model.bin")
        openvino.serialize(model, text, weights)
        tree = ElementTree.parse(text)
        for layer in tree.iter("layer"):
            if layer.get("name") not in layers and layer.get("type") not in ("Const", "Parameter", "Result"):
                marks = layer.find("rt_info")
                if marks is None:
                    marks = ElementTree.Element("rt_info")
                    layer.insert(0 if layer.find("data") is None else 1, marks)
                ElementTree.SubElement(marks, "attribute", name="precise", version="0")
        return core.read_model(ElementTree.tostring(tree.getroot()), weights.read_bytes())


def _is_linear(op: Any) -> bool:
    """Whether it is a product with a matrix of its own, to which a bias is added."""
    if op.get_type_name() != "MatMul" or not _has_numbers(op):
        return False
    after = [given.get_node() for given in op.output(0).get_target_inputs()]
    return len(after) == 1 and after[0].get_type_name() == "Add" and _has_numbers(after[0])


def _has_numbers(op: Any) -> bool:
    """Whether something that it is given is the network's own."""
    given = (op.input_value(n).get_node() for n in range(op.get_input_size()))
    return any(node.get_type_name() == "Constant" for node in given)
