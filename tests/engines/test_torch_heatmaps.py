"""Reading heatmaps on a device: every rule of geometry's, by the same peaks and the same steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service.engines.torch_heatmaps import decoder_named, merge_mirrored
from service.geometry import heatmaps as numpy_form
from service.geometry.skeletons import COCO17, mirror_order

Floats = NDArray[np.float32]

DEVICES = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda:0",
            marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
        ),
    ],
)
RULES = [("argmax", 3), ("quarter", 3), ("dark", 3), ("dark", 11), ("dark", 17), ("udp", 11), ("udp", 17)]


def by_numpy(name: str, blur: int) -> Callable[[Floats], tuple[Floats, Floats]]:
    decoders: dict[str, Callable[[Floats], tuple[Floats, Floats]]] = {
        "argmax": numpy_form.decode_argmax,
        "quarter": numpy_form.decode_quarter,
        "dark": partial(numpy_form.decode_dark, blur=blur),
        "udp": partial(numpy_form.decode_udp, blur=blur),
    }
    return decoders[name]


def peaks(people: int = 6, noise: float = 0.02) -> Floats:
    """Peaks at any place, at the border and beyond it, on a little noise."""
    random = np.random.default_rng(people)
    at = random.uniform([-2, -2], [49, 65], (people, 17, 2)).astype(np.float32)
    maps, _ = numpy_form.gaussian_targets(at, np.ones((people, 17)), 48, 64, 2.0)
    return (maps + noise * random.random(maps.shape)).astype(np.float32)


def assert_equal(rule: tuple[str, int], maps: Floats, device: str, tolerance: float = 2e-3) -> None:
    wanted, wanted_scores = by_numpy(*rule)(maps)
    positions, scores = decoder_named(*rule)(torch.from_numpy(maps).to(device))
    np.testing.assert_array_equal(scores.cpu().numpy(), wanted_scores)
    np.testing.assert_allclose(positions.cpu().numpy(), wanted, atol=tolerance)
    assert positions.dtype == torch.float32


@DEVICES
@pytest.mark.parametrize("rule", RULES)
def test_peaks_are_read_where_numpy_reads_them(rule: tuple[str, int], device: str) -> None:
    assert_equal(rule, peaks(), device)


@DEVICES
@pytest.mark.parametrize("rule", RULES)
def test_maps_without_a_peak_are_read_as_numpy_reads_them(rule: tuple[str, int], device: str) -> None:
    empty = np.zeros((1, 17, 64, 48), np.float32)
    assert_equal(rule, empty, device)
    assert_equal(rule, empty - 1, device)
    assert_equal(rule, empty + 0.5, device)


@DEVICES
@pytest.mark.parametrize("rule", RULES)
def test_the_first_of_equal_cells_is_taken(rule: tuple[str, int], device: str) -> None:
    maps = np.zeros((1, 17, 64, 48), np.float32)
    maps[..., 20, 30] = maps[..., 20, 9] = maps[..., 44, 3] = 0.5
    positions, _ = decoder_named(*rule)(torch.from_numpy(maps).to(device))
    np.testing.assert_allclose(positions.cpu().numpy(), np.broadcast_to([9.0, 20.0], (1, 17, 2)), atol=0.5)


@DEVICES
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_mirror_images_merge_as_numpy_merges_them(shift: int, device: str) -> None:
    one, other = peaks(3), peaks(4)[:3]
    order = mirror_order(COCO17)
    wanted = numpy_form.merge_mirrored(one, other, order, shift)
    given = [torch.from_numpy(array.copy()).to(device) for array in (one, other, order)]
    np.testing.assert_array_equal(merge_mirrored(given[0], given[1], given[2], shift).cpu().numpy(), wanted)


def test_batched_equals_single() -> None:
    maps = torch.from_numpy(peaks(5))
    for rule in RULES:
        together = decoder_named(*rule)(maps)
        alone = [decoder_named(*rule)(one[None]) for one in maps]
        for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
            torch.testing.assert_close(whole, torch.cat(parts), atol=1e-5, rtol=0)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`decode` must be one of argmax, .* got 'best'"):
        decoder_named("best", 3)
