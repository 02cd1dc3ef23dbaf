"""Which importer reads a file, and what is known of where the file comes from.

A file is told by its suffix, and by its structure while it is read. Writes nothing: `Converted` holds what a store
entry needs of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.errors import Unreadable
from service.store.manifest import DataSource

from .graphs import read_rtmdet, read_tinypose

UNKNOWN_ORIGIN = "unknown: not one of the published files"


@dataclass(frozen=True)
class Converted:
    """A foreign file in our terms."""

    role: str  # person, pose
    network: str  # for `networks.create`, with `options`
    options: dict[str, object]
    arrays: dict[str, np.ndarray]  # by the names of the network's weights; float32, counters int64
    width: int  # of the input that the weights were trained at, in pixels
    height: int
    file: str  # the name of the file that held the weights
    sha256: str  # of that file
    origin: str  # who made the weights and where they lay
    licence: str  # of the weights, as their publisher states it; "" where the file is not a known one
    data: tuple[DataSource, ...]  # what they learned from; empty likewise
    changes: str  # what the conversion changed


@dataclass(frozen=True)
class _Kind:
    """One kind of file that can be imported."""

    suffix: str
    weights_suffix: str  # of the file that holds the weights
    what: str
    read: Callable[[Path], dict[str, np.ndarray]]
    role: str
    network: str
    width: int
    height: int
    changes: str


KINDS = (
    _Kind(
        suffix=".xml",
        weights_suffix=".bin",
        what="PP-TinyPose as OpenVINO IR (.xml, its .bin beside it)",
        read=read_tinypose,
        role="pose",
        network="lite-hrnet",
        width=192,
        height=256,
        changes="weights renamed; each folded convolution given a batch norm that adds its bias; argmax left out",
    ),
    _Kind(
        suffix=".onnx",
        weights_suffix=".onnx",
        what="RTMDet-nano as ONNX (.onnx)",
        read=read_rtmdet,
        role="person",
        network="rtmdet-nano",
        width=320,
        height=320,
        changes="weights renamed",
    ),
)


@dataclass(frozen=True)
class _Origin:
    made_by: str
    licence: str
    data: tuple[DataSource, ...]


COCO = DataSource("COCO train2017", "CC-BY-4.0", "annotations; photos under Flickr's terms")
# The published files, by the SHA-256 of the one that holds the weights. The licence is what the makers state.
ORIGINS = {
    "b16cdb387b96f431c4e0052a8f1c5344bb5cc7c71cc14e245be260624968e462": _Origin(
        "PP-TinyPose 256x192, copyright PaddlePaddle Authors (PaddleDetection); carried by the GitHub repository"
        " guojin-yan/Csharp_and_OpenVINO_deploy_PP-TinyPose at 0f6a484, model/tinypose_256_192/ir_fp16",
        "Apache-2.0",
        (COCO, DataSource("AI Challenger", "research terms", "research only, as its publisher states")),
    ),
    "3ffba1489bb1cd4e4744f505f6423e2173c188795860e94c0fe9937ab6133a0f": _Origin(
        "RTMDet-nano, one class, copyright OpenMMLab (RTMPose project); carried by the GitHub repository"
        " zhouweigogogo/RTMPose-NCNN at 2545bbb, rtmpose/models/rtmdet-nano.onnx",
        "Apache-2.0",
        (COCO, DataSource("Objects365", "CC-BY-4.0", "photos under their owners' terms")),
    ),
}


def convert(path: Path) -> Converted:
    """Reads a foreign file.

    Raises:
        Unreadable: there is no such file, it is of no kind that is read, or its graph is not the one expected.
        SettingWrong: a package that reads it is not installed.
    """
    kind = next((kind for kind in KINDS if kind.suffix == path.suffix.lower()), None)
    if kind is None:
        readable = "; ".join(each.what for each in KINDS)
        raise Unreadable(f"{path.name} is of no kind that can be imported. Read are: {readable}")
    if not path.is_file():
        raise Unreadable(f"there is no file {path}")
    arrays = kind.read(path)
    weights = path.with_suffix(kind.weights_suffix) if kind.suffix != kind.weights_suffix else path
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    origin = ORIGINS.get(digest, _Origin(UNKNOWN_ORIGIN, "", ()))
    return Converted(
        role=kind.role,
        network=kind.network,
        options={},
        arrays=arrays,
        width=kind.width,
        height=kind.height,
        file=weights.name,
        sha256=digest,
        origin=origin.made_by,
        licence=origin.licence,
        data=origin.data,
        changes=kind.changes,
    )
