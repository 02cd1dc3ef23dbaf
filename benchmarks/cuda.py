"""The networks on a CUDA device: `python -m benchmarks.cuda` prints rows a second of our engine and of eager torch.

Alternating runs in one process, medians. Eager is the plain module in 32 bits, its input already on the device and its
output left there; ours is measured so too (`graph`), and from photo bytes here to keypoints here (`whole`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from service.engines.cuda_engine import difference, parts_infer, pinned_bytes, placed, probe
from service.engines.cuda_graphs import Graphs
from service.engines.framing import CropRow
from service.engines.parts_framing import PartsFraming
from service.engines.torch_framing import FromParts, from_pixels
from service.networks import create, load_weights
from service.store.store import Store, embedded_store

NETWORKS = ("hrnet-w32", "lite-hrnet", "rtmdet-nano", "lifter")
ROUNDS, LEAST_S = 5, 0.08


def timed(call: Callable[[], Any]) -> float:
    """Seconds a call, over at least LEAST_S, the device's work included."""
    torch.cuda.synchronize()
    calls, started = 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - started < LEAST_S:
        call()
        calls += 1
        if calls % 8 == 0:
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / calls


def loaded(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A network on the CPU, and its manifest's preset.

    HRNet's weights are random, which its time does not feel; its norms have seen a batch, so its numbers stay small.
    """
    torch.manual_seed(0)
    entries = {entry.manifest.network: entry for entry in Store(embedded_store()).entries()}
    preset = dict(entries["lite-hrnet"].manifest.input)
    if name == "hrnet-w32":
        network = create(name)
        for key, values in network.state_dict().items():
            if key.endswith("weight") and values.dim() == 4:
                nn.init.kaiming_normal_(values)
        module = from_pixels(network, preset)
        for each in network.modules():
            if isinstance(each, nn.BatchNorm2d):
                each.momentum = 1.0
        with torch.no_grad():
            module.train()(torch.from_numpy(probe(example_of(name))))
        return module.eval(), preset
    entry = entries[name]
    network = create(entry.manifest.network, **entry.manifest.options)
    load_weights(network, entry.load(), name)
    return (network if name == "lifter" else from_pixels(network, entry.manifest.input)), preset


def example_of(name: str) -> np.ndarray[Any, Any]:
    if name == "lifter":
        return np.zeros((1, 27, 17, 6), np.float32)
    return np.zeros((1, 480, 480, 3) if name == "rtmdet-nano" else (1, 256, 192, 3), np.uint8)


def crops(count: int) -> list[CropRow]:
    """Two people a VGA photo."""
    random = np.random.default_rng(0)
    photos = [random.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range((count + 1) // 2)]
    boxes = [np.array(box, np.float32) for box in ((100, 60, 120, 330), (350, 80, 130, 320))]
    return [CropRow(photos[n // 2], boxes[n % 2]) for n in range(count)]


def compare(name: str, sizes: Sequence[int], device: str, low: str) -> list[dict[str, Any]]:
    """One line a batch size."""
    module, preset = loaded(name)
    example = example_of(name)
    given = probe(example)
    pose = name in ("hrnet-w32", "lite-hrnet")
    started = time.perf_counter()
    ours, precision = placed(module, given, device, low if pose else "f32")
    prepared_s = time.perf_counter() - started
    plain = module.to(device).eval()
    with torch.no_grad():
        error = difference(ours(torch.from_numpy(given).to(device)), plain(torch.from_numpy(given).to(device)))

    def step(inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        outputs = ours(inputs)
        return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)

    inputs = {n: torch.from_numpy(np.repeat(given, -(-n // len(given)), axis=0)[:n]).to(device) for n in sizes}
    started = time.perf_counter()
    graphs = Graphs(step, lambda size: [inputs[size].clone()], sizes, device)
    captured_s = time.perf_counter() - started
    whole = None
    if pose:
        framing = PartsFraming(preset, pinned_bytes)
        whole, _ = parts_infer(FromParts(ours, preset).to(device), framing, sizes, device)
    torch.backends.cudnn.benchmark = False  # for eager: as torch sets it
    lines = []
    for size in sizes:
        rows = crops(size)
        parts = PartsFraming(preset, pinned_bytes).inputs(rows)
        times: dict[str, list[float]] = {"eager": [], "graph": [], "whole": [], "framing": []}
        with torch.no_grad():
            for _ in range(2):
                plain(inputs[size])
            for _ in range(ROUNDS):
                times["eager"].append(timed(partial(plain, inputs[size])))
                times["graph"].append(timed(graphs.replay(size)))
                if whole is not None:
                    times["whole"].append(timed(partial(whole, parts)))
        if pose:
            times["framing"].append(timed(partial(framing.inputs, rows)))
        rates = {kind: round(size / statistics.median(each), 1) for kind, each in times.items() if each}
        line = {"network": name, "precision": precision, "batch": size, "rows_a_second": rates}
        line["graph_over_eager"] = round(rates["graph"] / rates["eager"], 2)
        if pose:
            line["whole_over_eager"] = round(rates["whole"] / rates["eager"], 2)
        lines.append(line | {"spread_ms": [round(1000 * t, 2) for t in sorted(times["graph"])]})
    lines[0] |= {
        "error_to_eager": round(error, 4),
        "prepared_s": round(prepared_s, 1),
        "captured_s": round(captured_s, 1),
        "runtime": graphs.runtime,
        "device_memory_mb": round(torch.cuda.memory_reserved() / 2**20),
    }
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__)
    parser.add_argument(
        "--networks", default=",".join(NETWORKS), help="names, a detector's with :bf16 or :f32 behind it"
    )
    parser.add_argument("--sizes", default="1,8,32,128")
    parser.add_argument("--json", help="a file for the figures")
    arguments = parser.parse_args()
    device = "cuda:0"
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "tf32": {"cudnn": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32},
        "lines": [],
    }
    print(json.dumps({key: value for key, value in figures.items() if key != "lines"}))
    for name in arguments.networks.split(","):
        sizes = [int(size) for size in arguments.sizes.split(",")]
        name, _, low = name.partition(":")
        low = low or "f16"
        for line in compare(name, sizes, device, low):
            figures["lines"].append(line)
            print(json.dumps(line), flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:  # noqa: PTH123
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
