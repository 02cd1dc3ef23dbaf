"""The colours that people wear, two a person, by which a tracker knows them again after they were hidden. Pure.

A colour is the middle of a few pixels on the trunk, or on the legs: red, green, blue, 0..255, NaN where these are not
seen. It is compared within one clip or stream, and kept no longer than the track. Poses are COCO-17, in pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.geometry.planes import AnyPicture, Planes

Array = NDArray[np.float32]

PARTS = ((5, 6, 11, 12), (11, 12, 13, 14))  # joints of the trunk, and of the legs down to the knees
SEEN_SCORE = 0.3  # mean of a part's joints over which its colour is looked at
SAME = 20.0  # levels by which one person's colours differ from frame to frame (most by less than 10)
LEAST = 0.3  # what is left of a likeness at the worst: a table may hide the legs, and a cloud the sun
UNTOLD = 0.55  # and where no colours are seen: half-way to it, since it may be either


def _places() -> Array:
    """(2, 12, 17): weights of the joints in the places that are looked at, twelve a part."""
    weights = np.zeros((2, 12, 17), np.float32)
    across, along = np.repeat([0.25, 0.5, 0.75], 4), np.tile([0.2, 0.4, 0.6, 0.8], 3)
    for joint, share in zip(PARTS[0], (1 - across, across, 1 - across, across), strict=True):
        weights[0, :, joint] = share * (along if joint in (11, 12) else 1 - along)
    down = np.linspace(0.1, 1.0, 6)
    for leg, (hip, knee) in enumerate(((11, 13), (12, 14))):
        weights[1, 6 * leg : 6 * leg + 6, hip], weights[1, 6 * leg : 6 * leg + 6, knee] = 1 - down, down
    return weights


_WEIGHTS = _places()
_JOINTS = np.array(PARTS)


def worn(picture: AnyPicture, points: Array) -> Array:
    """(n, 2, 3) colours of trunk and legs of the people with poses (n, 17, 3) in a frame (height, width, 3)."""
    height, width = picture.shape[:2]
    places = np.nan_to_num(_WEIGHTS @ points[:, None, :, :2]).astype(np.intp)
    rows, columns = places[..., 1].clip(0, height - 1), places[..., 0].clip(0, width - 1)
    samples = picture.at(rows, columns) if isinstance(picture, Planes) else picture[rows, columns]
    middle = np.sort(samples, axis=2)[:, :, samples.shape[2] // 2].astype(np.float32)
    middle[points[:, _JOINTS, 2].mean(axis=-1) < SEEN_SCORE] = np.nan
    return middle


def alike(known: Array, seen: Array) -> Array:
    """(n, m) by how much of it the likeness of n people to m seen ones stays, LEAST..1, for colours (., 2, 3) of each.

    Parts that are unknown of either do not count. Whose colours are not known at all is taken as unlike: others may be
    known to be like. Where none are seen, it is UNTOLD for all, and nobody is preferred.
    """
    squares = np.square(known[:, None] - seen[None]).reshape(len(known), len(seen), 6)
    mean = np.nanmean(np.where(np.isfinite(squares).any(axis=-1, keepdims=True), squares, np.inf), axis=-1)
    stays: Array = LEAST + (1 - LEAST) * np.exp(-mean / np.float32(2 * SAME**2))
    stays[:, np.isnan(seen).all(axis=(1, 2))] = UNTOLD
    return stays
