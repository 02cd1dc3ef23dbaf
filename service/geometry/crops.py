"""Pictures to network inputs, and the way back: crops of people and the letterbox of the whole picture.

Every frame here has its origin at the corner, so that the first pixel's centre is (0.5, 0.5); a box, a point and a
matrix speak of that frame. OpenCV's warp and published networks count from pixel centres: this file, and no other,
takes the half pixel off and puts it back. Knows no networks; strides and shifts of their heatmaps are arguments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .planes import AnyPicture, Picture, Planes, halved

# How a box becomes a crop: ours, or a published network's own arithmetic.
Transform = Literal["centre", "official", "alphapose", "udp"]
TRANSFORMS: tuple[Transform, ...] = get_args(Transform)

# A picture that a crop shrinks to under this is first halved, until it is not: a bilinear warp reads 2x2 pixels
# whatever the scale, and skips the others. Both figures are those that the public detector's AP was measured with.
LEAST_SCALE = 0.6
SMALL_SIDE_PX = 160
# Around the letterboxed picture, as RTMDet was trained.
LETTERBOX_GREY = 114


@dataclass(frozen=True, eq=False)
class Crop:
    """Where in the picture a network's input lies.

    matrix: (2, 3) float64, picture pixels to input pixels, both from the corner.
    width, height: of the input in pixels.
    half: what is added to the numbers of points before the matrix, and taken off after its inverse. 0.5 for published
    arithmetic, which takes the numbers of boxes and labels, written from the corner, for positions of pixel centres;
    its networks learned to answer in those numbers.
    """

    matrix: NDArray[np.float64]
    width: int
    height: int
    half: float = 0.0


def crop_of_box(
    box: ArrayLike,
    width: int,
    height: int,
    padding: float = 1.25,
    rotation: float = 0.0,
    transform: Transform = "centre",
) -> Crop:
    """The crop around a box: grown about its middle to the input's aspect, then by `padding`.

    HRNet's arithmetic (centre, scale, rotation). The transforms differ by parts of a pixel, which AP notices:
    `centre` puts the box's middle in the input's; `official` (HRNet, MMPose) counts both from pixel centres, which
    puts it half an input pixel further; `alphapose` does so with a box one pixel smaller, its last pixel being
    x + width - 1; `udp` (Huang et al., CVPR 2020) measures in intervals between pixel centres, of which an input of n
    pixels has n - 1, and so has a scale for each axis.

    Args:
        box: (4,) x, y, width, height in picture pixels. A side under one pixel counts as one.
        width, height: of the input in pixels.
        padding: how much larger than the box the crop is.
        rotation: degrees by which the picture turns counter-clockwise on screen.
    """
    # Plain numbers: arrays of two take NumPy fifty times as long, and every crop comes through here twice.
    x, y, box_width, box_height = np.asarray(box, np.float64).tolist()
    if transform == "alphapose":
        box_width, box_height = box_width - 1, box_height - 1
    wide = max(box_width, box_height * width / height, 1.0) * padding
    tall = wide * height / width
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    across, along = ((width - 1) / wide, (height - 1) / tall) if transform == "udp" else (width / wide, width / wide)
    half = 0.0 if transform == "centre" else 0.5
    middle_x, middle_y = x + box_width / 2 + half, y + box_height / 2 + half
    further = half if transform in ("official", "alphapose") else 0.0
    shift_x = width / 2 + further - across * (cos * middle_x + sin * middle_y)
    shift_y = height / 2 + further - along * (cos * middle_y - sin * middle_x)
    turn = [[across * cos, across * sin, shift_x], [-along * sin, along * cos, shift_y]]
    return Crop(np.array(turn), width, height, half)


def cut(picture: AnyPicture, crop: Crop) -> Picture:
    """The pixels of a crop, by bilinear interpolation; black outside the picture.

    Where the crop shrinks the picture to under LEAST_SCALE, the part it needs is first halved by averages of 2x2.

    Args:
        picture: (height, width, channels) uint8, or planes.

    Returns:
        (crop.height, crop.width, channels) uint8.
    """
    part = _part(picture, crop)
    size = (crop.width, crop.height)
    if part is None:
        return np.zeros((crop.height, crop.width, picture.shape[2]), np.uint8)
    # Of four channels OpenCV makes the same pixels in half the time, the way there and back included.
    if isinstance(picture, Planes):
        warped = cv2.warpAffine(picture.part(*part.edges), part.matrix, size, borderValue=picture.colours.black)
        return picture.rgb(np.asarray(warped, np.uint8))
    pixels = _halved_part(picture, part)
    three = pixels.shape[2] == 3
    wide = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA) if three else pixels
    warped = cv2.warpAffine(wide, part.matrix, size, flags=cv2.INTER_LINEAR)
    return (cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB) if three else warped).astype(np.uint8, copy=False)


def part_for(picture: AnyPicture, crop: Crop) -> tuple[Picture, NDArray[np.float64]]:
    """What of a picture a crop is made of, for devices that warp it themselves.

    Returns:
        part: (height, width, channels) uint8, a view or halved as often as the crop asks for; empty where the crop has
            nothing of the picture.
        matrix: (2, 3) float64 from the part's pixels to the crop's, both counted from pixel centres.
    """
    part = _part(picture, crop)
    if part is None:
        return np.zeros((0, 0, picture.shape[2]), np.uint8), np.eye(2, 3)
    return _halved_part(picture, part), part.matrix


@dataclass(frozen=True, eq=False)
class _Part:
    """edges: top, bottom, left, right in the picture's pixels, and the step of the halving; matrix: as `part_for`."""

    edges: tuple[int, int, int, int, int]
    matrix: NDArray[np.float64]


def _part(picture: AnyPicture, crop: Crop) -> _Part | None:
    """Which part of the picture a crop needs; None where there is nothing."""
    tall, wide = picture.shape[:2]
    (xx, xy, x), (yx, yy, y) = crop.matrix.tolist()
    area = xx * yy - xy * yx
    step = _shrinking(math.sqrt(abs(area)), wide, tall)
    # Where the crop's first corner lies, and from there its two sides: as `_back` has them.
    corner = (xy * y - yy * x) / area, (yx * x - xx * y) / area
    sides = (
        (yy * crop.width / area, -xy * crop.height / area),
        (-yx * crop.width / area, xx * crop.height / area),
    )
    # Only the crop's part of a large photo is worth halving. Its corner lies on the grid of the halved pixels, and two
    # of those around it see to it that no crop pixel meets the part's edge unless it meets the picture's.
    edges = []
    for at, side, most in zip(corner, sides, (wide, tall), strict=True):
        low, high = at + sum(min(each, 0) for each in side), at + sum(max(each, 0) for each in side)
        first, last = (math.floor(low / step) - 2) * step, (math.ceil(high / step) + 2) * step
        edges.append((max(first, 0), min(last, most)))
    (left, right), (top, bottom) = edges
    if right <= left or bottom <= top:
        return None
    matrix = np.array(
        [
            [xx * step, xy * step, xx * (left + step / 2) + xy * (top + step / 2) + x - 0.5],
            [yx * step, yy * step, yx * (left + step / 2) + yy * (top + step / 2) + y - 0.5],
        ]
    )
    return _Part((top, bottom, left, right, step), matrix)


def _halved_part(picture: AnyPicture, part: _Part) -> Picture:
    top, bottom, left, right, step = part.edges
    if isinstance(picture, Planes):
        return picture.rgb(picture.part(*part.edges))
    return halved(picture[top:bottom, left:right], step)


def to_picture(points: ArrayLike, crop: Crop) -> NDArray[np.float32]:
    """Points (..., 2 or more) whose first two numbers are x, y in input pixels, in picture pixels; the rest stays."""
    given = np.asarray(points, np.float64)
    return np.concatenate([_back(given[..., :2], crop) - crop.half, given[..., 2:]], axis=-1).astype(np.float32)


def to_input(points: ArrayLike, crop: Crop) -> NDArray[np.float32]:
    """Points (..., 2 or more) whose first two numbers are x, y in picture pixels, in input pixels; the rest stays."""
    given = np.asarray(points, np.float64)
    moved = (given[..., :2] + crop.half) @ crop.matrix[:, :2].T + crop.matrix[:, 2]
    return np.concatenate([moved, given[..., 2:]], axis=-1).astype(np.float32)


def cells_to_input(
    positions: ArrayLike, stride: float | tuple[float, float] = 4.0, shift: tuple[float, float] = (0.0, 0.0)
) -> NDArray[np.float32]:
    """Heatmap cells to input pixels: `cell * stride - shift` counted from pixel centres, then from the corner.

    Args:
        positions: (..., 2), (x, y) in cells from the centre of the top-left one.
        stride: input pixels between two cells' centres, for both axes or each; see `udp_stride`.
        shift: pixels that the network answers too far right and down; a preset's figure. HRNet (0, 0), the public
            PP-TinyPose (0.5, 0.1), fitted on labels read as counting from pixel centres; both with stride 4.
    """
    half = np.subtract(0.5, shift)
    moved: NDArray[np.float64] = np.asarray(positions, np.float64) * np.asarray(stride) + half
    return moved.astype(np.float32)


def input_to_cells(
    points: ArrayLike, stride: float | tuple[float, float] = 4.0, shift: tuple[float, float] = (0.0, 0.0)
) -> NDArray[np.float32]:
    """Input pixels to heatmap cells, where a training target has its centre: the inverse of `cells_to_input`."""
    half = np.subtract(0.5, shift)
    moved: NDArray[np.float64] = (np.asarray(points, np.float64) - half) / np.asarray(stride)
    return moved.astype(np.float32)


def udp_stride(width: int, height: int, stride: float = 4.0) -> tuple[float, float]:
    """Input pixels between two cells' centres by UDP: the first and last cells' centres are the input's first and last
    pixels' (191 / 47 and 255 / 63 for 192 x 256)."""
    across, along = ((side - 1) / (side / stride - 1) for side in (width, height))
    return across, along


def letterbox(picture: AnyPicture, side: int) -> tuple[Picture, tuple[float, float]]:
    """The whole picture in a square: scaled to fit, at the top left, grey beside it.

    Args:
        picture: (height, width, 3) uint8, or planes.
        side: of the square in pixels.

    Returns:
        square: (side, side, 3) uint8.
        scale: (sx, sy); they differ by the rounding to whole pixels. `picture_x = square_x / sx`, from the corner.
    """
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    fitted_width, fitted_height = max(1, round(width * scale)), max(1, round(height * scale))
    # Averages against aliasing, once pixels are skipped. Whole pixels' means first, where sides allow it (films' do),
    # are nearly the same (box AP within 0.001) in a sixth of the time.
    step = 1
    while 2 * step * scale <= 1 and height % (2 * step) == width % (2 * step) == 0:
        step *= 2
    how = cv2.INTER_LINEAR if step * scale > 0.5 else cv2.INTER_AREA
    square = np.full((side, side, 3), LETTERBOX_GREY, np.uint8)
    if isinstance(picture, Planes):
        fewer = cv2.resize(picture.part(0, height, 0, width, step), (fitted_width, fitted_height), interpolation=how)
        square[:fitted_height, :fitted_width] = picture.rgb(np.asarray(fewer, np.uint8))
    else:
        fewer = cv2.resize(halved(picture, step), (fitted_width, fitted_height), interpolation=how)
        square[:fitted_height, :fitted_width] = fewer
    return square, (fitted_width / width, fitted_height / height)


def _back(points: NDArray[np.float64], crop: Crop) -> NDArray[np.float64]:
    (xx, xy, x), (yx, yy, y) = crop.matrix.tolist()
    area = xx * yy - xy * yx
    across, along = points[..., 0] - x, points[..., 1] - y
    moved = np.empty_like(points)
    moved[..., 0], moved[..., 1] = (yy * across - xy * along) / area, (xx * along - yx * across) / area
    return moved


def _shrinking(scale: float, width: int, height: int) -> int:
    """The power of two by which a picture is shrunk before a warp of that scale."""
    step = 1
    while scale * step < LEAST_SCALE and min(width, height) > SMALL_SIDE_PX:
        width, height, step = round(width / 2), round(height / 2), step * 2
    return step
