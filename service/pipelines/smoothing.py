"""Less jitter: leaps of one frame, a symmetric filter where the future is known, a causal one where it is not. Pure.

Constants are in seconds, so that they mean the same at any frame rate; weights are the joints' scores.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

BLOCK, MARGIN = 512, 64  # frames; at the highest rate the margin is still six widths of the window
LEAST_SPIKE = 0.12  # of the person's size: how far a joint must jump, and back, within two frames
SLOWEST_SPIKE_S = 0.1  # between two frames: where they are rarer, people do move there and back
SIGMA_S = 0.04  # about one frame of a phone's clip: takes flicker off, leaves fast arms where they are


def smooth(points: Array, times: NDArray[np.float64], sigma_s: float = SIGMA_S) -> Array:
    """Points (frames, joints, 3) averaged over time with a Gaussian window, each weighted by its score.

    Positions are smoothed, scores stay. What is unknown (NaN) stays unknown and adds nothing to its neighbours.
    """
    # Block by block: every frame of a block is compared with every other, and far ones do not touch each other.
    blocks = []
    for first in range(0, len(points), BLOCK):
        start = max(0, first - MARGIN)
        around = slice(start, first + BLOCK + MARGIN)
        blocks.append(_smooth_block(points[around], times[around], sigma_s)[first - start : first - start + BLOCK])
    return np.concatenate(blocks) if blocks else points.astype(np.float32)


def without_spikes(points: Array, times: NDArray[np.float64], size: float) -> Array:
    """Points (frames, joints, 3) in which a joint that jumps away for one frame and back is put between its neighbours.

    Its score is then the lesser of the neighbours'. size: the person's in pixels, the square root of the box's area.
    """
    out = points.astype(np.float32)
    if len(points) < 3:
        return out
    before, here, after = points[:-2, :, :2], points[1:-1, :, :2], points[2:, :, :2]
    away = np.minimum(np.linalg.norm(here - before, axis=-1), np.linalg.norm(here - after, axis=-1))
    moved = np.linalg.norm(after - before, axis=-1)
    spike = (away > LEAST_SPIKE * size) & (moved < away / 3) & (times[2:] - times[:-2] < 2 * SLOWEST_SPIKE_S)[:, None]
    # Of two neighbours only the farther one can have jumped.
    spike[1:] &= ~(spike[:-1] & (away[:-1] >= away[1:]))
    spike[:-1] &= ~(spike[1:] & (away[1:] > away[:-1]))
    out[1:-1, :, :2] = np.where(spike[..., None], (before + after) / 2, here)
    out[1:-1, :, 2] = np.where(spike, np.minimum(points[:-2, :, 2], points[2:, :, 2]), points[1:-1, :, 2])
    return out


def _smooth_block(points: Array, times: NDArray[np.float64], sigma_s: float) -> Array:
    apart = (times[:, None] - times[None]) / sigma_s
    kernel = np.exp(-0.5 * apart**2)  # (frames, frames)
    known = np.isfinite(points[..., 0])
    weight = np.where(known, np.maximum(points[..., 2], 1e-3), 0)
    total = np.einsum("ft,tj->fj", kernel, weight)
    filled = np.where(known[..., None], points[..., :2], 0)
    mean = np.einsum("ft,tjc->fjc", kernel, filled * weight[..., None]) / np.maximum(total, 1e-9)[..., None]
    out = points.astype(np.float32)
    out[..., :2] = np.where(known[..., None], mean, np.nan)
    return out


class OneEuro:
    """The 1 euro filter (Casiez et al. 2012) for a stream: slow when still, fast when the joint moves.

    least_hz: cut-off at rest; speed: how much a body size a second raises it. Speeds are counted in sizes of the
    person, so that near and far people are treated alike.
    """

    def __init__(self, least_hz: float = 1.5, speed: float = 2.0) -> None:
        self.least_hz, self.speed = least_hz, speed
        self._time = -math.inf
        self._places: NDArray[np.float64] | None = None
        self._velocity: NDArray[np.float64] | None = None

    def __call__(self, points: Array, time: float) -> Array:
        """Points (joints, 3) at `time` seconds, smoothed; a joint that was unknown begins anew."""
        places = points[:, :2].astype(np.float64)
        step = time - self._time
        self._time = time
        if self._places is None or self._velocity is None or step <= 0:
            self._places, self._velocity = places, np.zeros_like(places)
            return points.astype(np.float32)
        away = places - self._places
        if some_unknown := not np.isfinite(away).all():
            fresh = np.isnan(self._places)
            known = places[np.isfinite(places[:, 0])]
            away = np.where(fresh, 0, away)
        else:
            known = places
        size = max(float((known.max(axis=0) - known.min(axis=0)).max()), 1.0) if len(known) else 1.0
        raw = away / step
        self._velocity += _share(1.0, step) * ((np.nan_to_num(raw) if some_unknown else raw) - self._velocity)
        squares = self._velocity * self._velocity
        cutoff = self.least_hz + self.speed / size * np.sqrt(squares[:, :1] + squares[:, 1:])
        held = self._places + away / (1 + 1 / (2 * math.pi * step * cutoff))
        if some_unknown:
            held = np.where(fresh, places, held)
        self._places = held
        smoothed = points.astype(np.float32)
        smoothed[:, :2] = held
        return smoothed


def _share(cutoff_hz: float, step_s: float) -> float:
    return 1 / (1 + 1 / (2 * math.pi * cutoff_hz * step_s))
