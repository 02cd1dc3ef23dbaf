"""One model of a store becomes a warm engine: network built and filled, framed, given to a runtime, measured."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from numpy.typing import NDArray

from service.engines.device import Lanes, check_torch
from service.engines.engine import Engine, Framing, Infer
from service.engines.framing import FinderFraming, LiftFraming, PoseFraming, PublishedLiftFraming
from service.engines.openvino_engine import bf16_native, openvino_available, openvino_infer
from service.engines.remembering import remembering_infer
from service.engines.torch_engine import torch_infer
from service.engines.torch_framing import from_pixels
from service.errors import SettingWrong, StoreBroken
from service.networks import TORCHVISION, create, load_weights
from service.networks.lifter_parts import parts_of
from service.settings import Settings
from service.store.manifest import Manifest

log = logging.getLogger(__name__)

# A second lifter for what the first one's window does not hold: in the embedded store, for whatever moves.
LONG = "lift_long"
# What is warmed, and the most of a batch, which `batch_ms` makes less. A CPU's time grows with every row, so few sizes
# and no padding, and nothing is won by more rows than these; a GPU's hardly grows at first.
CPU_SIZES = {"person": (1,), "pose": (1,), "lift": (1, 4, 8), "lift_long": (1, 4, 8)}
CPU_MOST = {"person": 1, "pose": 4, "lift": 32, "lift_long": 32}
CUDA_SIZES = {
    "person": (1, 2, 4, 8),
    "pose": (1, 2, 4, 8, 16, 32, 64, 128),
    "lift": (1, 2, 4, 8, 16, 32, 64, 128),
    "lift_long": (1, 2, 4, 8, 16, 32),
}


def load_engine(
    manifest: Manifest,
    load: Callable[[], dict[str, Any]],
    settings: Settings,
    device: str,
    lanes: Lanes | None = None,
) -> Engine:
    """Builds, fills and warms one network; on the device's thread.

    Args:
        lanes: of the device; by default one.

    Raises:
        StoreBroken: names the file and the key that is wrong.
        SettingWrong: torchvision, which this network is of, is not of torch's build.
    """
    started = time.perf_counter()
    label = f"{manifest.name}@{manifest.version}"
    if manifest.network in TORCHVISION:  # no other needs it, and it takes a second of every start
        check_torch()
    try:
        module = create(manifest.network, **manifest.options)
        framing = framing_of(manifest, settings)
        if manifest.role != "lift":
            network = from_pixels(module, manifest.input)
    except (KeyError, ValueError) as error:
        raise StoreBroken(f"the manifest of {label}: {error}") from error
    load_weights(module, load(), f"{label}/{manifest.weights.file}")
    eager = getattr(module, "eager", False)  # neither traced nor recorded
    if manifest.role != "lift":
        module = network
    role, on_cpu = manifest.role, device == "cpu"
    slot = LONG if manifest.long else role
    threads = settings.network_threads
    precision = _precision(settings, role, on_cpu)
    sizes = CPU_SIZES[slot] if on_cpu else CUDA_SIZES[slot]
    if eager:
        runtime, precision, infer = "torch", "f32", torch_infer(module, device, "f32", threads)
    elif not on_cpu:
        from service.engines.cuda_engine import cuda_infer  # it brings what a CPU does without

        framing, infer, runtime, precision = cuda_infer(module, framing, manifest.input, sizes, device, precision)
    elif openvino_available():

        def build(part: Any, example: NDArray[Any], counts: Sequence[int]) -> Infer:
            return openvino_infer(part, example, counts, threads, precision, lanes)

        def build_frames(part: Any, example: NDArray[Any], counts: Sequence[int]) -> Infer:
            # On the thread that asks: handing so short a run over takes longer. In bf16 it would be no faster.
            return openvino_infer(part, example, counts, 1, "f32")

        runtime, kept = "openvino", settings.remembered_frames
        parts = parts_of(module) if kept else None
        example = framing.example()
        if parts:
            infer = remembering_infer(parts, (build_frames, build), example, sizes, kept)
        else:
            infer = build(module, example, sizes)
    else:
        runtime, infer = "torch", torch_infer(module, device, precision, threads)
    budget = CPU_MOST[slot] if on_cpu else sizes[-1]
    pads = not on_cpu
    engine = Engine(
        label,
        role,
        framing,
        infer,
        sizes=sizes,
        budget=budget,
        pads=pads,
        runtime=runtime,
        precision=precision,
        network=slot,
    )
    # As it will run when all lanes are taken: what a batch takes then is what its budget is for.
    with lanes.taken() if lanes else nullcontext():
        engine.warm(settings.batch_ms / 1000)
    log.info("%s loaded in %.1f s", label, time.perf_counter() - started)
    return engine


def _precision(settings: Settings, role: str, on_cpu: bool) -> str:
    """What is asked for; of itself, 32 bits, where less would be seen.

    CUDA's detector takes less behind a gate, and a CPU's lifter in its linear layers, by which a joint moves by half a
    millimetre. All in bf16, the finder's boxes would move by up to two pixels, the embedded detector's AP on a CPU fall
    by a point, and poses flicker more (docs/performance.md). A GPU's lifter, which has time to spare, is always exact.
    """
    wanted: str = settings.precision
    if on_cpu and wanted == "f16":
        message = "`precision` is f16, which only CUDA devices have here; a CPU takes f32 or bf16"
        raise SettingWrong(message, field="precision", limit=["auto", "f32", "bf16"])
    if role == "lift" and not on_cpu:
        return "f32"
    if wanted != "auto":
        return wanted
    if on_cpu:
        return "mixed" if role == "lift" and bf16_native() else "f32"
    return "auto" if role == "pose" else "f32"


def framing_of(manifest: Manifest, settings: Settings) -> Framing:
    if manifest.role == "person":
        return FinderFraming(manifest.input, settings.person_side)
    if manifest.role == "pose":
        return PoseFraming(manifest.input)
    frames = int(manifest.options["frames"])
    return PublishedLiftFraming(frames) if manifest.input.get("form") == "published" else LiftFraming(frames)
