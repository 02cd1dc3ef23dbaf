"""Which file is read as what."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from service.errors import Unreadable
from service.importing.recognise import UNKNOWN_ORIGIN, convert
from service.networks import create, load_weights


def test_an_openvino_graph_becomes_a_detector(
    tmp_path: Path, write_ir: Callable[..., None], detector: nn.Module
) -> None:
    write_ir(detector, tmp_path / "Pose.XML")
    converted = convert(tmp_path / "Pose.XML")
    assert (converted.role, converted.network, converted.width, converted.height) == ("pose", "lite-hrnet", 192, 256)
    load_weights(create(converted.network, **converted.options), converted.arrays, converted.file)
    assert converted.file == "Pose.bin"
    assert converted.sha256 == hashlib.sha256((tmp_path / "Pose.bin").read_bytes()).hexdigest()


def test_an_onnx_graph_becomes_a_finder(tmp_path: Path, write_onnx: Callable[..., None]) -> None:
    write_onnx(create("rtmdet-nano"), tmp_path / "finder.onnx")
    converted = convert(tmp_path / "finder.onnx")
    assert (converted.role, converted.network, converted.file) == ("person", "rtmdet-nano", "finder.onnx")
    load_weights(create(converted.network, **converted.options), converted.arrays, converted.file)


def test_a_file_that_nobody_published_claims_no_licence(
    tmp_path: Path, write_ir: Callable[..., None], detector: nn.Module
) -> None:
    write_ir(detector, tmp_path / "pose.xml")
    converted = convert(tmp_path / "pose.xml")
    assert (converted.origin, converted.licence, converted.data) == (UNKNOWN_ORIGIN, "", ())


@pytest.mark.parametrize("name", ["weights.h5", "pose.tflite", "noname"])
def test_a_kind_that_is_not_read_is_refused_with_those_that_are(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(Unreadable, match=rf"{name} .*PP-TinyPose as OpenVINO IR \(.xml.*RTMDet-nano as ONNX \(.onnx\)"):
        convert(tmp_path / name)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"no file .*finder.onnx"):
        convert(tmp_path / "finder.onnx")
