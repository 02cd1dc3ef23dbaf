"""Crops on a device: cut, merged and read there as geometry does it here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from service.engines.framing import CropRow, PoseFraming, TensorCropRow
from service.engines.parts_framing import PartsFraming
from service.engines.torch_framing import FromParts, cut_parts, from_pixels
from service.geometry.crops import cut
from service.importing.entry import PRESETS

from .test_torch_heatmaps import DEVICES

Pixels = NDArray[np.uint8]
Row = CropRow | TensorCropRow

TINY: dict[str, Any] = {
    "width": 96,
    "height": 128,
    "padding": 1.25,
    "colour": "rgb",
    "mean": [123.675, 116.28, 103.53],
    "deviation": [58.395, 57.12, 57.375],
    "decode": "dark",
    "blur": 3,
    "stride": 4.0,
    "shift": [1.0, 0.6],
    "flip_shift": 1,
}
PUBLISHED = {name: TINY | preset for name, preset in PRESETS.items() if "decode" in preset}
EVERY_PRESET = pytest.mark.parametrize("preset", [TINY, *PUBLISHED.values()], ids=["tiny", *PUBLISHED])
BOXES = [
    (100, 50, 96, 128),
    (60.3, 20.7, 150.2, 260.9),
    (150, 100, 30, 60),
    (-40, -30, 200, 220),
    (20, 90, 300, 80),
    (390, 290, 60, 60),
    (-500, -500, 100, 100),  # nothing of the picture
]


def photo(height: int = 300, width: int = 400) -> Pixels:
    """Soft shapes: what a photo is, and noise is not."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 17 + c) + np.cos(y / (11 + 3 * c) - c) + np.sin((x + y) / 29) for c in range(3)]
    return np.round(127.5 + 40 * np.stack(waves, axis=-1)).astype(np.uint8)


def row(box: ArrayLike, picture: Pixels | None = None, flip_test: bool = False) -> CropRow:
    return CropRow(photo() if picture is None else picture, np.array(box, np.float32), flip_test)


class Peaks(nn.Module):
    """A made network: joint j peaks where a channel of the crop is brightest, by the channel and a shift of its own."""

    def forward(self, crops: Tensor) -> Tensor:
        maps = nn.functional.avg_pool2d(crops, 4)
        moved = [maps[:, j % 3].roll((j % 5, j % 7), (1, 2)) for j in range(17)]
        stacked = torch.stack(moved, dim=1)
        spread = stacked.amax((2, 3), keepdim=True) - stacked.amin((2, 3), keepdim=True)
        return torch.exp(-8 * (stacked.amax((2, 3), keepdim=True) - stacked) / (spread + 1e-3)) * 0.9


def by_numpy(preset: dict[str, Any], rows: Sequence[Row]) -> list[Any]:
    framing = PoseFraming(preset)
    with torch.no_grad():
        heatmaps = from_pixels(Peaks(), preset)(torch.from_numpy(framing.inputs(rows)))
    return framing.answers([heatmaps.numpy()], rows)


def on_device(preset: dict[str, Any], rows: Sequence[Row], device: str) -> list[Any]:
    framing = PartsFraming(preset)
    network = FromParts(from_pixels(Peaks(), preset), preset).to(device)
    parts = framing.inputs(rows)
    with torch.no_grad():
        outputs = network(torch.from_numpy(parts.pixels).to(device), torch.from_numpy(parts.lines).to(device))
    return framing.answers([output.cpu().numpy() for output in outputs], rows)


@DEVICES
@EVERY_PRESET
@pytest.mark.parametrize("size", [(300, 400), (1200, 1600), (150, 3000)])
def test_crops_are_cut_as_geometry_cuts_them(preset: dict[str, Any], size: tuple[int, int], device: str) -> None:
    picture = photo(*size)
    scale = size[0] / 300
    framing = PartsFraming(preset)
    rows = [row(np.multiply(box, scale), picture) for box in BOXES]
    parts = framing.inputs(rows)
    given = [torch.from_numpy(array).to(device) for array in (parts.pixels, parts.lines)]
    pixels = cut_parts(given[0], given[1], framing.height, framing.width).cpu().numpy()
    wanted = np.stack([cut(picture, framing.crop(each)) for each in rows]).astype(np.float32)
    difference = np.abs(pixels - wanted)
    assert difference.max() <= 8  # OpenCV's own steps of a 32nd of a pixel, at the picture's hard edge
    assert difference.mean() < 0.05
    assert np.mean(difference > 1) < 0.002
    assert (pixels[-1] == 0).all()


@DEVICES
@EVERY_PRESET
@pytest.mark.parametrize("flip_test", [False, True])
def test_keypoints_are_those_of_the_numpy_form(preset: dict[str, Any], flip_test: bool, device: str) -> None:
    rows = [row(box, flip_test=flip_test and n % 2 == 0) for n, box in enumerate(BOXES[:6])]
    for point, wanted in zip(on_device(preset, rows, device), by_numpy(preset, rows), strict=True):
        assert point.shape == (17, 3)
        assert point.dtype == np.float32
        np.testing.assert_allclose(point[:, 2], wanted[:, 2], atol=0.01)
        np.testing.assert_allclose(np.median(np.abs(point - wanted)[:, :2]), 0, atol=0.05)
        assert np.mean(np.abs(point - wanted)[:, :2] > 0.5) < 0.1  # a peak may be another cell, where two are as high


@DEVICES
def test_given_crops_come_back_in_their_own_pixels_with_heatmaps_if_asked_for(device: str) -> None:
    crop = photo(128, 96)
    rows: list[Row] = [TensorCropRow(crop, heatmaps=True), row(BOXES[0]), TensorCropRow(crop)]
    answers, wanted = on_device(TINY, rows, device), by_numpy(TINY, rows)
    np.testing.assert_allclose(answers[0].points, wanted[0].points, atol=0.02)
    np.testing.assert_allclose(answers[0].heatmaps, wanted[0].heatmaps, atol=1e-3)
    np.testing.assert_allclose(answers[2].points, wanted[2].points, atol=0.02)
    assert answers[2].heatmaps is None


def test_parts_can_be_sliced_and_stay_the_same_crops() -> None:
    framing = PartsFraming(TINY)
    parts = framing.inputs([row(box, flip_test=n == 1) for n, box in enumerate(BOXES)])
    assert len(parts) == len(BOXES) + 1
    whole = cut_parts(torch.from_numpy(parts.pixels), torch.from_numpy(parts.lines), 128, 96)
    for some in (slice(0, 3), slice(1, 3), slice(3, 8), slice(7, 8), slice(0, 0)):
        part = parts[some]
        alone = cut_parts(torch.from_numpy(part.pixels), torch.from_numpy(part.lines), 128, 96)
        torch.testing.assert_close(alone, whole[some])


def test_a_mirror_image_is_the_crop_with_its_columns_counted_back() -> None:
    parts = PartsFraming(TINY).inputs([row(BOXES[1], flip_test=True)])
    own, mirrored = cut_parts(torch.from_numpy(parts.pixels), torch.from_numpy(parts.lines), 128, 96)
    torch.testing.assert_close(mirrored, own.flip(1), atol=1, rtol=0)


@pytest.mark.parametrize("size", [(300, 400), (3000, 4000), (150, 9000), (9000, 150)])
def test_no_part_is_larger_than_its_slot(size: tuple[int, int]) -> None:
    framing = PartsFraming(TINY)
    height, width = size
    picture = np.zeros((*size, 3), np.uint8)
    for box in [(0, 0, width, height), (width / 2, height / 3, width / 5, height / 2), (0, 0, 30, 30)]:
        assert framing.inputs([row(box, picture)]).pixels.size <= framing.slot_bytes


def test_no_rows_are_no_parts() -> None:
    parts = PartsFraming(TINY).inputs([])
    assert len(parts) == 0
