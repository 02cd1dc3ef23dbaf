"""The detector's and the finder's framing: made networks, whose truth is known, must be read at the right pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from service.engines.engine import Engine
from service.engines.framing import (
    CropRow,
    FinderFraming,
    Found,
    PictureRow,
    PoseFraming,
)
from service.geometry.crops import input_to_cells
from service.geometry.heatmaps import gaussian_targets
from service.geometry.skeletons import SKELETONS, mirror_order

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

COCO = SKELETONS["coco17"]
# Cells whose centres lie at 4c + 2: mirrored, a cell falls on a cell, so the flip test is exact.
SYMMETRIC = (-1.5, -1.5)
POSE = {
    "width": 96,
    "height": 128,
    "padding": 1.25,
    "decode": "dark",
    "blur": 3,
    "stride": 4.0,
    "shift": SYMMETRIC,
    "flip_shift": 0,
}


# ---- The detector's


def spots(width: int, height: int, red: Sequence[float], blue: Sequence[float], deviation: float) -> Pixels:
    """Black, with two round spots of light around (x, y)."""
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    picture = np.zeros((height, width, 3), np.uint8)
    for channel, (at_x, at_y) in ((0, red), (2, blue)):
        light = np.outer(np.exp(-((y - at_y) ** 2) / 2 / deviation**2), np.exp(-((x - at_x) ** 2) / 2 / deviation**2))
        picture[..., channel] = np.round(255 * light)
    return picture


class SpotNetwork:
    """Finds the left joints at the spot that lies further right, the right ones at the other, the nose between them.

    So it sees in a mirror what it should: left and right trade places.
    """

    def __init__(self, shift: tuple[float, float] = SYMMETRIC, peak: float = 0.8) -> None:
        self.shift, self.peak = shift, peak
        self.sizes: list[int] = []

    def __call__(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        self.sizes.append(len(inputs))
        return [np.stack([self.heatmaps(picture) for picture in inputs])]

    def heatmaps(self, picture: Pixels) -> Array:
        height, width = picture.shape[:2]
        middles = []
        for channel in (0, 2):
            light = picture[..., channel].astype(np.float64)
            x, y = light.sum(0) @ (np.arange(width) + 0.5), light.sum(1) @ (np.arange(height) + 0.5)
            middles.append(np.array([x, y]) / light.sum())
        right, left = sorted(middles, key=lambda middle: float(middle[0]))
        joints = np.tile((left + right) / 2, (17, 1))
        for left_joint, right_joint in COCO.pairs:
            joints[left_joint], joints[right_joint] = left, right
        cells = input_to_cells(joints[None], 4.0, self.shift)
        maps, _ = gaussian_targets(cells, np.ones((1, 17), bool), width // 4, height // 4, 2.0)
        return np.asarray(self.peak * maps[0], np.float32)


def pose_engine(network: SpotNetwork, **preset: Any) -> Engine:
    return Engine(
        "spots@1",
        "pose",
        PoseFraming(POSE | preset),
        network,
        sizes=(1, 2, 4),
        budget=4,
        pads=False,
        runtime="fake",
        precision="f32",
    )


def poses(engine: Engine, rows: Sequence[CropRow]) -> list[Array]:
    answers: list[Array] = engine.run(engine.prepare(rows))
    return answers


def row(picture: Pixels, box: ArrayLike, flip_test: bool = False) -> CropRow:
    return CropRow(picture, np.asarray(box, np.float32), flip_test)


LEFT_WRIST, RIGHT_WRIST, NOSE = (COCO.joints.index(name) for name in ("left_wrist", "right_wrist", "nose"))


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("decode", ["dark", "quarter"])
@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((400, 300), (100, 50, 96, 128)),  # nearly the input's pixels
        ((400, 300), (60.3, 20.7, 150.2, 260.9)),
        ((400, 300), (150, 100, 30, 60)),  # enlarged
        ((400, 300), (-40, -30, 200, 220)),  # over the border
        ((400, 300), (20, 90, 300, 80)),  # wide
        ((1600, 1200), (300, 150, 700, 950)),  # shrunk, and so averaged first
    ],
)
def test_a_peak_is_read_at_its_pixel_in_the_picture(
    size: tuple[int, int], box: tuple[float, ...], decode: str, flip_test: bool
) -> None:
    x, y, width, height = box
    red = (x + 0.7 * width, max(y, 0) + 0.5 * height)
    blue = (max(x, 0) + 0.35 * width, max(y, 0) + 0.4 * height)
    cell = 4 * 1.25 * max(width / 96, height / 128)  # in picture pixels
    picture = spots(*size, red, blue, 0.5 * cell)
    (points,) = poses(pose_engine(SpotNetwork(), decode=decode), [row(picture, box, flip_test)])
    least = 0.05 if decode == "dark" else 0.3  # of a cell
    np.testing.assert_allclose(points[LEFT_WRIST, :2], red, atol=least * cell + 0.02)
    np.testing.assert_allclose(points[RIGHT_WRIST, :2], blue, atol=least * cell + 0.02)
    np.testing.assert_allclose(points[NOSE, :2], np.add(red, blue) / 2, atol=least * cell + 0.02)
    assert points.shape == (17, 3)
    assert points.dtype == np.float32


def test_a_published_shift_is_taken_out_again() -> None:
    picture = spots(400, 300, (160, 120), (140, 100), 2)
    there = (1.0, 0.6)
    (points,) = poses(pose_engine(SpotNetwork(there), shift=there), [row(picture, (100, 50, 96, 128))])
    np.testing.assert_allclose(points[LEFT_WRIST, :2], (160, 120), atol=0.3)


def test_the_flip_test_of_a_network_that_sees_alike_in_a_mirror_changes_nothing() -> None:
    picture = spots(400, 300, (170, 140), (130, 90), 3)
    engine = pose_engine(SpotNetwork())
    plain, tested = (poses(engine, [row(picture, (90, 40, 110, 150), flip)])[0] for flip in (False, True))
    np.testing.assert_allclose(tested, plain, atol=0.02)


def test_the_flip_test_averages_the_two_views() -> None:
    class Unsure(SpotNetwork):
        """Sure of the first of two inputs only."""

        def __call__(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
            heatmaps = super().__call__(inputs)[0]
            heatmaps[1::2] *= 0.5
            return [heatmaps]

    picture = spots(400, 300, (170, 140), (130, 90), 3)
    plain, tested = (
        poses(pose_engine(Unsure()), [row(picture, (90, 40, 110, 150), flip)])[0][:, 2] for flip in (False, True)
    )
    np.testing.assert_allclose(tested, 0.75 * plain, atol=0.01)


def test_a_mirrored_picture_gives_mirrored_joints() -> None:
    picture = spots(400, 300, (170, 140), (130, 90), 3)
    engine = pose_engine(SpotNetwork())
    (points,) = poses(engine, [row(picture, (90, 40, 110, 150))])
    (mirrored,) = poses(engine, [row(picture[:, ::-1], (400 - 90 - 110, 40, 110, 150))])
    back = mirrored[mirror_order(COCO)] * [-1, 1, 1] + [400, 0, 0]
    np.testing.assert_allclose(back, points, atol=0.05)


def test_flip_tested_rows_among_plain_ones_come_back_in_order_and_as_alone() -> None:
    network = SpotNetwork()
    engine = pose_engine(network)
    rows = [
        row(spots(300, 200, (150 + 5 * n, 120), (120, 80 + 3 * n), 3), (90, 30, 100, 140), flip_test=n % 3 == 1)
        for n in range(8)
    ]
    together = poses(engine, rows)
    assert set(network.sizes) <= {1, 2, 4}
    for n, each in enumerate(rows):
        np.testing.assert_allclose(together[n], poses(engine, [each])[0], atol=1e-4)
        assert together[n][LEFT_WRIST, 0] == pytest.approx(150 + 5 * n, abs=1)


@pytest.mark.parametrize(("peak", "score"), [(0.4, 0.4), (1.3, 1.0), (-0.2, 0.0)])
def test_scores_stay_between_nothing_and_one(peak: float, score: float) -> None:
    picture = spots(300, 200, (150, 120), (120, 80), 3)
    (points,) = poses(pose_engine(SpotNetwork(peak=peak)), [row(picture, (90, 30, 100, 140))])
    np.testing.assert_allclose(points[:, 2], score, atol=0.03)
    assert points[:, 2].min() >= 0
    assert points[:, 2].max() <= 1


def test_rows_are_left_as_they_were() -> None:
    picture = spots(300, 200, (150, 120), (120, 80), 3)
    picture.flags.writeable = False
    box = np.array([90, 30, 100, 140], np.float32)
    box.flags.writeable = False
    poses(pose_engine(SpotNetwork()), [CropRow(picture, box, True), CropRow(picture, box)])
    assert (CropRow(picture, box).cost, CropRow(picture, box, True).cost) == (1, 2)


def test_the_example_is_an_input() -> None:
    framing = PoseFraming(POSE)
    made = framing.inputs([row(spots(300, 200, (150, 120), (120, 80), 3), (90, 30, 100, 140))])
    assert framing.example().shape == made.shape
    assert framing.example().dtype == made.dtype


def test_an_unknown_decoder_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(ValueError, match=r"`decode` must be one of dark, quarter, argmax.*got 'soft'"):
        PoseFraming(POSE | {"decode": "soft"})


# ---- The finder's

SIDE = 320


def levels(*cells: tuple[int, int, int, float, Sequence[float]], nothing: float = -10.0) -> list[Array]:
    """One picture's output: `nothing` everywhere but (stride, row, column, logit, left top right bottom)."""
    maps = {stride: np.full((1, SIDE // stride, SIDE // stride, 5), nothing, np.float32) for stride in (8, 16, 32)}
    for stride, down, across, logit, distances in cells:
        maps[stride][0, down, across] = [logit, *distances]
    return list(maps.values())


def cell_of(
    box: Sequence[float], scale: float, stride: int, logit: float = 3.0
) -> tuple[int, int, int, float, list[float]]:
    """The cell that lies in the middle of a box, and the distances from it that say where the box is."""
    x, y, width, height = (scale * number for number in box)
    down, across = int((y + height / 2) // stride), int((x + width / 2) // stride)
    at_x, at_y = across * stride, down * stride
    return stride, down, across, logit, [at_x - x, at_y - y, x + width - at_x, y + height - at_y]


def find(picture: Pixels, output: Sequence[Array]) -> Found:
    return FinderFraming({"suppress_iou": 0.6}, SIDE).answers(output, [PictureRow(picture)])[0]


def blank(width: int, height: int) -> Pixels:
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(640, 640), (640, 480), (480, 640), (1280, 160), (160, 1280), (320, 320), (100, 60)])
def test_a_cell_is_read_as_its_box_in_the_picture(size: tuple[int, int], stride: int) -> None:
    width, height = size
    box = [0.3 * width, 0.25 * height, 0.4 * width, 0.5 * height]
    found = find(blank(width, height), levels(cell_of(box, SIDE / max(size), stride)))
    np.testing.assert_allclose(found.boxes, [box], atol=1e-3)
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-3))], rtol=1e-5)
    assert found.boxes.dtype == found.scores.dtype == np.float32


@pytest.mark.parametrize("size", [(640, 480), (333, 77), (77, 333), (1000, 999), (90, 60)])
def test_what_lies_somewhere_in_the_letterboxed_square_lies_there_in_the_picture(size: tuple[int, int]) -> None:
    width, height = size
    picture = blank(width, height)
    x, y = width // 4, height // 3
    picture[y : y + height // 3, x : x + width // 2] = 255
    square = FinderFraming({"suppress_iou": 0.6}, SIDE).inputs([PictureRow(picture)])[0]
    lit = (square[..., 0] > 127) & (square[..., 1] > 127)
    down, across = np.nonzero(lit)
    corners = [across.min(), down.min(), across.max() + 1 - across.min(), down.max() + 1 - down.min()]
    found = find(picture, levels(cell_of(corners, 1, 8)))
    scale = max(size) / SIDE  # picture pixels in one of the square's
    np.testing.assert_allclose(found.boxes, [[x, y, width // 2, height // 3]], atol=scale + 1e-3)


def test_people_come_by_falling_score_and_once_each() -> None:
    weak, strong, twin = [20, 40, 60, 120], [180, 60, 80, 160], [184, 62, 80, 160]
    found = find(
        blank(SIDE, SIDE),
        levels(cell_of(weak, 1, 8, 0.5), cell_of(strong, 1, 16, 2.5), cell_of(twin, 1, 8, 1.5)),
    )
    np.testing.assert_allclose(found.boxes, [strong, weak], atol=1e-3)
    assert found.scores[0] > found.scores[1]


@pytest.mark.parametrize("least", [0.0, 0.05, 0.27, 0.5, 0.9, 1.0])
def test_a_least_score_leaves_out_weaker_boxes_and_no_other(least: float) -> None:
    generator = np.random.default_rng(5)
    output = []
    for stride in (8, 16, 32):
        side = SIDE // stride
        logits = generator.normal(-2, 2, (1, side, side, 1))
        output.append(np.concatenate([logits, generator.uniform(5, 60, (1, side, side, 4))], axis=-1, dtype=np.float32))
    framing, picture = FinderFraming({"suppress_iou": 0.6}, SIDE), blank(SIDE, SIDE)
    every = framing.answers(output, [PictureRow(picture)])[0]
    asked = framing.answers(output, [PictureRow(picture, least_score=least)])[0]
    kept = every.scores >= least
    np.testing.assert_array_equal(asked.boxes[asked.scores >= least], every.boxes[kept])
    np.testing.assert_array_equal(asked.scores[asked.scores >= least], every.scores[kept])
    assert (asked.scores >= least - 1e-5).all()


def test_boxes_end_at_the_pictures_edges() -> None:
    found = find(blank(640, 480), levels(cell_of([-30, -20, 800, 700], 0.5, 32)))
    np.testing.assert_allclose(found.boxes, [[0, 0, 640, 480]], atol=1e-3)


def test_nobody_in_the_picture_is_no_boxes_however_sure_the_network_is() -> None:
    for nothing in (-5.0, -200.0, np.finfo(np.float32).min):
        found = find(blank(200, 100), levels(nothing=float(nothing)))
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == (0,)


def test_pictures_of_a_batch_are_not_mixed_up() -> None:
    boxes = [[10.0, 20.0, 50.0, 90.0], [200.0, 30.0, 60.0, 120.0]]
    each = [levels(cell_of(box, 1, 16)) for box in boxes]
    output = [np.concatenate(level) for level in zip(*each, strict=True)]
    rows = [PictureRow(blank(SIDE, SIDE))] * 2
    found = FinderFraming({"suppress_iou": 0.6}, SIDE).answers(output, rows)
    np.testing.assert_allclose([one.boxes[0] for one in found], boxes, atol=1e-3)


def test_pictures_of_any_size_make_one_input() -> None:
    framing = FinderFraming({"suppress_iou": 0.6}, SIDE)
    made = framing.inputs([PictureRow(blank(640, 480)), PictureRow(blank(31, 900)), PictureRow(blank(1, 1))])
    assert made.shape == (3, SIDE, SIDE, 3)
    assert made.dtype == framing.example().dtype
    assert made.shape[1:] == framing.example().shape[1:]
