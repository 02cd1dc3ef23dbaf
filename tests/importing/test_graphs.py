"""The importers, on small files of the published form made from networks of ours with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from service.errors import Unreadable
from service.importing.graphs import module_path, read_rtmdet, read_tinypose
from service.networks import create, load_weights
from service.networks.lite_hrnet import ConvNorm


def test_an_imported_detector_gives_the_heatmaps_of_the_folded_one(
    tmp_path: Path, write_ir: Callable[..., None], detector: nn.Module
) -> None:
    write_ir(detector, tmp_path / "pose.xml")
    imported = create("lite-hrnet")
    load_weights(imported, read_tinypose(tmp_path / "pose.xml"), "pose.xml")
    crops = torch.randn(2, 3, 64, 64)
    expected = detector(crops)
    with torch.inference_mode():
        torch.testing.assert_close(imported.eval()(crops), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_16_bit_weights_come_as_they_are_in_32(
    tmp_path: Path,
    write_ir: Callable[..., None],
    fold: Callable[[ConvNorm], tuple[np.ndarray, np.ndarray]],
    detector: nn.Module,
) -> None:
    write_ir(detector, tmp_path / "pose.xml", element="f16")
    arrays = read_tinypose(tmp_path / "pose.xml")
    assert {key: value.dtype for key, value in arrays.items() if value.dtype != np.float32}.keys() == {
        key for key in arrays if key.endswith("num_batches_tracked")
    }
    weight, bias = fold(detector.get_submodule("stem.entry"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(arrays["stem.entry.conv.weight"], weight.astype(np.float16))
    np.testing.assert_array_equal(arrays["stem.entry.bn.bias"], bias.astype(np.float16))


def test_a_graph_of_fewer_convolutions_is_refused_with_both_counts(
    tmp_path: Path, write_ir: Callable[..., None], detector: nn.Module
) -> None:
    write_ir(detector, tmp_path / "pose.xml", convolutions=100)
    with pytest.raises(Unreadable, match=r"pose.xml: PP-TinyPose has 268 .* this graph has 100 and 1"):
        read_tinypose(tmp_path / "pose.xml")


def test_a_graph_of_other_shapes_is_refused_by_the_weight(tmp_path: Path, write_ir: Callable[..., None]) -> None:
    network = create("lite-hrnet")
    network.requires_grad_(False).get_submodule("head").add_module("last", nn.Conv2d(40, 21, 1).requires_grad_(False))
    write_ir(network, tmp_path / "pose.xml")
    with pytest.raises(Unreadable, match=r"pose.xml: `head.last.bias` is \(21,\), the network has \(17,\)"):
        read_tinypose(tmp_path / "pose.xml")


def test_weights_cut_short_are_refused_with_both_lengths(
    tmp_path: Path, write_ir: Callable[..., None], detector: nn.Module
) -> None:
    write_ir(detector, tmp_path / "pose.xml")
    whole = (tmp_path / "pose.bin").read_bytes()
    (tmp_path / "pose.bin").write_bytes(whole[:1000])
    with pytest.raises(Unreadable, match=r"of pose.bin, which has 1000"):
        read_tinypose(tmp_path / "pose.xml")


def test_a_graph_without_its_weights_beside_it_is_refused(
    tmp_path: Path, write_ir: Callable[..., None], detector: nn.Module
) -> None:
    write_ir(detector, tmp_path / "pose.xml")
    (tmp_path / "pose.bin").unlink()
    with pytest.raises(Unreadable, match=r"pose.bin must lie beside pose.xml"):
        read_tinypose(tmp_path / "pose.xml")


@pytest.mark.parametrize("text", ["", "not xml", "<net><layers>", "<net/>", "<html></html>"])
def test_what_is_no_graph_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "pose.xml").write_text(text)
    (tmp_path / "pose.bin").write_bytes(b"")
    with pytest.raises(Unreadable, match=r"pose.xml"):
        read_tinypose(tmp_path / "pose.xml")


def test_an_imported_finder_gives_the_outputs_of_the_original(tmp_path: Path, write_onnx: Callable[..., None]) -> None:
    original = create("rtmdet-nano").eval()
    write_onnx(original, tmp_path / "finder.onnx")
    imported = create("rtmdet-nano").eval()
    load_weights(imported, read_rtmdet(tmp_path / "finder.onnx"), "finder.onnx")
    picture = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, theirs in zip(imported(picture), original(picture), strict=True):
            assert torch.equal(ours, theirs)


def test_a_finder_that_lacks_a_convolution_is_refused_by_the_weight(
    tmp_path: Path, write_onnx: Callable[..., None]
) -> None:
    write_onnx(create("rtmdet-nano"), tmp_path / "finder.onnx", without="neck.reduce_layers.0.conv")
    with pytest.raises(Unreadable, match=r"finder.onnx: `neck.reduce_layers.0.conv.bias` is missing"):
        read_rtmdet(tmp_path / "finder.onnx")


@pytest.mark.parametrize("body", [b"", b"not onnx at all", b"\xff" * 64])
def test_what_is_no_onnx_is_refused_by_name(tmp_path: Path, body: bytes) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "finder.onnx").write_bytes(body)
    with pytest.raises(Unreadable, match=r"finder.onnx"):
        read_rtmdet(tmp_path / "finder.onnx")


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("/model/backbone/stem/stem.0/conv/Conv", "backbone.stem.0.conv"),
        (
            "/model/backbone/stage4/stage4.2/blocks/blocks.0/conv1/depthwise_conv/conv/Conv",
            "backbone.stage4.2.blocks.0.conv1.depthwise_conv.conv",
        ),
        ("/model/backbone/stage1/stage1.1/attention/fc/Conv", "backbone.stage1.1.attention.fc"),
        ("/model/neck/out_convs.2/pointwise_conv/conv/Conv", "neck.out_convs.2.pointwise_conv.conv"),
        ("/model/cls_convs.1.0/depthwise_conv/conv/Conv", "bbox_head.cls_convs.1.0.depthwise_conv.conv"),
        ("/model/rtm_reg.2/Conv", "bbox_head.rtm_reg.2"),
    ],
)
def test_a_node_name_tells_the_module(node_name: Callable[[str], str], node: str, module: str) -> None:
    assert module_path(node) == module
    assert node_name(module) == node
