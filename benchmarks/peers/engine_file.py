"""The store's lifter as an OpenVINO file: the peers then need numpy and openvino, and neither torch nor the service."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import torch

from service.engines.framing import LiftFraming
from service.networks import create, load_weights
from service.store.store import Store, embedded_store


def write_lifter(folder: Path) -> Path:
    """Converts the default lifter, in 32 bits; where its file is."""
    entry = Store(embedded_store()).default("lift")
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
