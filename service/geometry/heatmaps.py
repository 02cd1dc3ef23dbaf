"""Heatmaps to keypoints and back. Positions are (x, y) in cells, from the centre of the top-left one.

Moving them into input or picture pixels is the crop's business, in crops.py. Knows no networks.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]

# The logarithm of an empty cell must stay finite; the figure is the published decoder's.
LEAST_VALUE = 1e-6
# A Taylor step longer than this left the neighbourhood that it was computed from.
LONGEST_STEP_CELLS = 2.0
# Of UDP's decoder: values are kept between these before the logarithm.
UDP_LEAST, UDP_MOST = 1e-3, 50.0


def decode_argmax(heatmaps: Floats) -> tuple[Floats, Floats]:
    """Reads the highest cell of each heatmap.

    Args:
        heatmaps: (people, joints, height, width), float, finite.

    Returns:
        positions: (people, joints, 2) float32, (x, y) in cells, whole numbers.
        scores: (people, joints) float32, the height of each peak, as it is.
    """
    x, y, scores = _peaks(heatmaps)
    shape = heatmaps.shape[:2]
    return np.stack([x, y], axis=-1).reshape(*shape, 2).astype(np.float32), scores.reshape(shape)


def decode_quarter(heatmaps: Floats) -> tuple[Floats, Floats]:
    """Reads the highest cell, moved a quarter of a cell towards the higher neighbour along each axis.

    The rule of HRNet's authors, to be used where their scores are reproduced: it shifts only peaks with
    1 < x < width - 1 and 1 < y < height - 1, and puts a map without any value over 0 at (0, 0).

    Args, returns: as `decode_argmax`, the positions in quarters.
    """
    x, y, scores = _peaks(heatmaps)
    people, joints, height, width = heatmaps.shape
    maps = heatmaps.reshape(-1, height, width)
    each = np.arange(len(maps))
    inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    left, right = np.maximum(x - 1, 0), np.minimum(x + 1, width - 1)
    up, down = np.maximum(y - 1, 0), np.minimum(y + 1, height - 1)
    toward_x = np.sign(maps[each, y, right] - maps[each, y, left])
    toward_y = np.sign(maps[each, down, x] - maps[each, up, x])
    positions = np.stack([x + 0.25 * inner * toward_x, y + 0.25 * inner * toward_y], axis=-1)
    positions[scores <= 0] = 0
    return positions.reshape(people, joints, 2).astype(np.float32), scores.reshape(people, joints)


def decode_dark(heatmaps: Floats, blur: int = 3) -> tuple[Floats, Floats]:
    """Reads each peak to a fraction of a cell: DARK, a second-order Taylor step on the blurred map's logarithm.

    Zhang et al., "Distribution-aware coordinate representation for human pose estimation", CVPR 2020. Peaks within two
    cells of the border stay on their cell, and so do those whose step would be longer than LONGEST_STEP_CELLS. Only
    the neighbourhoods of the peaks are blurred.

    Args:
        heatmaps: (people, joints, height, width), float, finite.
        blur: odd width in cells of the Gaussian, OpenCV's deviation for that width; 3 for PP-TinyPose, the paper's own
            is 11 for targets of deviation 2.

    Returns:
        positions: (people, joints, 2) float32, (x, y) in cells.
        scores: (people, joints) float32, the height of each peak before the blur, as it is.
    """
    if blur < 1 or blur % 2 == 0:
        raise ValueError(f"`blur` must be an odd number of cells, got {blur}")
    x, y, scores = _peaks(heatmaps)
    people, joints, height, width = heatmaps.shape
    positions = np.stack([x, y], axis=-1).astype(np.float64)
    inner = np.flatnonzero((x >= 2) & (x < width - 2) & (y >= 2) & (y < height - 2))

    # 5 cells around the peak after the blur need 5 + blur - 1 before it; beyond the border its cells repeat.
    reach = np.arange(-2 - blur // 2, 3 + blur // 2)
    rows = (y[inner, None] + reach).clip(0, height - 1)
    columns = (x[inner, None] + reach).clip(0, width - 1)
    patches = heatmaps.reshape(-1, height, width)[inner[:, None, None], rows[:, :, None], columns[:, None, :]]
    sliding = _sliding(blur)
    log = np.log(np.maximum(sliding @ patches.astype(np.float64) @ sliding.T, LEAST_VALUE))  # (peaks, 5, 5)

    dx, dy = (log[:, 2, 3] - log[:, 2, 1]) / 2, (log[:, 3, 2] - log[:, 1, 2]) / 2
    dxx = (log[:, 2, 4] - 2 * log[:, 2, 2] + log[:, 2, 0]) / 4
    dyy = (log[:, 4, 2] - 2 * log[:, 2, 2] + log[:, 0, 2]) / 4
    dxy = (log[:, 3, 3] - log[:, 1, 3] - log[:, 3, 1] + log[:, 1, 1]) / 4
    determinant = dxx * dyy - dxy * dxy
    curved = np.abs(determinant) > 1e-9
    step = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=-1) / np.where(curved, determinant, 1)[:, None]
    near = curved & (np.abs(step).max(axis=-1) < LONGEST_STEP_CELLS)
    positions[inner[near]] += step[near]
    return positions.reshape(people, joints, 2).astype(np.float32), scores.reshape(people, joints)


@lru_cache(maxsize=8)
def _sliding(blur: int) -> NDArray[np.float64]:
    """(5, 5 + blur - 1): a row for each of five cells, the blur's kernel where it lies for that cell."""
    kernel = np.asarray(cv2.getGaussianKernel(blur, 0), np.float64).ravel()
    return np.stack([np.pad(kernel, (i, 4 - i)) for i in range(5)])


def decode_udp(heatmaps: Floats, blur: int = 11) -> tuple[Floats, Floats]:
    """Reads each peak to a fraction of a cell by UDP's rule, where the published scores of UDP networks are wanted.

    Huang et al., "The devil is in the details", CVPR 2020, as MMPose has it: DARK's step, but with differences over
    single cells, on the map's border too (its edge repeated), and from the whole map blurred with nothing around it
    and scaled to its former peak. A step longer than LONGEST_STEP_CELLS is not made: there theirs leaves the map.

    Args:
        heatmaps: (people, joints, height, width), float, finite.
        blur: odd width in cells of the Gaussian; 11 for targets of deviation 2 (256x192), 17 for 3 (384x288).

    Returns:
        positions: (people, joints, 2) float32, (x, y) in cells.
        scores: (people, joints) float32, the height of each peak before the blur, as it is.
    """
    if blur < 1 or blur % 2 == 0:
        raise ValueError(f"`blur` must be an odd number of cells, got {blur}")
    x, y, scores = _peaks(heatmaps)
    people, joints, height, width = heatmaps.shape
    nine = np.empty((len(x), 3, 3))  # the log of the cells around each peak
    for each, heatmap in enumerate(heatmaps.reshape(-1, height, width)):
        smooth = cv2.GaussianBlur(
            np.ascontiguousarray(heatmap, np.float32), (blur, blur), 0, borderType=cv2.BORDER_CONSTANT
        )
        highest = float(smooth.max())
        smooth = smooth * (float(scores[each]) / highest) if highest > 0 else smooth
        rows = np.arange(y[each] - 1, y[each] + 2).clip(0, height - 1)
        columns = np.arange(x[each] - 1, x[each] + 2).clip(0, width - 1)
        nine[each] = np.log(smooth[np.ix_(rows, columns)].clip(UDP_LEAST, UDP_MOST))
    middle = nine[:, 1, 1]
    left, right, up, down = nine[:, 1, 0], nine[:, 1, 2], nine[:, 0, 1], nine[:, 2, 1]
    dx, dy = (right - left) / 2, (down - up) / 2
    tiny = float(np.finfo(np.float32).eps)
    dxx, dyy = right - 2 * middle + left + tiny, down - 2 * middle + up + tiny
    dxy = (nine[:, 2, 2] - right - down + 2 * middle - left - up + nine[:, 0, 0]) / 2
    determinant = dxx * dyy - dxy * dxy
    solvable = determinant != 0
    step = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=-1) / np.where(solvable, determinant, 1)[:, None]
    near = solvable & (np.abs(step).max(axis=-1, initial=0) < LONGEST_STEP_CELLS)
    positions = np.stack([x, y], axis=-1) + np.where(near[:, None], step, 0)
    return positions.reshape(people, joints, 2).astype(np.float32), scores.reshape(people, joints)


def merge_mirrored(heatmaps: Floats, mirrored: Floats, order: NDArray[np.intp], shift: int) -> Floats:
    """Averages the heatmaps of a crop with those of its mirror image (the flip test).

    Args:
        heatmaps, mirrored: (people, joints, height, width), of the crop and of the mirrored crop.
        order: (joints,) that swaps left and right, `skeletons.mirror_order`.
        shift: cells by which the map, mirrored back, moves right. 1 for networks whose strides count from pixel
            centres (HRNet, PP-TinyPose), else 0. The first columns stay.

    Returns:
        (people, joints, height, width), a new array.
    """
    back = mirrored[:, order, :, ::-1]
    width = back.shape[-1]
    columns = np.arange(width)
    columns[shift:] -= shift
    merged: Floats = (heatmaps + back[..., columns]) * np.float32(0.5)
    return merged


def gaussian_targets(
    positions: ArrayLike, visible: ArrayLike, width: int, height: int, sigma: float, rounded: bool = False
) -> tuple[Floats, Floats]:
    """The heatmaps that a detector should answer: Gaussians of peak 1 around the exact sub-cell position.

    Centres are not rounded to cells and tails are not cut (DARK's targets), so `decode_dark` reads the position back.

    Args:
        positions: (people, joints, 2), (x, y) in cells; NaN allowed.
        visible: (people, joints), labelled where over 0.
        width, height: cells of the map.
        sigma: deviation in cells; 2 for 48x64, 3 for 72x96.
        rounded: the targets of HRNet's and AlphaPose's code instead: around the nearest cell (`int(x + 0.5)`, which
            left of the map rounds towards it), and nothing more than 3 sigma from it in x or y; for a whole `sigma`.

    Returns:
        targets: (people, joints, height, width) float32, all 0 where the weight is.
        weights: (people, joints) float32, 1, or 0 where unlabelled or where no cell lies within 3 sigma of the centre;
            where `rounded`, a centre one cell further to the left or the top still counts, as it does there.
    """
    reach = 3 * sigma
    centres = np.asarray(positions, np.float32)
    if rounded:
        if sigma != int(sigma):
            raise ValueError(f"`sigma` must be a whole number of cells for rounded targets, got {sigma}")
        centres = np.trunc(centres + np.float32(0.5))
    last = np.array([width - 1, height - 1], np.float32)
    before = centres + reach + (1 if rounded else 0)
    inside = ((before >= 0) & (centres - reach <= last)).all(axis=-1)  # False for NaN
    weights = (inside & (np.asarray(visible) > 0)).astype(np.float32)
    x, y = np.moveaxis(np.where(weights[..., None] > 0, centres, 0), -1, 0)
    sides = []
    for centre, size in ((x, width), (y, height)):
        away = np.arange(size, dtype=np.float32) - centre[..., None]
        side = np.exp(-np.square(away) / np.float32(2 * sigma**2))
        sides.append(side * (np.abs(away) <= reach) if rounded else side)
    across, along = sides[0], sides[1] * weights[..., None]
    return along[..., :, None] * across[..., None, :], weights


def _peaks(heatmaps: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """(people * joints,) column, row and height of the highest cells; the first of equals."""
    if heatmaps.ndim != 4 or 0 in heatmaps.shape[2:]:
        raise ValueError(f"`heatmaps` must be (people, joints, height, width), got {heatmaps.shape}")
    height, width = heatmaps.shape[2:]
    flat = heatmaps.reshape(-1, height * width)
    best = flat.argmax(axis=1)
    y, x = np.divmod(best, width)
    return x, y, flat[np.arange(len(flat)), best].astype(np.float32)
