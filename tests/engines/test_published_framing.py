"""The presets of published networks against their own arithmetic, written out here, number for number."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines.framing import CropRow, PoseFraming, PublishedLiftFraming, WindowRow, published_channels
from service.geometry.crops import cells_to_input, crop_of_box, cut, input_to_cells, to_input, to_picture, udp_stride
from service.geometry.heatmaps import decode_udp, gaussian_targets, merge_mirrored
from service.geometry.skeletons import COCO17, SKELETONS, mirror_order, mirror_points
from service.importing.entry import PRESETS

Doubles = NDArray[np.float64]

SIZES = [(192, 256), (288, 384)]
BOXES = [(100.0, 60.0, 90.0, 200.0), (33.3, 20.7, 220.0, 120.5), (-20.0, 40.0, 150.0, 300.0)]


def framing(preset: str, width: int, height: int) -> PoseFraming:
    return PoseFraming({"width": width, "height": height, **PRESETS[preset]})


def official_box(box: tuple[float, ...], width: int, height: int) -> tuple[Doubles, Doubles]:
    """centre and (width, height) of the padded box, numbers as they are."""
    x, y, w, h = box
    aspect = width / height
    w, h = (w, w / aspect) if w > aspect * h else (h * aspect, h)
    return np.array([x + box[2] / 2, y + box[3] / 2]), np.array([w, h]) * 1.25


def three_points(centre: Doubles, scale: Doubles, width: int, height: int) -> Doubles:
    """The official affine of three pairs of points, between numbers of pixel centres."""
    a, up = centre, np.array([0, -scale[0] / 2])
    middle, out_up = np.array([width / 2, height / 2]), np.array([0, -width / 2])

    def third(first: Doubles, second: Doubles) -> Doubles:
        way = first - second
        return np.asarray(second + np.array([-way[1], way[0]]))

    source = np.stack([a, a + up, third(a, a + up)])
    target = np.stack([middle, middle + out_up, third(middle, middle + out_up)])
    return np.asarray(cv2.getAffineTransform(source.astype(np.float32), target.astype(np.float32)), np.float64)


def udp_affine(centre: Doubles, scale: Doubles, width: int, height: int) -> Doubles:
    across, along = (width - 1) / scale[0], (height - 1) / scale[1]
    return np.array([[across, 0, across * (scale[0] / 2 - centre[0])], [0, along, along * (scale[1] / 2 - centre[1])]])


def published_affine(preset: str, box: tuple[float, ...], width: int, height: int) -> Doubles:
    if preset == "alphapose":  # to corners, the last pixel included, and back
        box = (box[0], box[1], box[2] - 1, box[3] - 1)
    centre, scale = official_box(box, width, height)
    return (udp_affine if preset == "mmpose-udp" else three_points)(centre, scale, width, height)


PUBLISHED = pytest.mark.parametrize("preset", ["official", "mmpose", "alphapose", "mmpose-udp"])


@PUBLISHED
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_crop_is_the_published_warp(preset: str, box: tuple[float, ...], width: int, height: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8)
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), 2), np.uint8)
    row = CropRow(picture, np.array(box, np.float32))
    expected = cv2.warpAffine(picture, published_affine(preset, box, width, height), (width, height))
    ours = framing(preset, width, height).inputs([row])[0]
    assert np.abs(ours.astype(int) - expected).max() <= 2  # OpenCV rounds places to a 32nd


@PUBLISHED
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_answer_is_the_published_number(preset: str, box: tuple[float, ...], width: int, height: int) -> None:
    cells = np.random.default_rng(1).integers(4, 40, (17, 2))
    maps = np.zeros((1, 17, height // 4, width // 4), np.float32)
    maps[0, np.arange(17), cells[:, 1], cells[:, 0]] = 0.9  # alone: nothing to either side, so the cell itself
    answer = framing(preset, width, height).answers(
        [maps], [CropRow(np.zeros((9, 9, 3), np.uint8), np.array(box, np.float32))]
    )[0]
    affine = published_affine(preset, box, width, height)
    on_input = cells * np.float64(4)
    if preset == "mmpose-udp":
        on_input = np.asarray(cells / [width // 4 - 1, height // 4 - 1] * [width - 1, height - 1], np.float64)
    expected = (on_input - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T
    np.testing.assert_allclose(answer[:, :2], expected, atol=2e-3)
    np.testing.assert_allclose(answer[:, 2], 0.9)


def test_a_peak_leaning_right_is_a_quarter_of_a_cell_further() -> None:
    box = np.array([48.0, 64, 96, 128], np.float32)  # padded to 120 x 160: a cell is 2.5 pixels
    maps = np.zeros((1, 17, 64, 48), np.float32)
    maps[:, :, 32, 24], maps[:, :, 32, 25], maps[:, :, 31, 24] = 1, 0.6, 0.5
    answer = framing("official", 192, 256).answers([maps], [CropRow(np.zeros((9, 9, 3), np.uint8), box)])[0]
    np.testing.assert_allclose(answer[0], [96 + 0.25 * 2.5, 128 - 0.25 * 2.5, 1], atol=1e-4)


@PUBLISHED
def test_a_label_drawn_as_a_target_is_read_back(preset: str) -> None:
    frames = framing(preset, 192, 256)
    row = CropRow(np.zeros((9, 9, 3), np.uint8), np.array(BOXES[0], np.float32))
    labels = np.random.default_rng(2).uniform([110, 80], [180, 240], (17, 2)).astype(np.float32)
    cells = input_to_cells(to_input(labels, frames.crop(row)), frames.stride, frames.shift)
    maps, _ = gaussian_targets(cells[None], np.ones((1, 17)), 48, 64, 2.0)
    answer = frames.answers([maps], [row])[0]
    cell_px = 200 * 1.25 / 64
    within = 0.03 if preset == "mmpose-udp" else 0.27  # of a cell
    np.testing.assert_allclose(answer[:, :2], labels, atol=within * cell_px)


def test_without_a_transform_a_preset_is_what_it_was() -> None:
    plain, named = crop_of_box(BOXES[0], 192, 256), crop_of_box(BOXES[0], 192, 256, transform="centre")
    np.testing.assert_array_equal(plain.matrix, named.matrix)
    np.testing.assert_allclose(plain.matrix @ [145, 160, 1], [96, 128])


@pytest.mark.parametrize("rotation", [0.0, 25.0, -60.0])
@pytest.mark.parametrize("transform", ["official", "alphapose", "udp"])
def test_to_a_published_crop_and_back_is_the_identity(transform: Any, rotation: float) -> None:
    crop = crop_of_box(BOXES[1], 192, 256, rotation=rotation, transform=transform)
    points = np.random.default_rng(0).uniform(-50, 300, (17, 3)).astype(np.float32)
    np.testing.assert_allclose(to_picture(to_input(points, crop), crop), points, atol=1e-3)


def test_a_rotated_official_crop_is_the_official_one_turned_about_the_box() -> None:
    straight = crop_of_box(BOXES[0], 192, 256, transform="official")
    turned = crop_of_box(BOXES[0], 192, 256, rotation=90, transform="official")
    middle = to_input([145.0, 160.0], straight)
    np.testing.assert_allclose(to_input([145.0, 160.0], turned), middle, atol=1e-4)
    right, up = to_input([155.0, 160.0], turned) - middle, to_input([145.0, 150.0], straight) - middle
    np.testing.assert_allclose(right, up, atol=1e-4)  # counter-clockwise


def test_udp_crops_of_a_mirrored_picture_are_mirrored_crops() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (300, 280, 3), dtype=np.uint8)
    x, y, w, h = 90.0, 60.0, 90.0, 200.0
    # By numbers of pixel centres: the mirror of x is 279 - x.
    own = cut(picture, crop_of_box([x, y, w, h], 192, 256, transform="udp"))
    mirrored = cut(picture[:, ::-1].copy(), crop_of_box([279 - x - w, y, w, h], 192, 256, transform="udp"))
    assert np.abs(own[:, ::-1].astype(int) - mirrored).max() <= 8  # noise: a 32nd of a pixel shows
    assert PRESETS["mmpose-udp"]["flip_shift"] == 0


def test_udp_s_cells_reach_from_the_first_pixel_to_the_last() -> None:
    assert udp_stride(192, 256) == pytest.approx((191 / 47, 255 / 63))
    ends = cells_to_input([[0, 0], [47, 63]], udp_stride(192, 256))
    np.testing.assert_allclose(ends, np.array([[0.5, 0.5], [191.5, 255.5]]), atol=1e-4)


def udp_of_one(heatmap: NDArray[np.float32], blur: int) -> Doubles:
    """The published refinement for one map: pad, blur, scale to the old peak, clip, log, one Newton step."""
    rows, columns = heatmap.shape
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    border = blur // 2
    padded = np.zeros((rows + 2 * border, columns + 2 * border), np.float32)
    padded[border:-border, border:-border] = heatmap
    smooth = np.asarray(cv2.GaussianBlur(padded, (blur, blur), 0))[border:-border, border:-border]
    smooth = smooth * (heatmap.max() / smooth.max())
    log = np.pad(np.log(smooth.clip(1e-3, 50)), 1, mode="edge").astype(np.float64)
    at = log[y : y + 3, x : x + 3]
    slope = np.array([at[1, 2] - at[1, 0], at[2, 1] - at[0, 1]]) / 2
    xx, yy = at[1, 2] - 2 * at[1, 1] + at[1, 0], at[2, 1] - 2 * at[1, 1] + at[0, 1]
    xy = (at[2, 2] - at[1, 2] - at[2, 1] + 2 * at[1, 1] - at[1, 0] - at[0, 1] + at[0, 0]) / 2
    curvature = np.array([[xx, xy], [xy, yy]]) + np.finfo(np.float32).eps * np.eye(2)
    return np.asarray(np.array([x, y]) - np.linalg.solve(curvature, slope))


@pytest.mark.parametrize(("blur", "sigma"), [(11, 2.0), (17, 3.0)])
def test_udp_s_decoder_is_the_published_one_on_the_border_too(blur: int, sigma: float) -> None:
    positions = np.random.default_rng(3).uniform(0, [47, 63], (3, 17, 2)).astype(np.float32)
    maps, _ = gaussian_targets(positions, np.ones((3, 17)), 48, 64, sigma)
    maps = maps + np.random.default_rng(4).uniform(0, 0.05, maps.shape).astype(np.float32)
    expected = np.array([[udp_of_one(heatmap, blur) for heatmap in person] for person in maps])
    found, scores = decode_udp(maps, blur)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_array_equal(scores, maps.max((2, 3)))


def test_udp_s_decoder_has_no_step_on_flat_maps_and_none_for_nobody() -> None:
    found, scores = decode_udp(np.zeros((1, 2, 64, 48), np.float32))
    assert not found.any() and not scores.any()
    assert decode_udp(np.zeros((0, 17, 64, 48), np.float32))[0].shape == (0, 17, 2)
    with pytest.raises(ValueError, match=r"odd.*4"):
        decode_udp(np.zeros((1, 1, 64, 48), np.float32), blur=4)


@pytest.mark.parametrize(("preset", "shift"), [("official", 1), ("alphapose", 1), ("mmpose-udp", 0)])
def test_the_flip_test_averages_as_published(preset: str, shift: int) -> None:
    frames, box = framing(preset, 192, 256), np.array(BOXES[0], np.float32)
    maps = np.random.default_rng(5).random((2, 17, 64, 48)).astype(np.float32)
    row = CropRow(np.zeros((9, 9, 3), np.uint8), box, flip_test=True)
    merged = merge_mirrored(maps[:1], maps[1:], mirror_order(COCO17), shift)
    plain = CropRow(row.picture, box)
    np.testing.assert_array_equal(frames.answers([maps], [row])[0], frames.answers([merged], [plain])[0])


def test_an_unknown_transform_is_refused_with_the_known_ones() -> None:
    preset = {"width": 192, "height": 256, **PRESETS["official"], "transform": "half"}
    with pytest.raises(ValueError, match=r"`transform` must be one of centre, official, alphapose, udp, got 'half'"):
        PoseFraming(preset)


def test_alphapose_s_pixels_lose_the_means_of_bgr_and_are_not_divided_again() -> None:
    preset, pixel = PRESETS["alphapose"], np.array([200.0, 100.0, 50.0])
    normed = (pixel - preset["mean"]) / preset["deviation"]
    np.testing.assert_allclose(normed, pixel / 255 - np.array([0.406, 0.457, 0.480]))


def window(frames: int = 9) -> NDArray[np.float32]:
    points = np.random.default_rng(0).uniform(0, 1000, (frames, 17, 3)).astype(np.float32)
    points[..., 2] = 0.9
    return points


def test_points_are_normalised_by_the_picture_s_width() -> None:
    points = window()
    points[0, 0, :2], points[0, 1, :2], points[0, 2, :2] = (0, 0), (1000, 1002), (500, 501)
    channels = published_channels(points, (1000, 1002))
    np.testing.assert_allclose(channels[0, :3], np.array([[-1, -1.002], [1, 1.002], [0, 0]]), atol=1e-6)
    assert channels.shape == (9, 17, 2) and channels.dtype == np.float32


def test_an_unknown_joint_is_where_it_was_around_and_one_never_seen_is_in_the_middle() -> None:
    points = window()
    points[3, 5] = np.nan, np.nan, 0
    points[0, 6] = np.nan, np.nan, 0
    points[:, 7] = np.nan, np.nan, 0
    before = points.copy()
    channels = published_channels(points, (1000, 1000))
    np.testing.assert_array_equal(points, before)
    assert np.isfinite(channels).all()
    np.testing.assert_allclose(channels[3, 5], (channels[2, 5] + channels[4, 5]) / 2, atol=1e-6)
    np.testing.assert_allclose(channels[0, 6], channels[1, 6], atol=1e-6)
    np.testing.assert_allclose(channels[:, 7], np.delete(channels, 7, axis=1).mean(1), atol=1e-6)


def test_a_window_without_any_joint_is_still_made_of_numbers() -> None:
    assert not published_channels(np.full((3, 17, 3), np.nan, np.float32), (640, 480)).any()


def test_a_published_lifter_looks_in_the_mirror_too_where_a_row_asks_for_it() -> None:
    framing, skeleton, size = PublishedLiftFraming(9), SKELETONS["h36m17"], (640, 480)
    rng = np.random.default_rng(3)
    points = np.concatenate([rng.uniform(0, 480, (2, 9, 17, 2)), np.ones((2, 9, 17, 1))], -1).astype(np.float32)
    mix, bias = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=(17, 3)).astype(np.float32)

    def network(windows: NDArray[Any]) -> NDArray[Any]:
        """Knows no symmetry by itself."""
        pose: NDArray[Any] = np.tanh(windows[:, 4:5] @ mix) + bias
        return pose

    rows = [
        WindowRow(points[1], size, True),
        WindowRow(points[0], size, True, mirror_test=True),
        WindowRow(mirror_points(points[0], skeleton, size[0]), size, True, mirror_test=True),
    ]
    inputs = framing.inputs(rows)
    assert len(inputs) == sum(row.cost for row in rows) == 5
    plain, pose, other = (answer[4] for answer in framing.answers([network(inputs)], rows))
    np.testing.assert_allclose(other[mirror_order(skeleton)] * [-1, 1, 1], pose, atol=1e-5)
    alone = framing.answers([network(framing.inputs(rows[:1]))], rows[:1])[0][4]
    np.testing.assert_array_equal(plain, alone)


def test_only_the_centre_frame_is_answered_and_its_pelvis_is_the_origin() -> None:
    frames = PublishedLiftFraming(9)
    rows = [WindowRow(window(), (1000, 1000), True), WindowRow(window(), (640, 480), False)]
    assert frames.inputs(rows).shape == (2, *frames.example().shape[1:]) == (2, 9, 17, 2)
    poses = np.random.default_rng(0).normal(size=(2, 1, 17, 3)).astype(np.float32)
    before = poses.copy()
    answers = frames.answers([poses], rows)
    np.testing.assert_array_equal(poses, before)
    for answer, pose in zip(answers, poses, strict=True):
        np.testing.assert_array_equal(answer[4, 1:], pose[0, 1:])
        assert not answer[4, 0].any()
        assert np.isnan(np.delete(answer, 4, axis=0)).all()
