"""The runtimes against each other: torch is the measure, OpenVINO gives the same numbers."""

from __future__ import annotations

import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.engines.device import Lanes
from service.engines.openvino_engine import bf16_native, openvino_available, openvino_infer
from service.engines.torch_engine import torch_infer
from service.engines.torch_framing import FromPixels
from service.errors import SettingWrong
from service.networks import create

needs_openvino = pytest.mark.skipif(not openvino_available(), reason="the extra `cpu` is not installed")

Pixels = NDArray[np.uint8]


class Small(nn.Module):
    """Two outputs, a batch norm, and a question about the input's sides, as the real ones ask."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[2] % 4:
            raise ValueError("sides must be divisible by 4")
        y = torch.relu(self.norm(self.conv(x)))
        return self.last(y), y.mean((2, 3))


def seeded(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return tried(create(name, **options))


def tried(module: nn.Module) -> nn.Module:
    """The module, its batch norms as if they had seen something: fresh ones do nothing at all."""
    for name, values in module.state_dict().items():
        if name.endswith("running_mean"):
            values.normal_(std=0.1)
        if name.endswith("running_var"):
            values.uniform_(0.5, 1.5)
    return module


def on_pixels(network: nn.Module) -> nn.Module:
    return FromPixels(network, [120.0, 115.0, 100.0], [58.0, 57.0, 56.0], bgr=True)


def small() -> nn.Module:
    torch.manual_seed(0)
    return on_pixels(tried(Small()))


def pixels(count: int, height: int = 16, width: int = 24) -> Pixels:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def assert_equal(given: list[NDArray[Any]], wanted: list[NDArray[Any]], tolerance: float = 1e-4) -> None:
    """Equal to `tolerance` of each output's size."""
    assert len(given) == len(wanted)
    for one, other in zip(given, wanted, strict=True):
        assert one.dtype == other.dtype == np.float32
        size = float(np.abs(other).max())
        assert size > 0.01
        np.testing.assert_allclose(one, other, atol=tolerance * size, rtol=0)


# ---- torch


def test_torch_answers_what_the_module_answers() -> None:
    module = small()
    given = pixels(3)
    with torch.no_grad():
        wanted = [output.numpy() for output in module.eval()(torch.from_numpy(given))]
    assert_equal(torch_infer(module, "cpu", "f32", 1)(given), wanted, 1e-6)


def test_torch_batched_equals_single() -> None:
    infer = torch_infer(small(), "cpu", "f32", 1)
    given = pixels(5)
    singles = [np.concatenate(each) for each in zip(*(infer(one[None]) for one in given), strict=True)]
    assert_equal(infer(given), singles, 1e-5)


def test_torch_takes_views_and_arrays_that_are_not_contiguous() -> None:
    infer = torch_infer(small(), "cpu", "f32", 1)
    given = pixels(4)
    assert_equal(infer(given[::2, :, ::-1]), infer(given[::2, :, ::-1].copy()), 1e-6)


def test_torch_in_bf16_answers_in_f32_and_nearly_the_same() -> None:
    given = pixels(2)
    exact = torch_infer(small(), "cpu", "f32", 1)(given)
    assert_equal(torch_infer(small(), "cpu", "bf16", 1)(given), exact, 0.03)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_answers_what_the_cpu_answers() -> None:
    given = pixels(3)
    assert_equal(torch_infer(small(), "cuda:0", "f32", 1)(given), torch_infer(small(), "cpu", "f32", 1)(given), 1e-3)


# ---- OpenVINO


@needs_openvino
def test_openvino_equals_torch_on_a_small_network_of_two_outputs() -> None:
    by_torch = torch_infer(small(), "cpu", "f32", 1)
    by_openvino = openvino_infer(small(), pixels(1), (1, 3), 1, "f32")
    for count in (1, 3, 1):
        assert_equal(by_openvino(pixels(count)), by_torch(pixels(count)))


@needs_openvino
def test_openvino_equals_torch_on_the_detector() -> None:
    network = on_pixels(seeded("lite-hrnet"))
    by_torch = torch_infer(network, "cpu", "f32", 1)
    by_openvino = openvino_infer(network, pixels(1, 64, 96), (1, 2), 1, "f32")
    for count in (1, 2):
        given = pixels(count, 64, 96)
        assert_equal(by_openvino(given), by_torch(given))


@needs_openvino
def test_openvino_equals_torch_on_the_lifter() -> None:
    options: dict[str, object] = {"frames": 3, "channels": 6, "head": "sequence", "unknown_token": True}
    network = seeded("lifter", spatial=True, temporal=True, spatial_head=True, **options)
    given = np.random.default_rng(0).normal(size=(2, 3, 17, 6)).astype(np.float32)
    given[..., 2] = np.where(given[..., 2] > 0, 1, -1)  # some joints are unknown
    by_openvino = openvino_infer(network, given[:1], (2,), 1, "f32")
    assert_equal(by_openvino(given)[:1], torch_infer(network, "cpu", "f32", 1)(given)[:1])


@needs_openvino
def test_openvino_batched_equals_single() -> None:
    infer = openvino_infer(small(), pixels(1), (1, 4), 1, "f32")
    given = pixels(4)
    singles = [np.concatenate(each) for each in zip(*(infer(one[None]) for one in given), strict=True)]
    assert_equal(infer(given), singles, 1e-5)


@needs_openvino
def test_an_openvino_answer_is_not_overwritten_by_the_next_run() -> None:
    infer = openvino_infer(small(), pixels(1), (2,), 1, "f32")
    given = pixels(2)
    first = infer(given)
    kept = [output.copy() for output in first]
    infer(255 - given)
    for output, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(output, before)


@needs_openvino
def test_openvino_takes_arrays_that_are_not_contiguous() -> None:
    infer = openvino_infer(small(), pixels(1), (2,), 1, "f32")
    given = pixels(4)
    assert_equal(infer(given[::2, :, ::-1]), infer(given[::2, :, ::-1].copy()), 1e-6)


@needs_openvino
def test_the_conversion_is_silent_and_leaves_the_process_as_it_was() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            openvino_infer(small(), pixels(1), (1,), 1, "f32")
        assert [str(each.message) for each in said] == []
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@needs_openvino
def test_openvino_tells_nobody_that_it_was_used() -> None:
    openvino_infer(small(), pixels(1), (1,), 1, "f32")
    assert sys.modules["openvino_telemetry"] is None


@needs_openvino
@pytest.mark.parametrize("busy", [False, True])
def test_lanes_answer_what_one_lane_answers(busy: bool) -> None:
    """Alone a batch is shared out among the lanes; beside another it keeps to one."""
    lanes = Lanes(2)
    one, side_by_side = (openvino_infer(small(), pixels(1), (1, 4), 2, "f32", each) for each in (None, lanes))
    with lanes.taken() if busy else nullcontext():
        for count in (1, 4):
            assert_equal(side_by_side(pixels(count)), one(pixels(count)), 1e-6)


@needs_openvino
def test_runs_at_once_do_not_mix_their_answers() -> None:
    infer = openvino_infer(small(), pixels(1), (1, 2), 2, "f32", Lanes(2))
    given = [np.random.default_rng(n).integers(0, 256, pixels(2).shape, dtype=np.uint8) for n in range(24)]
    wanted = [infer(each) for each in given]
    with ThreadPoolExecutor(3) as pool:
        for answer, want in zip(pool.map(infer, given), wanted, strict=True):
            assert_equal(answer, want, 1e-6)


class Products(nn.Module):
    """A linear layer between norms, and a product with a matrix without a bias, as poses are fitted with."""

    def __init__(self, layers: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 64))
        self.matrix = nn.Parameter(torch.randn(64, 64) / 8)
        self.has_layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return (self.layers(x) if self.has_layers else x) @ self.matrix


@needs_openvino
@pytest.mark.parametrize("layers", [False, True])
def test_mixed_has_linear_layers_in_bf16_and_all_else_exact(layers: bool) -> None:
    given = np.random.default_rng(0).normal(size=(4, 27, 64)).astype(np.float32)
    exact, mixed, rough = (
        openvino_infer(Products(layers), given[:1], (1, 4), 1, precision)(given)[0]
        for precision in ("f32", "mixed", "bf16")
    )
    off, farther = (float(np.abs(answer - exact).max()) for answer in (mixed, rough))
    if bf16_native():
        assert off < farther < 0.1
    assert (off > 1e-4) == (layers and bf16_native())


@needs_openvino
def test_mixed_batched_equals_single() -> None:
    infer = openvino_infer(Products(layers=True), np.zeros((1, 27, 64), np.float32), (1, 4), 1, "mixed")
    given = np.random.default_rng(0).normal(size=(4, 27, 64)).astype(np.float32)
    assert_equal(infer(given), [np.concatenate([infer(one[None])[0] for one in given])], 1e-5)


@needs_openvino
def test_mixed_without_a_folder_for_temporary_files_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    with pytest.raises(SettingWrong, match="temporary files") as refused:
        openvino_infer(Products(layers=True), np.zeros((1, 27, 64), np.float32), (1,), 1, "mixed")
    assert (refused.value.field, refused.value.limit) == ("precision", "f32 does without")
