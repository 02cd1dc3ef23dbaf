"""The lifter of what moves as an OpenVINO file: peers then need numpy and openvino, neither torch nor the service."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import torch

from benchmarks.engines import chosen
from service.engines.framing import LiftFraming
from service.loading import LONG
from service.networks import create, load_weights
from service.settings import Settings


def write_lifter(folder: Path) -> Path:
    """Converts the lifter of what moves, in 32 bits; where its file is."""
    entry = chosen(LONG, Settings())
    module = create(entry.manifest.network, **entry.manifest.options)
    load_weights(module, entry.load(), entry.label)
    module.eval().requires_grad_(False)
    example = torch.from_numpy(np.asarray(LiftFraming(int(entry.manifest.options["frames"])).example()))
    with torch.no_grad():
        traced = torch.jit.trace(lambda inputs: module(inputs), example, check_trace=False)  # type: ignore[no-untyped-call]
        converted = openvino.convert_model(traced, example_input=example)
    converted.reshape([-1, *example.shape[1:]])
    file = folder / "lifter.xml"
    openvino.save_model(converted, file, compress_to_fp16=False)
    return file
