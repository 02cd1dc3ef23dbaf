"""Pictures in planes are the same pictures: whatever is cut of them is what is cut of their red, green and blue."""

from __future__ import annotations

import numpy as np
import pytest

from service.geometry.crops import crop_of_box, cut, letterbox, part_for
from service.geometry.planes import Colours, Planes, halved

# BT.601, as most films are written: 16..235 and 16..240.
COLOURS = Colours(
    np.array([[1.164, 0, 1.596, -222.9], [1.164, -0.392, -0.813, 135.6], [1.164, 2.017, 0, -276.8]], np.float32)
)
SIZES = [(120, 160), (121, 161)]


def planes(height: int, width: int) -> Planes:
    """Soft shapes, whose colours nothing cuts off."""
    rng = np.random.default_rng(height)
    down, along = np.mgrid[:height, :width]
    y = 120 + 50 * np.sin(along / 17 + rng.uniform()) * np.cos(down / 23)
    half_down, half_along = np.mgrid[: -(-height // 2), : -(-width // 2)]
    u, v = (128 + 20 * np.sin(half_along / 15 + half_down / 19 + at) for at in rng.uniform(0, 6, 2))
    y, u, v = (each.round().astype(np.uint8) for each in (y, u, v))
    return Planes(y, u, v, COLOURS)


def apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_part_halved_is_the_same_part_of_the_whole_halved(size: tuple[int, int], step: int) -> None:
    picture = planes(*size)
    for top, bottom, left, right in ((0, size[0], 0, size[1]), (8, 72, 12, 60), (40, size[0], 52, size[1])):
        part = picture.rgb(picture.part(top, bottom, left, right, step))
        wanted = halved(picture.whole()[top:bottom, left:right], step)
        assert part.shape == wanted.shape
        assert apart(part, wanted) <= 3


@pytest.mark.parametrize("size", SIZES)
def test_a_part_may_begin_and_end_in_the_middle_of_a_square(size: tuple[int, int]) -> None:
    picture = planes(*size)
    whole = picture.whole()
    assert whole.shape == picture.shape == (*size, 3)
    for top, bottom, left, right in ((1, 2, 1, 2), (3, 50, 7, 31), (0, size[0] - 1, 1, size[1])):
        assert np.array_equal(picture.rgb(picture.part(top, bottom, left, right)), whole[top:bottom, left:right])


@pytest.mark.parametrize("step", [1, 2, 4])
def test_where_the_planes_lie_in_memory_changes_no_pixel(step: int) -> None:
    wide = planes(120, 320)
    gaps = Planes(wide.y[:, :160], wide.u[:, :80], wide.v[:, :80], COLOURS)
    assert not gaps.u.flags.c_contiguous
    dense = Planes(gaps.y.copy(), gaps.u.copy(), gaps.v.copy(), COLOURS)
    assert np.array_equal(gaps.part(8, 112, 4, 156, step), dense.part(8, 112, 4, 156, step))


def test_single_pixels_are_those_of_the_whole() -> None:
    picture = planes(121, 161)
    rows, columns = np.random.default_rng(0).integers(0, [[121], [161]], (2, 4 * 25)).reshape(2, 4, 25)
    assert apart(picture.at(rows, columns), picture.whole()[rows, columns]) <= 1


@pytest.mark.parametrize("box", [(30, 10, 60, 90), (70, 40, 12, 20), (-40, -60, 150, 200), (-300, 0, 20, 30)])
@pytest.mark.parametrize("rotation", [0.0, 33.0])
def test_a_crop_of_planes_is_the_crop_of_the_whole(box: tuple[float, ...], rotation: float) -> None:
    picture = planes(120, 160)
    for side in (24, 48, 192):
        crop = crop_of_box(box, side, side * 4 // 3, rotation=rotation)
        assert apart(cut(picture, crop), cut(picture.whole(), crop)) <= 4
        (part, matrix), (wanted, its_matrix) = part_for(picture, crop), part_for(picture.whole(), crop)
        assert part.shape == wanted.shape
        assert apart(part, wanted) <= 3 if part.size else not wanted.size
        assert np.array_equal(matrix, its_matrix)


def test_beside_the_picture_a_crop_is_black() -> None:
    assert cut(planes(120, 160), crop_of_box((-100, 0, 80, 120), 48, 64))[:, :10].max() <= 2


@pytest.mark.parametrize("side", [64, 96, 320])
@pytest.mark.parametrize("size", SIZES)
def test_the_finder_sees_the_same(size: tuple[int, int], side: int) -> None:
    picture = planes(*size)
    (square, scale), (wanted, its_scale) = letterbox(picture, side), letterbox(picture.whole(), side)
    assert apart(square, wanted) <= 4
    assert scale == its_scale


def test_planes_hold_half_of_what_the_whole_holds() -> None:
    assert planes(120, 160).nbytes == planes(120, 160).whole().nbytes / 2
