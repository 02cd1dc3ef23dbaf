"""A converted file becomes an entry of the store: preset, manifest, card, notice; then it runs once.

The presets are what the networks were published with, or what was fitted on labels since; each says which.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.networks import create, load_weights
from service.store.manifest import Manifest, Score, WeightsFile
from service.store.store import IMPORTED, Entry, Store

from .recognise import Converted, PublicFile, convert

# Of the official HRNet; MMPose's is the same, its affine and its quarters being the same arithmetic.
_OFFICIAL: dict[str, Any] = {
    "padding": 1.25,
    "colour": "rgb",
    "mean": [123.675, 116.28, 103.53],
    "deviation": [58.395, 57.12, 57.375],
    "transform": "official",
    "decode": "quarter",
    "stride": 4.0,
    "shift": [0.0, 0.0],
    "flip_shift": 1,
}
# Mean and deviation of 0..255 in the network's own colour order.
PRESETS: dict[str, dict[str, Any]] = {
    "lite-hrnet": {
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
    "official": _OFFICIAL,
    "mmpose": _OFFICIAL,
    # It takes the means of blue, green and red off red, green and blue, and divides by no deviation.
    "alphapose": _OFFICIAL
    | {"transform": "alphapose", "mean": [103.53, 116.535, 122.4], "deviation": [255.0, 255.0, 255.0]},
    "mmpose-udp": _OFFICIAL | {"transform": "udp", "decode": "udp", "blur": 11, "flip_shift": 0},
    # Zhang et al., CVPR 2020, as MMPose has it: the official crop, the peak read from the blurred map's logarithm. Near
    # the map's edge the two differ, by half a cell at 4 cells from it: the blur here repeats the edge, theirs has
    # nothing beyond it.
    "dark": _OFFICIAL | {"decode": "dark", "blur": 11},
    # Torchvision's finders resize and normalise for themselves, and have suppressed already.
    "torchvision": {
        "colour": "rgb",
        "mean": [0.0, 0.0, 0.0],
        "deviation": [255.0, 255.0, 255.0],
        "suppress_iou": 1.0,
    },
    # PoseFormer's and VideoPose3D's: `engines.framing.PublishedLiftFraming`; a window's centre frame alone is answered.
    "published-lifter": {"form": "published", "head": "centre"},
}
WIDE_BLUR = 17  # of UDP's and DARK's decoders where the targets' deviation was 3 cells: from 384 rows on
SUMMARIES = {
    "lite-hrnet": "Lite-HRNet, wide naive form: the family's small detector, for CPUs",
    "rtmdet-nano": "RTMDet-nano, one class: finds people, 4 MB",
    "hrnet-w32": "HRNet-W32, as published: a large detector",
    "hrnet-w48": "HRNet-W48, as published: the largest detector",
    "lifter": "PoseFormer, as published: a lifter by attention, one frame a window",
    "videopose3d": "VideoPose3D, as published: a lifter by convolutions, one frame a window",
    "ssdlite320-mobilenet": "SSDLite320 with MobileNetV3, as torchvision publishes it: a finder for CPUs",
    "fasterrcnn-mobilenet-320": "Faster R-CNN with MobileNetV3 at 320 pixels, as torchvision publishes it: a finder",
    "fasterrcnn-mobilenet": "Faster R-CNN with MobileNetV3, as torchvision publishes it: a finder",
    "fasterrcnn-resnet50-v2": "Faster R-CNN v2 with ResNet-50, as torchvision publishes it: a large finder, for GPUs",
    "fcos-resnet50": "FCOS with ResNet-50, as torchvision publishes it: a large finder",
}
JOINTS = {"person": "", "pose": "coco17", "lift": "h36m17"}
# The finder's 4 MB stay in 32 bits: its distances are hundreds of pixels. Large networks stay as they were published.
HALF = {"lite-hrnet"}
HUMAN36M_LIMIT = (
    "Its joints are those of Human3.6M's markers. Joints made from COCO's 17 (hips, spine, head) lie centimetres"
    " elsewhere, which it was never shown: expect its answers to be off by as much."
)


def import_file(
    path: Path,
    name: str,
    store: Store,
    scores: tuple[Score, ...] = (),
    *,
    preset: str | None = None,
    size: str | None = None,
    row: PublicFile | None = None,
) -> Entry:
    """Converts a foreign file, runs it once, and adds it to the store as the next version of `name`.

    It serves whoever names it, and becomes nobody's default: see `Store.default`. What the file did not tell stands
    under `notes` in the manifest's [training].

    Args:
        scores: measured here; by default those that its publisher states.
        preset, size, row: see `recognise.convert`.

    Raises:
        Unreadable: nothing that can be imported.
        SettingWrong: an option that its network does not have.
        StoreBroken: its weights are not the network's.
        ValueError: `name` cannot be one.
    """
    converted = convert(path, preset, size, row)
    version = 1 + max((e.manifest.version for e in store.entries() if e.manifest.name == name), default=0)
    manifest = Manifest(
        name=name,
        version=version,
        role=converted.role,
        network=converted.network,
        summary=SUMMARIES[converted.network],
        weights=WeightsFile(licence=converted.licence or "unknown", restricted=converted.restricted),
        options=converted.options,
        input=preset_of(converted),
        data=converted.data,
        training={
            "origin": converted.origin,
            "file": converted.file,
            "sha256": converted.sha256,
            IMPORTED: datetime.now(UTC).isoformat(timespec="milliseconds"),
            **({"notes": list(converted.notes)} if converted.notes else {}),
        },
        scores=scores or converted.scores,
        joints=JOINTS[converted.role],
    )
    run_once(converted)
    notice = f"{converted.origin}\nLicence: {converted.licence or 'unknown'}\nChanged: {converted.changes}.\n"
    return store.add(manifest, converted.arrays, card(manifest, converted), notice, half=converted.network in HALF)


def preset_of(converted: Converted) -> dict[str, Any]:
    """The manifest's [input]: how pictures or points become the network's input, and its output people's words."""
    preset = dict(PRESETS[converted.preset])
    if converted.role == "pose":
        preset = {"width": converted.width, "height": converted.height} | preset
    if converted.preset in ("mmpose-udp", "dark") and converted.height >= 384:
        preset["blur"] = WIDE_BLUR
    return preset


def run_once(converted: Converted) -> None:
    """One forward pass; its outputs must be numbers."""
    module = create(converted.network, **converted.options).eval()
    load_weights(module, converted.arrays, converted.file)
    shape: tuple[int, ...] = (1, 3, converted.height, converted.width)
    if converted.role == "lift":
        shape = (1, int(str(converted.options["frames"])), 17, 2)
    with torch.inference_mode():
        outputs = module(torch.zeros(shape))
    for output in outputs if isinstance(outputs, tuple | list) else (outputs,):
        if not np.isfinite(output.numpy()).all():
            raise ValueError(f"{converted.file}: the network answers with values that are not finite")


def card(manifest: Manifest, converted: Converted) -> str:
    """What a person should know before using the model, in Markdown."""
    scores = "".join(f"| {s.protocol} | {s.metric} | {s.value:g} |\n" for s in manifest.scores)
    limits = f"\n## Limits\n{HUMAN36M_LIMIT}\n" if converted.role == "lift" else ""
    table = f"\n| protocol | metric | value |\n| --- | --- | --- |\n{scores}" if scores else "\nNot scored yet.\n"
    told = "".join(f"\n- **Not told by the file**: {note}." for note in converted.notes)
    return f"""# {manifest.label}

{manifest.summary}.

- **Origin**: {converted.origin}.
- **Licence of the weights**: {converted.licence or "unknown: ask their publisher"}.
- **Learned from**: {"; ".join(f"{d.name} ({d.licence}: {d.terms})" for d in converted.data) or "unknown"}.
- **Changed here**: {converted.changes}.{told}
- **File**: {converted.file}, SHA-256 {converted.sha256}.

## Scores
{table}{limits}"""
