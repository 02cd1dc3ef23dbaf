"""A network on a CUDA device: folded, in 16 bits where that holds a gate, captured at every size that is warmed.

The detector cuts its crops and reads its heatmaps there. Everything here runs on the device's thread.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .cuda_graphs import Graphs
from .engine import Framing, Infer
from .framing import PoseFraming, TensorCropRow
from .fusing import fused
from .parts_framing import Parts, PartsFraming
from .torch_framing import LINE, FromParts, FromPixels

log = logging.getLogger(__name__)

# 16 bits are taken by themselves only where the answers to a probe stay within this of those in 32 bits (root mean
# square over root mean square), which what overflows does not. f16 before bf16: as fast, and eight times as exact;
# bf16 moved the embedded detector's heatmaps by 0.11 on a photo, and by 0.4 on the probe.
GATE = 0.1
KINDS = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
PROBES = 8


class Lowered(nn.Module):
    """The network in fewer bits between a float32 input and float32 outputs, channels last."""

    def __init__(self, network: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind
        self.network = network.to(kind)
        if any(each.dim() == 4 for each in network.parameters()):
            self.network = self.network.to(memory_format=torch.channels_last)

    def forward(self, given: Tensor) -> Any:
        last = torch.channels_last if given.dim() == 4 else torch.preserve_format
        outputs = self.network(given.to(self.kind, memory_format=last))
        return outputs.float() if isinstance(outputs, Tensor) else tuple(output.float() for output in outputs)


def placed(module: nn.Module, probe: NDArray[Any], device: str, precision: str) -> tuple[nn.Module, str]:
    """The module made ready for the device: folded and finished where it can be, channels last, in few bits.

    Args:
        module: `FromPixels` over a convolutional network, or another that takes one array; on the CPU, 32 bits.
        probe: (n, ...) an input to hold the result against.
        precision: f32, bf16, f16, or auto: f16 if it holds the gate.

    Returns:
        The module on the device, and the precision that it has.
    """
    module = module.eval().requires_grad_(False)
    given = torch.from_numpy(probe)
    with torch.no_grad():
        network = module.network if isinstance(module, FromPixels) else module
        seen = module.normalised(given) if isinstance(module, FromPixels) else given
        lean = _lean(network, seen) if isinstance(module, FromPixels) else network
        for kind in ("f16", "f32") if precision == "auto" else (precision,):
            ready: nn.Module = Lowered(copy.deepcopy(lean), KINDS[kind])
            ready = (module.around(ready) if isinstance(module, FromPixels) else ready).to(device)
            if precision != "auto" or kind == "f32":
                break
            error = difference(ready(given.to(device)), module.to(device)(given.to(device)))
            module.to("cpu")
            if error <= GATE:
                break
            log.warning("f16 answers a probe %.3f away from 32 bits, over %.3f: 32 bits it is", error, GATE)
    return ready, kind


def difference(answers: Any, wanted: Any) -> float:
    """The largest, over the outputs, of the error's root mean square over the output's own."""
    pairs = [(answers, wanted)] if isinstance(answers, Tensor) else zip(answers, wanted, strict=True)
    errors = [(one.float() - other.float()).norm() / other.float().norm().clamp(min=1e-6) for one, other in pairs]
    return float(torch.stack(errors).max())


def _lean(network: nn.Module, seen: Tensor) -> nn.Module:
    """The network with fewer kernels; itself, where that cannot be."""
    try:
        from .finishing import finish

        return fused(network, seen, finish)
    except Exception as error:  # a package that is missing, a network that cannot be exported
        log.warning("the network runs as it is, not fused: %r", error)
        return network


def cuda_infer(
    module: nn.Module, framing: Framing, preset: Mapping[str, Any], sizes: Sequence[int], device: str, precision: str
) -> tuple[Framing, Infer, str, str]:
    """All that an engine on a CUDA device is made of.

    Args:
        module: on the CPU, 32 bits; `FromPixels` but for the lifter.
        framing: the CPU's; the detector gets another.
        preset: the manifest's.
        precision: f32, bf16, f16, or auto: f16 if it holds the gate.

    Returns:
        framing, infer, the runtime's name, and the precision.
    """
    with torch.cuda.device(device):
        ready, precision = placed(module, probe(framing.example()), device, precision)
        if isinstance(framing, PoseFraming):
            parts = PartsFraming(preset, pinned_bytes)
            infer, runtime = parts_infer(FromParts(ready, preset).to(device), parts, sizes, device)
            return parts, infer, runtime, precision
        infer, runtime = graph_infer(ready, framing.example(), sizes, device)
        return framing, infer, runtime, precision


def probe(example: NDArray[Any]) -> NDArray[Any]:
    """(PROBES, ...) inputs to compare precisions with: soft patches of light for a network of pixels, else noise."""
    random = np.random.default_rng(0)
    shape = (PROBES, *example.shape[1:])
    if example.dtype != np.uint8:
        return random.normal(size=shape).astype(example.dtype)
    light = []
    for each in range(PROBES):
        blurred = cv2.GaussianBlur(random.normal(size=shape[1:]).astype(np.float32), (0, 0), 2.0 + 2 * each)
        light.append(cv2.normalize(blurred, np.empty_like(blurred), 0, 255, cv2.NORM_MINMAX))
    return np.stack(light).astype(np.uint8)


def graph_infer(module: nn.Module, example: NDArray[Any], sizes: Sequence[int], device: str) -> tuple[Infer, str]:
    """The forward pass over arrays of up to the largest size, and the runtime's name.

    Args:
        module: on the device, from `placed`.
        example: (1, ...) an input.
    """

    def step(given: Tensor) -> Sequence[Tensor]:
        outputs = module(given)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    def statics(size: int) -> list[Tensor]:
        return [torch.from_numpy(np.repeat(example, size, axis=0)).to(device)]

    graphs = Graphs(step, statics, sizes, device)

    def infer(inputs: NDArray[Any]) -> list[NDArray[Any]]:
        return graphs.run(len(inputs), [torch.from_numpy(np.ascontiguousarray(inputs))], 100)

    return infer, graphs.runtime


def parts_infer(network: FromParts, framing: PartsFraming, sizes: Sequence[int], device: str) -> tuple[Infer, str]:
    """Crops to keypoints: as `graph_infer`, but `Parts` go in (or crops, to warm it), points come out, and heatmaps if
    they are asked for."""

    def statics(size: int) -> list[Tensor]:
        lines = torch.zeros(size, LINE, dtype=torch.float64)
        return [torch.zeros(size * framing.slot_bytes, dtype=torch.uint8, device=device), lines.to(device)]

    graphs = Graphs(network, statics, sizes, device)

    def infer(inputs: Parts | NDArray[np.uint8]) -> list[NDArray[Any]]:
        if not isinstance(inputs, Parts):
            inputs = framing.inputs([TensorCropRow(crop) for crop in inputs])
        given = [torch.from_numpy(inputs.pixels), torch.from_numpy(inputs.lines)]
        return graphs.run(len(inputs), given, 2 if inputs.heatmaps else 1)

    return infer, graphs.runtime


def pinned_bytes(count: int) -> NDArray[np.uint8]:
    """Memory that the device reads by itself. torch keeps what is let go for the next: two batches, two buffers."""
    return torch.empty(count, dtype=torch.uint8, pin_memory=True).numpy()
