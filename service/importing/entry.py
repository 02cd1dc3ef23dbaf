"""A converted file becomes an entry of the store: preset, manifest, card, notice; then it runs once.

The presets are what the networks were published with, or what was fitted on labels since; each says which.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.networks import create, load_weights
from service.store.manifest import Manifest, Score, WeightsFile
from service.store.store import Entry, Store

from .recognise import Converted, convert

# Mean and deviation of 0..255 in the network's own colour order.
PRESETS: dict[str, dict[str, Any]] = {
    "lite-hrnet": {
        "width": 192,
        "height": 256,
        "padding": 1.25,
        "colour": "rgb",
        "mean": [123.675, 116.28, 103.53],
        "deviation": [58.395, 57.12, 57.375],
        "decode": "dark",
        "blur": 3,
        "stride": 4.0,
        # Pixels that it answers too far right and down, fitted on hand labels counted from the picture's corner.
        "shift": [1.0, 0.6],
        "flip_shift": 1,
    },
    "rtmdet-nano": {
        "colour": "bgr",
        "mean": [103.53, 116.28, 123.675],
        "deviation": [57.375, 57.12, 58.395],
        "suppress_iou": 0.6,
    },
}
SUMMARIES = {
    "lite-hrnet": "Lite-HRNet, wide naive form: the family's small detector, for CPUs",
    "rtmdet-nano": "RTMDet-nano, one class: finds people, 4 MB",
}
HALF = {"pose"}  # the finder's 4 MB stay in 32 bits: its distances are hundreds of pixels


def import_file(path: Path, name: str, store: Store, scores: tuple[Score, ...] = ()) -> Entry:
    """Converts a foreign file, runs it once, and adds it to the store as the next version of `name`.

    Raises:
        Unreadable: nothing that can be imported.
        StoreBroken: its weights are not the network's.
        ValueError: `name` cannot be one.
    """
    converted = convert(path)
    version = 1 + max((e.manifest.version for e in store.entries() if e.manifest.name == name), default=0)
    manifest = Manifest(
        name=name,
        version=version,
        role="person" if converted.role == "person" else "pose",
        network=converted.network,
        summary=SUMMARIES[converted.network],
        weights=WeightsFile(licence=converted.licence or "unknown", restricted=False),
        options=converted.options,
        input=PRESETS[converted.network],
        data=converted.data,
        training={"origin": converted.origin, "file": converted.file, "sha256": converted.sha256},
        scores=scores,
        joints="coco17" if converted.role == "pose" else "",
    )
    run_once(converted)
    notice = f"{converted.origin}\nLicence: {converted.licence or 'unknown'}\nChanged: {converted.changes}.\n"
    return store.add(manifest, converted.arrays, card(manifest, converted), notice, half=converted.role in HALF)


def run_once(converted: Converted) -> None:
    """One forward pass; its outputs must be numbers."""
    module = create(converted.network, **converted.options).eval()
    load_weights(module, converted.arrays, converted.file)
    with torch.inference_mode():
        outputs = module(torch.zeros(1, 3, converted.height, converted.width))
    for output in outputs if isinstance(outputs, tuple | list) else (outputs,):
        if not np.isfinite(output.numpy()).all():
            raise ValueError(f"{converted.file}: the network answers with values that are not finite")


def card(manifest: Manifest, converted: Converted) -> str:
    """What a person should know before using the model, in Markdown."""
    scores = "".join(f"| {s.protocol} | {s.metric} | {s.value:g} |\n" for s in manifest.scores)
    table = f"\n| protocol | metric | value |\n| --- | --- | --- |\n{scores}" if scores else "\nNot scored yet.\n"
    return f"""# {manifest.label}

{manifest.summary}.

- **Origin**: {converted.origin}.
- **Licence of the weights**: {converted.licence or "unknown: ask their publisher"}.
- **Learned from**: {"; ".join(f"{d.name} ({d.licence}: {d.terms})" for d in converted.data) or "unknown"}.
- **Changed here**: {converted.changes}.
- **File**: {converted.file}, SHA-256 {converted.sha256}.

## Scores
{table}"""
