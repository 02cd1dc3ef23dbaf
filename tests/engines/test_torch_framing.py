"""Normalisation inside the network, held against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from service.engines.torch_framing import from_pixels

MEAN, DEVIATION = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
PRESET = {"mean": MEAN, "deviation": DEVIATION, "colour": "rgb"}


def pixels(count: int = 2) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_normalisation_is_numpys(colour: str) -> None:
    given = pixels()
    ordered = given if colour == "rgb" else given[..., ::-1]
    wanted = (ordered.astype(np.float64) - MEAN) / DEVIATION
    network = from_pixels(nn.Identity(), PRESET | {"colour": colour})
    np.testing.assert_allclose(network(torch.from_numpy(given)).numpy(), wanted.transpose(0, 3, 1, 2), atol=1e-6)


def test_the_same_figures_in_bgr_give_the_same_channels_the_other_way_round() -> None:
    mirrored = {"mean": MEAN[::-1], "deviation": DEVIATION[::-1], "colour": "bgr"}
    given = torch.from_numpy(pixels())
    plain, turned = from_pixels(nn.Identity(), PRESET)(given), from_pixels(nn.Identity(), mirrored)(given)
    torch.testing.assert_close(turned, plain.flip(1))


def test_the_pixels_are_left_as_they_were() -> None:
    given = pixels()
    before = given.copy()
    from_pixels(nn.Identity(), PRESET)(torch.from_numpy(given))
    np.testing.assert_array_equal(given, before)


def test_batched_equals_single() -> None:
    network = from_pixels(nn.Conv2d(3, 4, 3), PRESET)
    given = torch.from_numpy(pixels(5))
    with torch.no_grad():
        torch.testing.assert_close(network(given), torch.cat([network(each[None]) for each in given]))


def test_an_unknown_order_of_colours_is_refused() -> None:
    with pytest.raises(ValueError, match="`colour` must be rgb or bgr, got 'grey'"):
        from_pixels(nn.Identity(), PRESET | {"colour": "grey"})
