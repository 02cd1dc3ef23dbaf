"""Which importer reads a file, and what is known of where the file comes from.

A file is told by its suffix, and by its structure while it is read. Writes nothing: `Converted` holds what a store
entry needs of it.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from service.errors import SettingWrong, Unreadable
from service.store.manifest import PERMISSIVE, DataSource, Role, Score

from .checkpoints import Checkpoint, read_checkpoint
from .graphs import read_rtmdet, read_tinypose

UNKNOWN_ORIGIN = "unknown: not one of the published files"
# Height x width, as published; the weights of an HRNet are the same at every size, so the file cannot tell.
SIZES = {"256x192": (192, 256), "384x288": (288, 384)}
# Preprocessing and decoding of the HRNets: the file cannot tell AlphaPose's from the official, nor UDP's or DARK's.
POSE_PRESETS = ("official", "alphapose", "mmpose", "mmpose-udp", "dark")
# What a file's name says where it says it: MMPose's are `..._dark-8xb64-...`, `..._udp-8xb64-...`.
HINTS = {"dark": "dark", "udp": "mmpose-udp", "alphapose": "alphapose"}


@dataclass(frozen=True)
class Converted:
    """A foreign file in our terms."""

    role: Role
    network: str  # for `networks.create`, with `options`
    options: dict[str, object]
    arrays: dict[str, np.ndarray]  # by the names of the network's weights; float32, counters int64
    width: int  # of the input that the weights were trained at, in pixels; 0 for a lifter
    height: int
    preset: str  # of preprocessing and decoding, a key of `entry.PRESETS`
    file: str  # the name of the file that held the weights
    sha256: str  # of that file
    origin: str  # who made the weights and where they lay
    licence: str  # of the weights, as their publisher states it; "" where the file is not a known one
    restricted: bool  # learned from data that only research may use
    data: tuple[DataSource, ...]  # what they learned from; empty where the file is not a known one
    scores: tuple[Score, ...]  # as their publisher states them; empty likewise
    changes: str  # what the conversion changed
    notes: tuple[str, ...] = ()  # what the file did not tell, and how it was taken


@dataclass(frozen=True)
class _Kind:
    """One kind of file that can be imported."""

    suffixes: tuple[str, ...]
    weights_suffix: str  # of the file beside it that holds the weights; "" where it is the file itself
    what: str
    read: Callable[[Path], Checkpoint]


def _tinypose(path: Path) -> Checkpoint:
    changes = "weights renamed; each folded convolution given a batch norm that adds its bias; argmax left out"
    return Checkpoint("pose", "lite-hrnet", read_tinypose(path), "lite-hrnet", changes, size=(192, 256))


def _rtmdet(path: Path) -> Checkpoint:
    return Checkpoint("person", "rtmdet-nano", read_rtmdet(path), "rtmdet-nano", "weights renamed", size=(320, 320))


KINDS = (
    _Kind((".xml",), ".bin", "PP-TinyPose as OpenVINO IR (.xml, its .bin beside it)", _tinypose),
    _Kind((".onnx",), "", "RTMDet-nano as ONNX (.onnx)", _rtmdet),
    _Kind(
        (".pth", ".pt", ".bin", ".tar", ".pkl"),
        "",
        "HRNet, PoseFormer, VideoPose3D or a torchvision detector as torch saved it (.pth, .pt, .bin, .tar, .pkl)",
        read_checkpoint,
    ),
)


@dataclass(frozen=True)
class PublicFile:
    """Weights that lie on the public internet: a row of `public.toml`.

    sha256: the first digits of the file's digest, as its name has them; "" where its publisher tells none.
    """

    name: str
    address: str
    sha256: str
    preset: str
    size: str  # a key of SIZES; "" for a lifter
    made_by: str
    licence: str
    restricted: bool
    data: tuple[DataSource, ...]
    scores: tuple[Score, ...]

    @property
    def file(self) -> str:
        return self.address.rsplit("/", 1)[1]

    @property
    def permissive(self) -> bool:
        """Whether they may be fetched without a further word."""
        return self.licence in PERMISSIVE and not self.restricted


@cache
def public_files() -> tuple[PublicFile, ...]:
    """The rows of `public.toml`, in its order."""
    text = Path(__file__).with_name("public.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    sources = {name: DataSource(**source) for name, source in table["data"].items()}
    rows = []
    for row in table["files"]:
        scores = tuple(Score(row["protocol"], metric, float(value)) for metric, value in row["scores"].items())
        rows.append(
            PublicFile(
                name=row["name"],
                address=row["address"],
                sha256=row.get("sha256", ""),
                preset=row["preset"],
                size=row.get("size", ""),
                made_by=row["made_by"],
                licence=row["licence"],
                restricted=row["restricted"],
                data=tuple(sources[name] for name in row["data"]),
                scores=scores,
            )
        )
    return tuple(rows)


@dataclass(frozen=True)
class _Origin:
    made_by: str
    licence: str
    data: tuple[DataSource, ...]
    restricted: bool = False
    scores: tuple[Score, ...] = ()


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


def convert(path: Path, preset: str | None = None, size: str | None = None, row: PublicFile | None = None) -> Converted:
    """Reads a foreign file.

    Args:
        preset: of POSE_PRESETS, for an HRNet; by default what its published file, its name or its form says.
        size: of SIZES, likewise.
        row: the public file that it is, where that is known already.

    Raises:
        Unreadable: there is no such file, it is of no kind that is read, its content is not the one expected, or
            nothing that could be served.
        SettingWrong: a package that reads it is not installed, or an option that its network does not have.
    """
    kind = next((kind for kind in KINDS if path.suffix.lower() in kind.suffixes), None)
    if kind is None:
        readable = "; ".join(each.what for each in KINDS)
        raise Unreadable(f"{path.name} is of no kind that can be imported. Read are: {readable}")
    if not path.is_file():
        raise Unreadable(f"there is no file {path}")
    read = kind.read(path)
    if read.role == "start":
        raise Unreadable(
            f"{path.name} is the backbone of an {read.network} without a pose head: a training can start from it,"
            " but it finds no keypoints"
        )
    weights = path.with_suffix(kind.weights_suffix) if kind.weights_suffix else path
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    row = row or next((each for each in public_files() if each.sha256 and digest.startswith(each.sha256)), None)
    origin = _origin(row, digest, read)
    read_preset, (width, height), notes = _told(read, weights.name, preset, size, row)
    return Converted(
        role=read.role,
        network=read.network,
        options=read.options,
        arrays=read.arrays,
        width=width,
        height=height,
        preset=read_preset,
        file=weights.name,
        sha256=digest,
        origin=origin.made_by,
        licence=origin.licence,
        restricted=origin.restricted,
        data=origin.data,
        scores=origin.scores,
        changes=read.changes,
        notes=notes,
    )


def _origin(row: PublicFile | None, digest: str, read: Checkpoint) -> _Origin:
    if row is not None:
        return _Origin(f"{row.made_by}; {row.address}", row.licence, row.data, row.restricted, row.scores)
    # Every lifter of these forms that was ever published learned from Human3.6M.
    return ORIGINS.get(digest, _Origin(UNKNOWN_ORIGIN, "", (), restricted=read.role == "lift"))


def _told(
    read: Checkpoint, name: str, preset: str | None, size: str | None, row: PublicFile | None
) -> tuple[str, tuple[int, int], tuple[str, ...]]:
    """Preset, input size and notes: as asked, else by the published row, else by the file's name and form."""
    if read.preset not in POSE_PRESETS:
        if preset is not None or size is not None:
            raise SettingWrong(f"`--preset` and `--size` are for HRNets, {name} holds a {read.network}", field="preset")
        return read.preset, read.size or (0, 0), ()
    for field, value, known in (("preset", preset, POSE_PRESETS), ("size", size, tuple(SIZES))):
        if value is not None and value not in known:
            raise SettingWrong(f"`--{field}` must be one of {', '.join(known)}, got {value!r}", field=field)
    notes = []
    if preset is None and row is not None:
        preset = row.preset
    elif preset is None:
        preset, note = _guessed(read.preset, name)
        notes.append(note)
    if size is None and row is not None:
        size = row.size
    elif size is None:
        size = next((each for each in SIZES if each in name), "")
        if not size:
            size = next(iter(SIZES))
            notes.append(f"neither the file nor its name tells the input size: taken for {size}; else say `--size`")
    return preset, SIZES[size], tuple(notes)


def _guessed(form: str, name: str) -> tuple[str, str]:
    """A preset for a file whose weights are the same whoever trained them, and what to know of the guess."""
    stem = name.lower()
    for word, preset in HINTS.items():
        if re.search(rf"(?<![a-z]){word}(?![a-z])", stem):
            return preset, f"its name says `{word}`: preset `{preset}`; if that is wrong, say `--preset`"
    if form == "mmpose":
        return form, (
            "taken for MMPose's plain form, peaks read to a quarter: the file cannot tell networks that were trained"
            " for UDP or DARK, which want `--preset mmpose-udp` or `dark`"
        )
    return form, (
        "taken for HRNet's own: the file cannot tell AlphaPose's, which normalises pixels otherwise and wants"
        " `--preset alphapose`, nor UDP's and DARK's (`mmpose-udp`, `dark`); the wrong one costs accuracy silently"
    )
