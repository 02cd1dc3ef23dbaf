"""The networks on a CPU by precision: `python -m benchmarks.precisions` prints what a row costs, beside eager torch.

Alternating runs in one process, medians; CPU seconds are told beside wall time, since a busy neighbour lengthens only
that. int8 (post-training, by nncf, if that is installed) is measured here and not served.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from torch import nn

from service.engines.cuda_engine import probe
from service.engines.fusing import fused
from service.engines.openvino_engine import openvino_infer
from service.engines.torch_engine import torch_infer
from service.engines.torch_framing import FromPixels

from .cuda import NETWORKS, example_of, loaded

BATCHES = {"hrnet-w32": 8, "lite-hrnet": 4, "rtmdet-nano": 1, "lifter": 16}
Infer = Callable[[NDArray[Any]], list[NDArray[Any]]]


def tuned(module: nn.Module, seen: NDArray[Any]) -> nn.Module:
    """Eager as good as it gets: batch norms folded, channels last."""
    if not isinstance(module, FromPixels):
        return module
    with torch.no_grad():
        lean = fused(module.network, module.normalised(torch.from_numpy(seen)))
    return module.around(lean.to(memory_format=torch.channels_last))


def variants(name: str, batch: int, threads: int) -> dict[str, Infer]:
    """Each way to run the network, by its name."""
    given = probe(example_of(name))
    ways: dict[str, Infer] = {
        "eager f32": torch_infer(loaded(name)[0], "cpu", "f32", threads),
        "tuned eager f32": torch_infer(tuned(loaded(name)[0], given[:2]), "cpu", "f32", threads),
        "openvino f32": openvino_infer(loaded(name)[0], example_of(name), (batch,), threads, "f32"),
        "openvino bf16": openvino_infer(loaded(name)[0], example_of(name), (batch,), threads, "bf16"),
    }
    if importlib.util.find_spec("nncf") and name != "lifter":
        ways["openvino int8"] = int8_infer(loaded(name)[0], given, batch, threads)
    return ways


def int8_infer(module: nn.Module, calibration: NDArray[Any], batch: int, threads: int) -> Infer:
    """Quantised after training, activations and weights, by the calibration inputs."""
    import nncf

    from service.engines.openvino_engine import _converted

    model = _converted(openvino, module.eval().requires_grad_(False), torch.from_numpy(calibration[:1]))
    # As nncf has it for networks whose activations are not all ReLUs.
    quantised = nncf.quantize(
        model, nncf.Dataset([each[None] for each in calibration]), preset=nncf.QuantizationPreset.MIXED
    )
    quantised.reshape([batch, *calibration.shape[1:]])
    hints = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    request = openvino.Core().compile_model(quantised, "CPU", hints).create_infer_request()

    def infer(inputs: NDArray[Any]) -> list[NDArray[Any]]:
        request.infer([np.ascontiguousarray(inputs)], share_inputs=True)
        return [np.array(output.data) for output in request.output_tensors]

    return infer


def compare(name: str, threads: int, rounds: int) -> list[dict[str, Any]]:
    batch = BATCHES[name]
    ways = variants(name, batch, threads)
    given = probe(example_of(name))
    inputs = np.concatenate([given] * (1 + batch // len(given)))[:batch]
    wanted = [output.astype(np.float64) for output in ways["eager f32"](inputs)]
    wall: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, infer in ways.items():
            started, spent = time.perf_counter(), time.process_time()
            outputs = infer(inputs)
            wall[way].append(time.perf_counter() - started)
            cpu[way].append(time.process_time() - spent)
    lines = []
    for way, infer in ways.items():
        outputs = infer(inputs)
        errors = [_error(output, exact) for output, exact in zip(outputs, wanted, strict=True)]
        ms = 1000 * statistics.median(wall[way][1:]) / batch
        base = 1000 * statistics.median(wall["eager f32"][1:]) / batch
        cpu_ms = 1000 * min(cpu[way][1:]) / batch
        cpu_base = 1000 * min(cpu["eager f32"][1:]) / batch
        lines.append(
            {
                "network": name,
                "batch": batch,
                "threads": threads,
                "way": way,
                "ms_a_row": round(ms, 2),
                "over_eager": round(base / ms, 2),
                "cpu_ms_a_row": round(cpu_ms, 2),
                "over_eager_in_cpu": round(cpu_base / cpu_ms, 2),
                "error": round(max(errors), 4),
            }
        )
    return lines


def _error(output: NDArray[Any], exact: NDArray[Any]) -> float:
    """Root mean square of the difference over that of the exact one."""
    return float(np.linalg.norm(output - exact)) / max(float(np.linalg.norm(exact)), 1e-9)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precisions", description=__doc__)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print(json.dumps({"load_average": os.getloadavg(), "openvino": openvino.__version__, "torch": torch.__version__}))
    for name in arguments.networks.split(","):
        for line in compare(name, arguments.threads, arguments.rounds):
            print(json.dumps(line), flush=True)
    print(json.dumps({"load_average": os.getloadavg()}))


if __name__ == "__main__":
    main()
