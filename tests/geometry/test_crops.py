"""Crops and the letterbox: where pixels come from, and the way back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.geometry.crops import (
    LETTERBOX_GREY,
    cells_to_input,
    crop_of_box,
    cut,
    input_to_cells,
    letterbox,
    to_input,
    to_picture,
)
from service.geometry.planes import Picture

WIDTH, HEIGHT = 192, 256


def spot(width: int, height: int, x: float, y: float, deviation: float) -> Picture:
    """A white spot on black, its middle at (x, y) from the picture's corner."""
    across = np.exp(-((np.arange(width) + 0.5 - x) ** 2) / (2 * deviation**2))
    along = np.exp(-((np.arange(height) + 0.5 - y) ** 2) / (2 * deviation**2))
    return np.repeat(np.round(255 * np.outer(along, across))[..., None], 3, axis=2).astype(np.uint8)


def middle_of_light(picture: Picture) -> NDArray[np.float64]:
    light = picture[..., 0].astype(np.float64)
    x, y = np.arange(picture.shape[1]) + 0.5, np.arange(picture.shape[0]) + 0.5
    return np.array([light.sum(axis=0) @ x, light.sum(axis=1) @ y], np.float64) / float(light.sum())


def noise(width: int, height: int) -> Picture:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("rotation", [0.0, 30.0, -100.0])
def test_to_the_crop_and_back_is_the_identity(rotation: float) -> None:
    crop = crop_of_box([30.5, 12, 80, 40], WIDTH, HEIGHT, rotation=rotation)
    points = np.random.default_rng(0).uniform(-50, 300, (4, 17, 3)).astype(np.float32)
    back = to_picture(to_input(points, crop), crop)
    np.testing.assert_allclose(back, points, atol=1e-3)
    np.testing.assert_array_equal(back[..., 2], points[..., 2])


def test_unknown_points_stay_unknown() -> None:
    moved = to_picture([[np.nan, np.nan, 0], [1, 2, 0.5]], crop_of_box([0, 0, 10, 10], WIDTH, HEIGHT))
    assert np.isnan(moved[0, :2]).all()
    assert np.isfinite(moved[1]).all()


@pytest.mark.parametrize(
    ("box", "corner", "far_corner"),
    [
        ([100, 100, 75, 100], (90.625, 87.5), (184.375, 212.5)),  # of the input's aspect: 1.25 times as large
        ([100, 100, 30, 100], (68.125, 87.5), (161.875, 212.5)),  # too narrow: widened
        ([100, 100, 75, 20], (90.625, 47.5), (184.375, 172.5)),  # too low: heightened
    ],
)
def test_the_crop_is_the_box_in_the_inputs_aspect_and_a_quarter_more(
    box: list[float], corner: tuple[float, float], far_corner: tuple[float, float]
) -> None:
    corners = to_picture([[0, 0], [WIDTH, HEIGHT]], crop_of_box(box, WIDTH, HEIGHT))
    np.testing.assert_allclose(corners, [corner, far_corner], atol=1e-3)


def test_a_turn_moves_the_top_of_the_picture_to_the_left_and_keeps_the_middle() -> None:
    crop = crop_of_box([100, 100, 75, 100], WIDTH, HEIGHT, rotation=90)
    middle, above = to_input([[137.5, 150], [137.5, 140]], crop)
    np.testing.assert_allclose(middle, [WIDTH / 2, HEIGHT / 2], atol=1e-4)
    assert above[0] < middle[0] - 10
    assert above[1] == pytest.approx(middle[1], abs=1e-4)


def test_a_box_without_area_still_gives_a_crop() -> None:
    crop = crop_of_box([10, 10, 0, 0], WIDTH, HEIGHT)
    assert np.isfinite(crop.matrix).all()
    assert cut(noise(40, 30), crop).shape == (HEIGHT, WIDTH, 3)


def test_a_crop_at_scale_one_is_the_pictures_own_pixels() -> None:
    picture = noise(640, 480)
    crop = crop_of_box([100, 50, WIDTH, HEIGHT], WIDTH, HEIGHT, padding=1.0)
    np.testing.assert_array_equal(cut(picture, crop), picture[50 : 50 + HEIGHT, 100 : 100 + WIDTH])


@pytest.mark.parametrize("size", [(640, 480), (641, 481), (643, 483), (1283, 963), (500, 375)])
@pytest.mark.parametrize("share", [(0.25, 0.3), (0.5, 0.5), (0.8, 0.85)])
@pytest.mark.parametrize("cover", [0.3, 0.9])
@pytest.mark.parametrize("rotation", [0.0, 40.0])
def test_what_is_cut_lies_where_the_matrix_says(
    size: tuple[int, int], share: tuple[float, float], cover: float, rotation: float
) -> None:
    width, height = size
    x, y = width * share[0], height * share[1]
    box = [x - width * cover / 2, y - height * cover / 2 + 9, width * cover, height * cover]
    crop = crop_of_box(box, WIDTH, HEIGHT, rotation=rotation)
    picture = spot(width, height, x, y, deviation=width / 90)
    np.testing.assert_allclose(middle_of_light(cut(picture, crop)), to_input([[x, y]], crop)[0], atol=0.06)


def test_a_box_that_is_shrunk_much_is_averaged_and_not_sampled() -> None:
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = cut(stripes, crop_of_box([112, 112, 800, 800], WIDTH, HEIGHT, padding=1.0))[40:-40, 20:-20]
    assert np.abs(inner.astype(int) - 128).max() <= 2


@pytest.mark.parametrize("box", [[300, 200, 60, 80], [300, 200, 900, 1200], [-200, -100, 700, 900]])
def test_halving_only_the_crops_part_is_halving_the_whole_picture(box: list[float]) -> None:
    picture = cv2.GaussianBlur(noise(2048, 1536), (0, 0), 3).astype(np.uint8)
    crop = crop_of_box(box, WIDTH, HEIGHT)
    whole, scale, matrix = picture, crop.matrix[0, 0], crop.matrix.copy()
    while scale < 0.6:
        whole = cv2.resize(whole, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.uint8)
        matrix[:, :2] *= 2
        scale *= 2
    matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    expected = cv2.warpAffine(whole, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
    assert np.abs(cut(picture, crop).astype(int) - expected).max() <= 1


def test_outside_of_the_picture_it_is_black() -> None:
    white = np.full((300, 300, 3), 255, np.uint8)
    crop = cut(white, crop_of_box([-96, 20, WIDTH, HEIGHT], WIDTH, HEIGHT, padding=1.0))
    assert (crop[:, :95] == 0).all()
    assert (crop[:, 97:] == 255).all()


@pytest.mark.parametrize("box", [[900, 10, 50, 80], [-900, -900, 300, 300], [0, 5000, 2000, 2000]])
def test_a_box_beyond_the_picture_is_all_black(box: list[float]) -> None:
    cropped = cut(np.full((300, 300, 3), 255, np.uint8), crop_of_box(box, WIDTH, HEIGHT))
    assert cropped.shape == (HEIGHT, WIDTH, 3)
    assert (cropped == 0).all()


def test_cutting_leaves_the_picture_as_it_was() -> None:
    picture = noise(801, 603)
    before = picture.copy()
    cut(picture, crop_of_box([0, 0, 801, 603], WIDTH, HEIGHT))[:] = 0
    letterbox(picture, 320)[0][:] = 0
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.1)])
def test_cells_to_input_and_back_is_the_identity(shift: tuple[float, float]) -> None:
    cells = np.random.default_rng(0).uniform(0, 60, (3, 17, 2))
    np.testing.assert_allclose(input_to_cells(cells_to_input(cells, 4, shift), 4, shift), cells, atol=1e-5)


def test_a_cell_lies_at_its_stride_counted_from_pixel_centres() -> None:
    np.testing.assert_allclose(cells_to_input([[0, 0], [10, 20]]), [[0.5, 0.5], [40.5, 80.5]])
    np.testing.assert_allclose(cells_to_input([10, 20], 4, (0.5, 0.1)), [40, 80.4], atol=1e-5)


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((640, 480), (320, 240)), ((480, 640), (240, 320)), ((300, 100), (320, 107)), ((320, 320), (320, 320)),
     ((5000, 3), (320, 1))],
)  # fmt: skip
def test_the_letterbox_fits_the_picture_at_the_top_left_on_grey(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    square, scale = letterbox(np.full((size[1], size[0], 3), 7, np.uint8), 320)
    assert square.shape == (320, 320, 3)
    assert (square[: fitted[1], : fitted[0]] == 7).all()
    assert (square[fitted[1] :] == LETTERBOX_GREY).all()
    assert (square[:, fitted[0] :] == LETTERBOX_GREY).all()
    assert scale == pytest.approx((fitted[0] / size[0], fitted[1] / size[1]))


@pytest.mark.parametrize("size", [(640, 480), (1283, 963), (200, 151)])
def test_what_is_letterboxed_lies_where_the_scale_says(size: tuple[int, int]) -> None:
    x, y = size[0] * 0.7, size[1] * 0.4
    square, scale = letterbox(spot(*size, x, y, deviation=size[0] / 60), 480)
    square[square == LETTERBOX_GREY] = 0
    np.testing.assert_allclose(middle_of_light(square), np.multiply([x, y], scale), atol=0.06)
