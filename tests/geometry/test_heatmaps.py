"""Decoding and drawing heatmaps: round trips, mirrors, borders."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from service.geometry.heatmaps import (
    Floats,
    decode_argmax,
    decode_dark,
    decode_quarter,
    gaussian_targets,
    merge_mirrored,
)
from service.geometry.skeletons import COCO17, mirror_order

WIDTH, HEIGHT = 48, 64
Decode = Callable[[Floats], tuple[Floats, Floats]]
EVERY = pytest.mark.parametrize("decode", [decode_argmax, decode_quarter, decode_dark])


def peaks_at(positions: Floats, sigma: float = 2.0) -> Floats:
    return gaussian_targets(positions, np.ones(positions.shape[:2]), WIDTH, HEIGHT, sigma)[0]


def some_positions(people: int, margin: float = 4.0, seed: int = 0) -> Floats:
    low, high = [margin, margin], [WIDTH - 1 - margin, HEIGHT - 1 - margin]
    return np.random.default_rng(seed).uniform(low, high, (people, 17, 2)).astype(np.float32)


@pytest.mark.parametrize(("decode", "tolerance"), [(decode_argmax, 0.5), (decode_quarter, 0.26), (decode_dark, 0.002)])
def test_drawing_a_joint_and_reading_it_back_is_the_identity(decode: Decode, tolerance: float) -> None:
    positions = some_positions(8)
    found, scores = decode(peaks_at(positions))
    np.testing.assert_allclose(found, positions, atol=tolerance)
    assert ((scores > 0.93) & (scores <= 1)).all()


@pytest.mark.parametrize(("blur", "sigma"), [(3, 2.0), (11, 2.0), (17, 3.0)])
def test_the_published_blurs_of_dark_read_back_what_was_drawn(blur: int, sigma: float) -> None:
    positions = some_positions(4, margin=12.0)
    np.testing.assert_allclose(decode_dark(peaks_at(positions, sigma), blur)[0], positions, atol=0.02)


@EVERY
def test_mirroring_the_heatmap_mirrors_the_keypoint(decode: Decode) -> None:
    maps = peaks_at(some_positions(4))
    found, scores = decode(maps)
    mirrored, mirrored_scores = decode(maps[..., ::-1])
    np.testing.assert_allclose(mirrored[..., 0], WIDTH - 1 - found[..., 0], atol=1e-4)
    np.testing.assert_allclose(mirrored[..., 1], found[..., 1], atol=1e-4)
    np.testing.assert_array_equal(mirrored_scores, scores)


@EVERY
@pytest.mark.parametrize("cell", [(0, 0), (0, 30), (WIDTH - 1, 30), (20, 0), (20, HEIGHT - 1), (1, 1)])
def test_a_peak_on_the_border_is_not_shifted(decode: Decode, cell: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).uniform(0, 0.4, (1, 1, HEIGHT, WIDTH)).astype(np.float32)
    maps[0, 0, cell[1], cell[0]] = 0.9
    found, scores = decode(maps)
    assert found[0, 0].tolist() == list(cell)
    assert scores[0, 0] == pytest.approx(0.9)


def test_quarters_move_towards_the_higher_neighbour() -> None:
    maps = np.zeros((1, 1, HEIGHT, WIDTH), np.float32)
    maps[0, 0, 30, 20], maps[0, 0, 30, 21], maps[0, 0, 29, 20] = 1, 0.5, 0.4
    assert decode_quarter(maps)[0][0, 0].tolist() == [20.25, 29.75]


def test_a_map_without_a_value_over_0_is_read_at_the_origin_by_hrnets_rule() -> None:
    maps = np.full((1, 1, HEIGHT, WIDTH), -1, np.float32)
    maps[0, 0, 30, 20] = -0.5
    assert decode_quarter(maps)[0][0, 0].tolist() == [0, 0]


def dark_of_one(heatmap: Floats) -> list[float]:
    """DARK written out for a single map: the whole map blurred, then Newton's step on its logarithm."""
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    if not (2 <= x < WIDTH - 2 and 2 <= y < HEIGHT - 2):
        return [float(x), float(y)]
    log = np.log(np.maximum(cv2.GaussianBlur(heatmap, (3, 3), 0, borderType=cv2.BORDER_REPLICATE), 1e-6))
    at = log[y - 2 : y + 3, x - 2 : x + 3].astype(np.float64)
    slope = np.array([at[2, 3] - at[2, 1], at[3, 2] - at[1, 2]]) / 2
    xx, yy = (at[2, 4] - 2 * at[2, 2] + at[2, 0]) / 4, (at[4, 2] - 2 * at[2, 2] + at[0, 2]) / 4
    xy = (at[3, 3] - at[1, 3] - at[3, 1] + at[1, 1]) / 4
    curvature = np.array([[xx, xy], [xy, yy]])
    if abs(np.linalg.det(curvature)) <= 1e-9:
        return [float(x), float(y)]
    step = -np.linalg.solve(curvature, slope)
    return [float(x + step[0]), float(y + step[1])] if np.abs(step).max() < 2 else [float(x), float(y)]


@pytest.mark.parametrize("seed", range(5))
def test_dark_on_patches_is_dark_on_whole_maps(seed: int) -> None:
    random = np.random.default_rng(seed)
    noise = random.uniform(0, 1, (2, 17, HEIGHT, WIDTH)).astype(np.float32)
    maps = np.concatenate([noise, peaks_at(some_positions(2, margin=0, seed=seed)) + 0.1 * noise])
    expected = [[dark_of_one(heatmap) for heatmap in person] for person in maps]
    np.testing.assert_allclose(decode_dark(maps)[0], expected, atol=2e-3)


def test_a_flat_map_has_no_step() -> None:
    found, scores = decode_dark(np.zeros((1, 3, HEIGHT, WIDTH), np.float32))
    assert (found == 0).all()
    assert (scores == 0).all()


@EVERY
def test_many_are_read_as_each_alone(decode: Decode) -> None:
    maps = peaks_at(some_positions(5, margin=0))
    together = decode(maps)
    for person in range(5):
        for whole, alone in zip(together, decode(maps[person : person + 1]), strict=True):
            np.testing.assert_array_equal(whole[person], alone[0])


@EVERY
def test_no_people_give_no_keypoints(decode: Decode) -> None:
    found, scores = decode(np.zeros((0, 17, HEIGHT, WIDTH), np.float32))
    assert (found.shape, scores.shape) == ((0, 17, 2), (0, 17))
    assert found.dtype == scores.dtype == np.float32


@EVERY
def test_the_heatmaps_are_left_as_they_were(decode: Decode) -> None:
    maps = peaks_at(some_positions(2))
    before = maps.copy()
    decode(maps)
    np.testing.assert_array_equal(maps, before)


@EVERY
def test_maps_of_one_person_alone_are_told_the_shape(decode: Decode) -> None:
    with pytest.raises(ValueError, match=r"\(people, joints, height, width\), got \(17, 64, 48\)"):
        decode(np.zeros((17, HEIGHT, WIDTH), np.float32))


def test_an_even_blur_is_refused() -> None:
    with pytest.raises(ValueError, match=r"odd.*4"):
        decode_dark(np.zeros((1, 1, HEIGHT, WIDTH), np.float32), blur=4)


def test_a_map_merged_with_its_own_mirror_is_itself() -> None:
    maps, order = peaks_at(some_positions(3)), mirror_order(COCO17)
    np.testing.assert_array_equal(merge_mirrored(maps, maps[:, order, :, ::-1], order, shift=0), maps)


def test_a_mirror_one_cell_off_is_shifted_back_and_its_first_column_stays() -> None:
    maps, order = np.random.default_rng(0).random((2, 17, HEIGHT, WIDTH), np.float32), mirror_order(COCO17)
    early = np.concatenate([maps[..., 1:], maps[..., -1:]], axis=-1)
    merged = merge_mirrored(maps, early[:, order, :, ::-1], order, shift=1)
    np.testing.assert_allclose(merged[..., 1:], maps[..., 1:], atol=1e-6)
    np.testing.assert_allclose(merged[..., 0], (maps[..., 0] + maps[..., 1]) / 2, atol=1e-6)


def test_a_target_is_the_gaussian_of_the_exact_position() -> None:
    targets, weights = gaussian_targets([[[20.3, 30.8]]], [[2]], WIDTH, HEIGHT, sigma=2)
    assert targets.shape == (1, 1, HEIGHT, WIDTH)
    assert targets.dtype == weights.dtype == np.float32
    assert weights[0, 0] == 1
    assert targets[0, 0, 31, 22] == pytest.approx(np.exp(-(1.7**2 + 0.2**2) / 8), rel=1e-5)


@pytest.mark.parametrize(
    ("position", "visible", "weight"),
    [
        ((20, 30), 1, 1),
        ((20, 30), 0, 0),  # unlabelled
        ((-5.9, 30), 2, 1),  # outside, but its window reaches in
        ((-6.1, 30), 2, 0),
        ((WIDTH + 4.9, 30), 2, 1),
        ((WIDTH + 5.1, 30), 2, 0),
        ((20, HEIGHT + 5.1), 2, 0),
        ((np.nan, np.nan), 2, 0),
    ],
)
def test_joints_without_label_or_beyond_the_map_have_no_weight(
    position: tuple[float, float], visible: int, weight: int
) -> None:
    targets, weights = gaussian_targets([[position]], [[visible]], WIDTH, HEIGHT, sigma=2)
    assert weights[0, 0] == weight
    assert (targets.max() > 0) == bool(weight)


def published_target(x: float, y: float, width: int, height: int, sigma: int) -> tuple[np.ndarray, int]:
    """HRNet's own way to it, cell by cell: a square window of the Gaussian pasted around the nearest cell."""
    mu_x, mu_y, reach = int(x + 0.5), int(y + 0.5), 3 * sigma
    target = np.zeros((height, width))
    if mu_x - reach >= width or mu_y - reach >= height or mu_x + reach + 1 < 0 or mu_y + reach + 1 < 0:
        return target, 0
    for row in range(max(0, mu_y - reach), min(height, mu_y + reach + 1)):
        for column in range(max(0, mu_x - reach), min(width, mu_x + reach + 1)):
            target[row, column] = np.exp(-((column - mu_x) ** 2 + (row - mu_y) ** 2) / (2 * sigma**2))
    return target, 1


@pytest.mark.parametrize("sigma", [2, 3])
def test_rounded_targets_are_those_of_the_official_code(sigma: int) -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform([-14, -14], [WIDTH + 14, HEIGHT + 14], (300, 2)).astype(np.float32)
    edges = [-7.4, -7.0, -6.6, -0.5, 0.5, 20.49, 20.5, WIDTH + 4.4, WIDTH + 5.4, WIDTH + 5.6, np.nan]
    places = np.concatenate([places, [(edge, 20.0) for edge in edges]]).astype(np.float32)
    targets, weights = gaussian_targets(places[:, None], np.ones((len(places), 1)), WIDTH, HEIGHT, sigma, rounded=True)
    for (x, y), target, weight in zip(places[:-1], targets[:-1, 0], weights[:-1, 0], strict=True):
        expected, counts = published_target(float(x), float(y), WIDTH, HEIGHT, sigma)
        assert weight == counts
        np.testing.assert_allclose(target, expected, atol=1e-6)
    assert not targets[-1].any() and weights[-1, 0] == 0
    assert targets.dtype == np.float32


def test_a_target_cut_at_three_deviations_needs_whole_cells() -> None:
    with pytest.raises(ValueError, match="`sigma` must be a whole number"):
        gaussian_targets([[[1.0, 1.0]]], [[1]], WIDTH, HEIGHT, sigma=2.5, rounded=True)


def test_no_people_have_no_targets() -> None:
    targets, weights = gaussian_targets(np.zeros((0, 17, 2)), np.zeros((0, 17)), WIDTH, HEIGHT, sigma=2)
    assert (targets.shape, weights.shape) == ((0, 17, HEIGHT, WIDTH), (0, 17))
