"""The two public graphs into our networks' weights: PP-TinyPose as OpenVINO IR, RTMDet-nano as ONNX.

Nothing more general. Both come with their batch norms folded. Knows no store; every array it gives is float32 (counters
int64) and bears the name of a weight of `service.networks`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from torch import nn

from service.errors import SettingWrong, Unreadable
from service.networks import create
from service.networks.lite_hrnet import ConvNorm

Arrays = dict[str, np.ndarray]

NORM_NAME = re.compile(r"batch_norm2d_(\d+)\b")
ELEMENT_TYPES: dict[str | None, np.dtype[np.floating]] = {"f16": np.dtype("<f2"), "f32": np.dtype("<f4")}


def read_tinypose(path: Path) -> Arrays:
    """The weights of `lite-hrnet` from the .xml of an OpenVINO IR and the .bin beside it.

    The file's order is not that of execution; the bias additions' numbers are, and they are the order of our modules.
    Every convolution gets a batch norm back that does nothing but add the folded bias.

    Raises:
        Unreadable: not that graph, or a part of it is missing.
    """
    numbered = {}
    try:
        graph = _IR(path)
        for layer, name in graph.names("Add"):
            if match := NORM_NAME.match(name):
                numbered[int(match[1])] = graph.convolution(layer)
        last = [graph.convolution(layer) for layer, name in graph.names("Add") if graph.adds_last_bias(layer, name)]
    except (KeyError, IndexError, ValueError) as error:
        raise Unreadable(f"{path.name} is not a whole OpenVINO IR: {error!r}") from error

    network = create("lite-hrnet")
    pairs = [(name, module) for name, module in network.named_modules() if isinstance(module, ConvNorm)]
    if sorted(numbered) != list(range(len(pairs))) or len(last) != 1:
        raise Unreadable(
            f"{path.name}: PP-TinyPose has {len(pairs)} convolutions with a `batch_norm2d_` addition and one without,"
            f" this graph has {len(numbered)} and {len(last)}"
        )
    arrays: Arrays = {}
    for number, (name, module) in enumerate(pairs):
        weight, bias = numbered[number]
        channels = len(bias)
        arrays[f"{name}.conv.weight"] = weight
        arrays[f"{name}.bn.weight"] = np.ones(channels, np.float32)
        arrays[f"{name}.bn.bias"] = bias
        arrays[f"{name}.bn.running_mean"] = np.zeros(channels, np.float32)
        arrays[f"{name}.bn.running_var"] = np.full(channels, 1.0 - module.bn.eps, np.float32)
        arrays[f"{name}.bn.num_batches_tracked"] = np.zeros((), np.int64)
    arrays["head.last.weight"], arrays["head.last.bias"] = last[0]
    return _checked(network, arrays, path)


class _IR:
    """As much of an OpenVINO IR (version 11) as a graph of convolutions with biases needs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            root = ElementTree.parse(path).getroot()
        except ElementTree.ParseError as error:
            raise Unreadable(f"{path.name} is not XML: {error}") from error
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise Unreadable(f"{weights.name} must lie beside {path.name}: it holds the weights")
        self._bytes = weights.read_bytes()
        self._layers = {layer.get("id", ""): layer for layer in root.iterfind("layers/layer")}
        self._inputs: dict[str, list[str]] = defaultdict(list)
        for edge in sorted(root.iterfind("edges/edge"), key=lambda edge: int(edge.get("to-port", "0"))):
            self._inputs[edge.get("to-layer", "")].append(edge.get("from-layer", ""))

    def names(self, kind: str) -> list[tuple[str, str]]:
        """(id, name) of every layer of a kind."""
        return [(key, layer.get("name", "")) for key, layer in self._layers.items() if layer.get("type") == kind]

    def adds_last_bias(self, layer: str, name: str) -> bool:
        kinds = {self._kind(key) for key in self._inputs[layer]}
        return "Convolution" in kinds and bool(kinds & {"Const", "Convert", "Reshape"}) and not NORM_NAME.match(name)

    def convolution(self, addition: str) -> tuple[np.ndarray, np.ndarray]:
        """Weight (out, in of a group, k, k) and bias (out,) of the convolution that an addition completes."""
        sources = sorted(self._inputs[addition], key=lambda key: "Convolution" not in self._kind(key))
        if len(sources) != 2 or self._kind(sources[0]) not in ("Convolution", "GroupConvolution"):
            raise Unreadable(f"{self._path.name}: layer {addition} does not add a bias to a convolution")
        weight = self._constant(self._inputs[sources[0]][1])
        if weight.ndim == 5:  # depthwise ones are (groups, out of a group, in of a group, k, k)
            weight = weight.reshape(-1, *weight.shape[2:])
        return weight, self._constant(sources[1]).reshape(-1)

    def _kind(self, layer: str) -> str:
        return self._layers[layer].get("type", "")

    def _constant(self, layer: str) -> np.ndarray:
        while self._kind(layer) in ("Convert", "Reshape"):
            layer = self._inputs[layer][0]
        data = self._layers[layer].find("data")
        kind = None if data is None else data.get("element_type")
        if data is None or self._kind(layer) != "Const" or kind not in ELEMENT_TYPES:
            raise Unreadable(f"{self._path.name}: layer {layer} is no constant of f16 or f32")
        offset, size = int(data.get("offset", "0")), int(data.get("size", "0"))
        if offset + size > len(self._bytes):
            end = f"byte {offset + size} of {self._path.with_suffix('.bin').name}"
            raise Unreadable(f"{self._path.name}: layer {layer} ends at {end}, which has {len(self._bytes)}")
        shape = [int(side) for side in data.get("shape", "").split(",") if side.strip()]
        values = np.frombuffer(self._bytes[offset : offset + size], ELEMENT_TYPES[kind])
        if values.size != int(np.prod(shape)):
            raise Unreadable(f"{self._path.name}: layer {layer} is {shape}, and has {values.size} values")
        return values.reshape(shape).astype(np.float32)


def read_rtmdet(path: Path) -> Arrays:
    """The weights of `rtmdet-nano` from an ONNX file, whose node names are the modules' paths.

    Raises:
        SettingWrong: the `onnx` package, which reads such files, is not installed.
        Unreadable: not that graph, or a part of it is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise SettingWrong("reading an ONNX file needs the package `onnx`: pip install 'poselift[train]'") from error
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # the decoder's error is of a package that `onnx` does not name
        raise Unreadable(f"{path.name} is not ONNX: {error}") from error
    constants = {tensor.name: tensor for tensor in graph.initializer}
    arrays: Arrays = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        name = module_path(node.name)
        if len(node.input) != 3 or not all(source in constants for source in node.input[1:]):
            raise Unreadable(f"{path.name}: convolution {node.name} needs a weight and a bias that are constants")
        for part, source in zip(("weight", "bias"), node.input[1:], strict=True):
            arrays[f"{name}.{part}"] = np.array(onnx.numpy_helper.to_array(constants[source]), np.float32)
    return _checked(create("rtmdet-nano"), arrays, path)


def module_path(node: str) -> str:
    """A node's name in torch's export to the module's path in the network.

    `/model/neck/out_convs.0/depthwise_conv/conv/Conv` is `neck.out_convs.0.depthwise_conv.conv`; a member of a sequence
    repeats the sequence's name (`stem/stem.0`), and the head's parts stand without the head's name.
    """
    parts = [part for part in node.split("/") if part]
    if parts and parts[0] == "model":
        parts = parts[1:]
    parts = parts[:-1]
    kept = [part for part, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(f"{part}.")]
    if kept and kept[0].startswith(("cls_convs.", "reg_convs.", "rtm_cls.", "rtm_reg.")):
        kept.insert(0, "bbox_head")
    return ".".join(kept)


def _checked(network: nn.Module, arrays: Arrays, path: Path) -> Arrays:
    """The same arrays, if they are exactly the network's by name and shape."""
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: value.shape for key, value in arrays.items()}
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            raise Unreadable(
                f"{path.name}: `{key}` is {found.get(key, 'missing')}, the network has {wanted.get(key, 'none')}"
            )
    return arrays
