"""Files of the published form, made from networks of ours with random weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from torch import nn

from service.networks import create
from service.networks.lite_hrnet import ConvNorm

LISTS = ("reduce_layers", "top_down_blocks", "downsamples", "bottom_up_blocks", "out_convs")


def random_detector() -> nn.Module:
    network = create("lite-hrnet")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval().requires_grad_(False)


def folded(pair: ConvNorm) -> tuple[np.ndarray, np.ndarray]:
    norm = pair.bn
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = pair.conv.weight * factor[:, None, None, None]
    if pair.conv.groups > 1:
        weight = weight[:, :, None]  # (C, 1, 1, 3, 3)
    return weight.numpy(), (norm.bias - norm.running_mean * factor).numpy()


class IRWriter:
    """Layers, edges and bytes of an OpenVINO IR, as far as an importer looks."""

    def __init__(self, element: str) -> None:
        self.element = element
        self.layers: list[ElementTree.Element] = []
        self.edges: list[tuple[int, int, int]] = []  # from, to, port
        self.bytes = b""

    def layer(self, kind: str, name: str, inputs: tuple[int, ...] = (), **attributes: str) -> int:
        element = ElementTree.Element("layer", id=str(len(self.layers)), name=name, type=kind)
        if attributes:
            ElementTree.SubElement(element, "data", attributes)
        self.layers.append(element)
        for port, source in enumerate(inputs):
            self.edges.append((source, len(self.layers) - 1, port))
        return len(self.layers) - 1

    def constant(self, values: np.ndarray) -> int:
        raw = values.astype("<f2" if self.element == "f16" else "<f4").tobytes()
        start, self.bytes = len(self.bytes), self.bytes + raw
        shape = ", ".join(map(str, values.shape))
        name = f"c{len(self.layers)}"
        constant = self.layer(
            "Const", name, element_type=self.element, offset=str(start), size=str(len(raw)), shape=shape
        )
        return self.layer("Convert", f"d{len(self.layers)}", (constant,)) if self.element == "f16" else constant

    def convolution(self, source: int, name: str, weight: np.ndarray, bias: np.ndarray, reshaped: bool = False) -> int:
        kind = "GroupConvolution" if weight.ndim == 5 else "Convolution"
        convolved = self.layer(kind, f"m{len(self.layers)}", (source, self.constant(weight)))
        added = self.constant(bias if reshaped else bias.reshape(1, -1, 1, 1))
        if reshaped:
            added = self.layer("Reshape", f"r{len(self.layers)}", (added, self.constant(np.zeros(4))))
        return self.layer("Add", name, (convolved, added))

    def write(self, path: Path) -> None:
        root = ElementTree.Element("net", name="Model0", version="11")
        ElementTree.SubElement(root, "layers").extend(self.layers)
        edges = ElementTree.SubElement(root, "edges")
        for source, target, port in reversed(self.edges):
            ends = {"from-layer": str(source), "from-port": "0", "to-layer": str(target), "to-port": str(port)}
            ElementTree.SubElement(edges, "edge", ends)
        ElementTree.ElementTree(root).write(path)
        path.with_suffix(".bin").write_bytes(self.bytes)


def write_ir(network: nn.Module, path: Path, element: str = "f32", convolutions: int = 268) -> None:
    writer = IRWriter(element)
    picture = writer.layer("Parameter", "image")
    pairs = [module for module in network.modules() if isinstance(module, ConvNorm)]
    order = list(range(convolutions))
    random.Random(1).shuffle(order)  # the file's order is not that of execution
    ends = [writer.convolution(picture, f"batch_norm2d_{k}.w_1", *folded(pairs[k])) for k in order]
    writer.layer("Add", "elementwise_add_0", (ends[0], ends[1]))  # a fusion's sum is no bias
    last = network.get_submodule("head.last")
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    writer.convolution(ends[0], "conv2d_441.tmp_1", last.weight.numpy(), last.bias.numpy(), reshaped=True)
    writer.write(path)


def node_name(module: str) -> str:
    """As torch's exporter names a module's node: a member of a sequence repeats its name, one of a list does not."""
    parts = module.removeprefix("bbox_head.").split(".")
    if module.startswith("bbox_head."):
        digits = 1 + sum(part.isdigit() for part in parts)
        parts = [".".join(parts[:digits]), *parts[digits:]]
    names: list[str] = []
    for part in parts:
        if part.isdigit() and names[-1] in LISTS:
            names[-1] = f"{names[-1]}.{part}"
        else:
            names.append(f"{names[-1]}.{part}" if part.isdigit() else part)
    return "/" + "/".join(["model", *names, "Conv"])


def write_onnx(network: nn.Module, path: Path, without: str = "") -> None:
    onnx = pytest.importorskip("onnx")
    nodes, constants = [], []
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]
    for name, layer in layers:
        if name == without:
            continue
        assert layer.bias is not None
        for part, values in (("w", layer.weight), ("b", layer.bias)):
            constants.append(onnx.numpy_helper.from_array(values.detach().numpy(), f"{name}.{part}"))
        nodes.append(onnx.helper.make_node("Conv", ["x", f"{name}.w", f"{name}.b"], [name], name=node_name(name)))
        nodes.append(onnx.helper.make_node("Sigmoid", [name], [f"{name}.s"], name=f"{node_name(name)}/Sigmoid"))
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "finder", [], [], constants)), path)


@pytest.fixture(scope="session")
def detector() -> nn.Module:
    return random_detector()


@pytest.fixture(scope="session", name="fold")
def _fold() -> Callable[[ConvNorm], tuple[np.ndarray, np.ndarray]]:
    return folded


@pytest.fixture(scope="session", name="write_ir")
def _write_ir() -> Callable[..., None]:
    return write_ir


@pytest.fixture(scope="session", name="write_onnx")
def _write_onnx() -> Callable[..., None]:
    return write_onnx


@pytest.fixture(scope="session", name="node_name")
def _node_name() -> Callable[[str], str]:
    return node_name
