"""Checkpoints that torch saved, into our networks' weights: HRNet, PoseFormer, VideoPose3D, torchvision's finders.

A checkpoint is a pickle: it is read without running anything of it, and one that asks for anything to be run is
refused by that name. Knows no store. Arrays are float32 (counters int64), named as in `service.networks`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from service.errors import Unreadable
from service.networks import create

from .pickles import look

State = Mapping[str, Tensor]
Arrays = dict[str, np.ndarray]

# What training scripts save beside their weights and nothing here looks at: arrays of joint colours, random states.
# They become empty objects; no code of numpy's runs.
IGNORED = (
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "numpy.random.__RandomState_ctor",
    *(f"numpy.random._pickle.{name}" for name in ("__randomstate_ctor", "__bit_generator_ctor", "__generator_ctor")),
    *(f"numpy.random._mt19937.{name}" for name in ("MT19937", "__bit_generator_ctor")),
)
# What tensors are made of: torch reads these itself, and runs nothing else.
PLAIN = re.compile(
    r"collections\.(OrderedDict|defaultdict|Counter)|_codecs\.encode|torch\.(\w+Storage|Size|device|bool|(b?float|q?u?int|complex)\w*)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.\w+"
    r"|torch\.storage\.\w+Storage|torch\.serialization\._get_layout|" + "|".join(map(re.escape, IGNORED))
)
PROTOCOL = 2  # of the pickles that torch writes, and reads without running anything
# Under which of a checkpoint's entries the weights lie; the official HRNet's training checkpoints have several.
ENTRIES = ("state_dict", "model_pos", "best_state_dict", "model")
WRAPPINGS = ("module.", "model.")
COUNTER = "num_batches_tracked"
NAMED = 3  # keys that a message names, of each kind of mistake

# Of HRNet: what a backbone and the pose network have in common.
BACKBONE = re.compile(r"(conv[12]|bn[12]|layer1|transition[123]|stage[234])\.")
ONLY_BACKBONE = re.compile(r"stage4\.2\.fuse_layers\.[123]\.")  # the pose network fuses no lower branch there
HRNETS = {32: "hrnet-w32", 48: "hrnet-w48"}


@dataclass(frozen=True)
class Checkpoint:
    """A file's weights by our names.

    role: person, pose, lift; start: a backbone without a head, from which a training may start and nothing is served.
    network, options: for `networks.create`.
    preset: of preprocessing and decoding, a key of `entry.PRESETS`.
    size: width and height in pixels of the input that it was trained at; a lifter has none.
    """

    role: Literal["person", "pose", "lift", "start"]
    network: str
    arrays: Arrays
    preset: str
    changes: str
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None


class _Nothing:
    """Stands for an object of a checkpoint that nobody looks at."""

    def __new__(cls, *_: object) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def read_checkpoint(path: Path) -> Checkpoint:
    """The weights of a file that `torch.save` wrote, told by their names.

    Raises:
        Unreadable: it holds code, is no such file, holds no network that is known here, or its weights are not the
            network's; the message names what is wrong.
    """
    state = {_unwrapped(name): value for name, value in _state(_load(path), path).items()}
    for mark, form in FORMS:
        if any(mark.fullmatch(name) for name in state):
            return form(state, path)
    some = ", ".join(f"`{name}`" for name in list(state)[:NAMED])
    known = "HRNet, PoseFormer, VideoPose3D or torchvision detector"
    raise Unreadable(f"{path.name} holds no {known}: its weights are called {some}, ...")


def _load(path: Path) -> Any:
    try:
        # What torch warns of (a protocol, a form of file) is said here in the error, or does no harm.
        with warnings.catch_warnings(), torch.serialization.safe_globals([(_Nothing, name) for name in IGNORED]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the decoders' errors are of many kinds
        raise Unreadable(f"{path.name} {_refusal(error, path)}") from error


def _refusal(error: Exception, path: Path) -> str:
    """Why a file is not read: what it would run, by name, or else what it is."""
    if not path.is_file():
        return "is not there"
    if not path.stat().st_size:
        return "is empty"
    looked = look(path)
    if looked.text:
        with path.open("rb") as file:
            begins = file.read(60).decode("utf-8", "replace").split("\n")[0].strip()
        return f"is no file of weights that torch saved: it is text and begins with {begins!r}"
    if looked.program:
        return "is a program of torch.jit, which is not run: save its state_dict() with torch.save instead"
    code = re.search(r"GLOBAL (\S+)", str(error))
    asked = code[1] if code else next((name for name in looked.names if not PLAIN.fullmatch(name)), None)
    if asked is not None:
        return f"asks to run `{asked}` when it is read, which weights do not need; it was not run"
    if looked.whole and looked.protocol > PROTOCOL:
        return f"is pickled by protocol {looked.protocol}, but only torch.save's own, {PROTOCOL}, is read: save it anew"
    return f"is no file of weights that torch saved: {_reason(error)}"


def _reason(error: Exception) -> str:
    """What torch says is wrong, without its advice to trust the file and run it."""
    text = str(error).strip()
    if match := re.search(r"WeightsUnpickler error: ([^\n]+)", text):
        return match[1]
    first = text.split("\n")[0].split(". ")[0]
    advice = re.search("weights.only", first, re.IGNORECASE) or isinstance(error, KeyError)
    return type(error).__name__ if advice or not first else first


def _state(saved: Any, path: Path) -> State:
    """The names and tensors, whichever entry they lie under."""
    for entry in ENTRIES:
        if isinstance(saved, Mapping) and isinstance(saved.get(entry), Mapping):
            saved = saved[entry]
            break
    if not isinstance(saved, Mapping) or not saved:
        raise Unreadable(f"{path.name} holds no weights, neither by name nor under {', '.join(ENTRIES)}")
    for name, value in saved.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise Unreadable(f"{path.name}: `{name}` is no weight but {type(value).__name__}")
    return saved


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPINGS):
        name = name.split(".", 1)[1]
    return name


def _hrnet(state: State, path: Path) -> Checkpoint:
    """Official and AlphaPose's (the same names), MMPose's (backbone and head apart), or an ImageNet backbone."""
    mmpose = any(name.startswith("backbone.") for name in state)
    names = {re.sub(r"^(backbone|keypoint_head|head)\.", "", name): value for name, value in state.items()}
    width = _first(names, "transition1.0.0.weight")
    if width not in HRNETS:
        widths = ", ".join(map(str, HRNETS))
        raise Unreadable(
            f"{path.name}: an HRNet's branch 0 has {widths} channels, this one's has {width or 'no weight'}"
        )
    head = {name for name in names if name.startswith("final_layer.")}
    if not head or any(name.startswith(("classifier.", "incre_modules.")) for name in names):
        kept = {n: v for n, v in names.items() if BACKBONE.match(n) and not ONLY_BACKBONE.match(n)}
        arrays = _matched(kept, HRNETS[width], {}, path, without=("final_layer.",))
        return Checkpoint("start", HRNETS[width], arrays, "official", "only what the pose network shares was read")
    arrays = _matched(names, HRNETS[width], {}, path)
    changes = "weights renamed" if mmpose else "nothing but the file's form"
    return Checkpoint("pose", HRNETS[width], arrays, "mmpose" if mmpose else "official", changes)


def _first(state: State, name: str) -> int:
    """Length of a weight's first axis; 0 where there is none."""
    return state[name].shape[0] if name in state and state[name].ndim else 0


def _poseformer(state: State, path: Path) -> Checkpoint:
    temporal, spatial = state.get("Temporal_pos_embed"), state["Spatial_pos_embed"]
    if temporal is None or temporal.ndim != 3 or spatial.ndim != 3:
        raise Unreadable(f"{path.name}: a PoseFormer's position embeddings, spatial and temporal, have 3 axes each")
    options = {
        "frames": temporal.shape[1],
        "width": spatial.shape[2],
        "depth": sum(name.startswith("blocks.") and name.endswith(".attn.qkv.weight") for name in state),
        "head": "weighted_mean",
    }
    arrays = _matched(state, "lifter", options, path)
    return Checkpoint("lift", "lifter", arrays, "published-lifter", "nothing but the file's form", options)


def _videopose(state: State, path: Path) -> Checkpoint:
    """Official, or MMPose's: convolution and norm in one module, blocks of two of them, the last layer as a head."""
    renamed = {_videopose_name(name): value for name, value in state.items()}
    blocks = sum(re.fullmatch(r"layers_conv\.\d+\.weight", name) is not None for name in renamed) // 2
    options = {"frames": 3 ** (blocks + 1), "channels": _first(renamed, "expand_conv.weight")}
    changes = "nothing but the file's form" if renamed.keys() == state.keys() else "weights renamed"
    arrays = _matched(renamed, "videopose3d", options, path)
    return Checkpoint("lift", "videopose3d", arrays, "published-lifter", changes, options)


def _videopose_name(name: str) -> str:
    if match := re.fullmatch(r"backbone\.expand_conv\.(conv|bn)\.(\w+)", name):
        return f"expand_{match[1]}.{match[2]}"
    if match := re.fullmatch(r"backbone\.tcn_blocks\.(\d+)\.conv([12])\.0\.(conv|bn)\.(\w+)", name):
        return f"layers_{match[3]}.{2 * int(match[1]) + int(match[2]) - 1}.{match[4]}"
    if match := re.fullmatch(r"(?:keypoint_)?head\.conv\.(\w+)", name):
        return f"shrink.{match[1]}"
    return name


def _torchvision(state: State, path: Path) -> Checkpoint:
    """Torchvision's detectors, all of whose classes were trained; the person's alone is answered."""
    if "head.classification_head.module_list.0.0.0.weight" in state:
        network = "ssdlite320-mobilenet"
    elif "head.regression_head.bbox_ctrness.weight" in state:
        network = "fcos-resnet50"
    elif "backbone.body.conv1.weight" in state:
        network = "fasterrcnn-resnet50-v2"
    else:
        # Two networks of the same weights, which look at pictures of two sizes: the published name alone tells.
        network = "fasterrcnn-mobilenet-320" if "320" in path.name else "fasterrcnn-mobilenet"
    arrays = _matched(state, network, {}, path)
    # The side is not theirs, which take any; it is what they are tried with.
    return Checkpoint("person", network, arrays, "torchvision", "nothing but the file's form", size=(320, 320))


FORMS: tuple[tuple[re.Pattern[str], Callable[[State, Path], Checkpoint]], ...] = (
    (re.compile(r"Spatial_pos_embed"), _poseformer),
    (re.compile(r"(backbone\.expand_conv\.conv|expand_conv)\.weight"), _videopose),
    (
        re.compile(
            r"roi_heads\.box_predictor\.cls_score\.weight|head\.regression_head\.bbox_ctrness\.weight"
            r"|head\.classification_head\.module_list\.0\.0\.0\.weight"
        ),
        _torchvision,
    ),
    (re.compile(r"(backbone\.)?stage4\.0\.branches\.0\.0\.conv1\.weight"), _hrnet),
)


def _matched(state: State, network: str, options: dict[str, Any], path: Path, without: tuple[str, ...] = ()) -> Arrays:
    """The tensors as arrays, if they are the network's by name and shape but for those that begin with `without`."""
    try:
        with torch.device("meta"):
            wanted = create(network, **options).state_dict()
    except (ValueError, RuntimeError, OverflowError) as error:  # torch refuses absurd sizes in its own ways
        raise Unreadable(f"{path.name}: no {network} of ours has its sizes, {options}: {error}") from error
    shapes = {name: tuple(value.shape) for name, value in wanted.items() if not name.startswith(without or ("\0",))}
    # Checkpoints from before torch counted batches lack the counters, which nothing that is served reads.
    missing = [name for name in shapes if name not in state and not name.endswith(COUNTER)]
    unexpected = [name for name in state if name not in shapes]
    found = {name: tuple(state[name].shape) for name in shapes if name in state}
    misshaped = {name: f"{shape} for {shapes[name]}" for name, shape in found.items() if shape != shapes[name]}
    wrong = []
    for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", list(misshaped))):
        if names:
            some = ", ".join(f"`{name}` {misshaped.get(name, '')}".strip() for name in names[:NAMED])
            wrong.append(f"{len(names)} {what} ({some}{', ...' if len(names) > NAMED else ''})")
    if wrong:
        raise Unreadable(f"{path.name} is not {network} as we have it: {'; '.join(wrong)}")
    return {name: _array(state.get(name), name, path) for name in shapes}


def _array(tensor: Tensor | None, name: str, path: Path) -> np.ndarray:
    if tensor is None:
        return np.zeros((), np.int64)
    if tensor.is_sparse or tensor.is_quantized or tensor.is_complex():
        raise Unreadable(f"{path.name}: `{name}` is of a kind that weights here do not have: {tensor.dtype}")
    array: np.ndarray = tensor.detach().to(torch.int64 if name.endswith(COUNTER) else torch.float32).numpy()
    return array
