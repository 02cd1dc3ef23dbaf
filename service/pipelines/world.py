"""A clip's world: where gravity points, where the floor is, which feet stand, and paths on which standing feet stay.

Metres; the camera's axes (x right, y down, z away) in, and out but for what is turned by a `World`. The camera is taken
not to move. Pure; who collects, `Floor`, holds a bounded sample whatever the clip's length.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.geometry.alignment import ANKLE_HEIGHT_M
from service.people import Array, World

from .smoothing import smooth

Floats = NDArray[np.float64]

ANKLES = (6, 3)  # of h36m17: left, right
KNEES, HIPS, THORAX = (5, 2), (4, 1), 8
SPEED_SIGMA_S = 0.07  # over which speeds are averaged: a detector's trembling alone looks like a slow step
STANDING_SPEED = 0.65  # metres a second across the view under which a foot may be down
LIFTED_M = 0.12  # so far over the other foot, along the body, a foot is up
LEAST_CONTACT_S = 0.1  # a foot that stands does so for longer
SEEN_ANKLE = 0.3  # score under which nothing is said about a foot
STRAIGHT_COS, UPRIGHT_COS = np.cos(np.radians(35)), np.cos(np.radians(25))
LEAST_STANDING = 15  # frames of somebody upright, and steps on the floor, that a world needs
SAMPLES = 2048  # of each kind, at most
MOST_LEAN_DEG = 12.0  # median angle of upright bodies to their mean
MOST_PITCH_DEG = 60.0  # of the camera
AXIS_SIGMA = 0.06  # radians that the mean body's axis may be off: a prior that the feet must overcome
DEPTH_SIGMA = 0.04  # of a foot's distance: how far its height may be off
FEW_STEPS = 60.0  # samples of one clip are not independent: together they weigh no more than so many


def to_world(points: ArrayLike, world: World) -> Floats:
    """Places (..., 3) in the camera's frame as places in the world; NaN stays NaN."""
    turned: Floats = np.asarray(points, np.float64) @ world.rotation.T + world.translation
    return turned


def turned(vectors: ArrayLike, world: World) -> Floats:
    """Directions, or joints relative to joint 0, (..., 3) along the world's axes."""
    out: Floats = np.asarray(vectors, np.float64) @ world.rotation.T
    return out


def settle(
    times: ArrayLike, joints: ArrayLike, positions: ArrayLike, feet: ArrayLike, world: World | None = None
) -> Floats:
    """A whole track's positions, moved as little as it takes for standing feet not to slide.

    Least squares over the track: a foot's place may hardly change while it is down, the path keeps its shape elsewhere,
    and stays where it was measured. With a world, feet that are down are also drawn to the floor.

    Args:
        times: (frames,) seconds, rising.
        joints: (frames, 17, 3) metres relative to joint 0, camera axes, NaN unknown.
        positions: (frames, 3) metres, of joint 0 in the camera's frame, NaN unknown.
        feet: (frames, 2) whether the left and the right foot are down.

    Returns:
        (frames, 3) metres in the camera's frame; NaN where the position was.
    """
    places, at = np.asarray(positions, np.float64), np.asarray(times, np.float64)
    known = np.isfinite(places).all(axis=1)
    if known.sum() < 2:
        return places.copy()
    rotation = np.eye(3) if world is None else world.rotation
    path = places[known] @ rotation.T
    ankles = np.asarray(joints, np.float64)[known][:, list(ANKLES)] @ rotation.T
    down = np.asarray(feet, bool)[known] & np.isfinite(ankles).all(axis=-1)
    floor = None if world is None else ANKLE_HEIGHT_M - float(world.translation[1])
    moved = _settled(at[known], path, np.nan_to_num(ankles), down, floor)
    out = places.copy()
    out[known] = moved @ rotation
    return out


def _settled(at: Floats, path: Floats, ankles: Floats, down: NDArray[np.bool_], floor: float | None) -> Floats:
    """`settle` along the axes of the world: solves for the shift of each frame, (frames, 3)."""
    # Weights are of squares: 1 for a metre off the measured place in a second of frames.
    step = np.diff(at)
    stands = down[1:] & down[:-1]
    hold = 1e4 * stands.sum(axis=1) / np.maximum(step, 1e-3)
    shape = 1.0 / np.maximum(step, 1e-3) * 0.05
    slide = ((path[1:] + ankles.transpose(1, 0, 2)[:, 1:]) - (path[:-1] + ankles.transpose(1, 0, 2)[:, :-1])).transpose(
        1, 0, 2
    )  # (frames - 1, 2, 3)
    pull = np.where(stands[..., None], slide, 0).sum(axis=1) * (1e4 / np.maximum(step, 1e-3))[:, None]
    own = np.gradient(at) if len(at) > 1 else np.ones(1)
    diagonal = np.repeat(own[:, None], 3, axis=1)
    right = np.zeros_like(path)
    diagonal[1:] += (hold + shape)[:, None]
    diagonal[:-1] += (hold + shape)[:, None]
    beside = -(hold + shape)
    right[1:] -= pull
    right[:-1] += pull
    if floor is not None:
        heights = path[:, None, 1] + ankles[..., 1]
        diagonal[:, 1] += 100 * own * down.sum(axis=1)
        right[:, 1] += 100 * own * np.where(down, floor - heights, 0).sum(axis=1)
    return path + _tridiagonal(diagonal, beside, right)


def _tridiagonal(diagonal: Floats, beside: Floats, right: Floats) -> Floats:
    """Solves the symmetric system of (n, k) diagonals, (n - 1,) neighbours, for each of k columns (Thomas)."""
    count = len(diagonal)
    share, sides = np.zeros_like(diagonal), right.astype(np.float64)
    pivot = diagonal[0]
    sides[0] = sides[0] / pivot
    for n in range(1, count):
        share[n] = beside[n - 1] / pivot
        pivot = diagonal[n] - beside[n - 1] * share[n]
        sides[n] = (sides[n] - beside[n - 1] * sides[n - 1]) / pivot
    for n in range(count - 2, -1, -1):
        sides[n] -= share[n + 1] * sides[n + 1]
    return sides


def contacts(times: ArrayLike, ankles: ArrayLike, joints: ArrayLike, positions: ArrayLike, focal_px: float) -> Floats:
    """Which feet stand, told from the ankles' speed across the view and their height along the body.

    Args:
        times: (frames,) seconds.
        ankles: (frames, 2, 3) left and right, pixels and score.
        joints: (frames, 17, 3) metres relative to joint 0; positions: (frames, 3) of joint 0, NaN unknown.

    Returns:
        (frames, 2) left, right: 1 down, 0 up, NaN unknown (hidden, or the person is placed nowhere).
    """
    at, seen, body = (np.asarray(each, np.float64) for each in (times, ankles, joints))
    away = np.asarray(positions, np.float64)[:, 2]
    if len(at) < 2:
        return np.full((len(at), 2), np.nan)
    calm = smooth(seen.astype(np.float32), at, SPEED_SIGMA_S)[..., :2]
    metres = calm * (away / focal_px)[:, None, None]
    speed = np.linalg.norm(np.gradient(metres, at, axis=0), axis=-1)
    along = body[:, THORAX] - body[:, ANKLES].mean(axis=1)
    mean = np.nan_to_num(along).mean(axis=0)
    up = mean / max(float(np.linalg.norm(mean)), 1e-9)
    height = body[:, ANKLES] @ up
    over = height - height.min(axis=1, keepdims=True)
    down = (speed < STANDING_SPEED) & (over < LIFTED_M)
    for foot in range(2):
        down[:, foot] = _without_short_runs(down[:, foot], at)
    unknown = ~np.isfinite(speed) | ~np.isfinite(over) | (seen[..., 2] < SEEN_ANKLE)
    return np.where(unknown, np.nan, down.astype(np.float64))


def _without_short_runs(down: NDArray[np.bool_], at: Floats) -> NDArray[np.bool_]:
    """Contacts of less than LEAST_CONTACT_S inside the sequence are none; its ends may be parts of longer ones."""
    out = down.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], down.astype(np.int8), [0]])))
    for first, after in zip(edges[::2], edges[1::2], strict=True):
        if first > 0 and after < len(down) and at[after] - at[first] < LEAST_CONTACT_S:
            out[first:after] = False
    return out


class Floor:
    """Gathers upright bodies and standing feet of everybody in a clip, and tells the world that they share."""

    def __init__(self) -> None:
        self._axes, self._steps = _Sample(), _Sample()

    def add(self, joints: ArrayLike, positions: ArrayLike, feet: ArrayLike) -> None:
        """One person's frames: joints (frames, 17, 3), positions (frames, 3), feet (frames, 2), see `contacts`."""
        body, places, down = (np.asarray(each, np.float64) for each in (joints, positions, feet))
        axes = body_axes(body)
        self._axes.add(axes[np.isfinite(axes).all(axis=1)])
        steps = (body[:, ANKLES] + places[:, None])[down == 1]
        self._steps.add(steps[np.isfinite(steps).all(axis=1)])

    def world(self) -> tuple[World | None, str]:
        """The world, or None and the reason in words."""
        axes, steps = self._axes.rows, self._steps.rows
        if len(axes) < LEAST_STANDING:
            return None, f"nobody stands upright for long enough: {len(axes)} frames, {LEAST_STANDING} are needed"
        if len(steps) < LEAST_STANDING:
            return None, f"feet on the floor are seen too rarely: {len(steps)} times, {LEAST_STANDING} are needed"
        up = _direction(np.median(axes, axis=0))
        for _ in range(3):
            near = axes @ up > UPRIGHT_COS
            if near.any():
                up = _direction(axes[near].mean(axis=0))
        lean = float(np.degrees(np.median(np.arccos(np.clip(axes @ up, -1, 1)))))
        if lean > MOST_LEAN_DEG:
            return None, f"bodies lean too differently to tell where up is: {lean:.0f} degrees from their mean"
        up, height, off = _plane(up, steps)
        pitch = float(np.degrees(np.arccos(np.clip(-up[1], -1, 1))))
        if pitch > MOST_PITCH_DEG:
            return None, f"the camera is tilted by {pitch:.0f} degrees; up to {MOST_PITCH_DEG:.0f} a floor is estimated"
        if off > 2 * DEPTH_SIGMA:
            return None, f"the feet do not agree on one floor: they miss it by {100 * off:.0f} % of their distance"
        if height > -0.05:
            return None, "the feet would stand above the camera's own height along gravity"
        forward = np.array([0.0, 0.0, 1.0])
        back = -_direction(forward - (forward @ up) * up)
        rotation = np.stack([np.cross(up, back), up, back])
        return World(rotation, np.array([0.0, ANKLE_HEIGHT_M - height, 0.0])), ""


def body_axes(joints: Floats) -> Floats:
    """(frames, 3) unit vectors from the ankles to the thorax of upright bodies; NaN where a body is bent."""
    ankles, knees, hips = (joints[:, list(pair)] for pair in (ANKLES, KNEES, HIPS))
    shins, thighs = _direction(knees - ankles), _direction(hips - knees)
    trunk = _direction(joints[:, THORAX] - joints[:, 0])
    along = _direction(joints[:, THORAX] - ankles.mean(axis=1))
    legs = _direction(joints[:, 0] - ankles.mean(axis=1))
    straight = ((shins * thighs).sum(axis=-1) > STRAIGHT_COS).all(axis=1)
    upright = (trunk * legs).sum(axis=-1) > UPRIGHT_COS
    return np.where((straight & upright)[:, None], along, np.nan)


def _plane(up: Floats, steps: Floats) -> tuple[Floats, float, float]:
    """The floor through standing ankles, its normal near `up`: normal, height along it, median miss over distance."""
    distance = np.maximum(np.linalg.norm(steps, axis=1), 0.3)
    across = _direction(np.cross(up, [0.0, 0.0, 1.0] if abs(up[2]) < 0.9 else [1.0, 0.0, 0.0]))
    basis = np.stack([across, np.cross(up, across)])  # the normal may tilt both ways
    weight = min(1.0, FEW_STEPS / len(steps)) / (DEPTH_SIGMA * distance) ** 2
    normal, height = up, float(np.median(steps @ up))
    for _ in range(5):
        # A foot thought to stand that does not is far off: it counts less the farther.
        miss = (steps @ normal - height) / distance
        robust = weight / (1 + (miss / DEPTH_SIGMA) ** 2)
        columns = np.column_stack([steps @ basis.T, -np.ones(len(steps))])
        left = (columns * robust[:, None]).T @ columns + np.diag([AXIS_SIGMA**-2, AXIS_SIGMA**-2, 0])
        tilt = np.linalg.solve(left, -(columns * robust[:, None]).T @ (steps @ up))
        normal, height = up + tilt[:2] @ basis, float(tilt[2])
        length = float(np.linalg.norm(normal))
        normal, height = normal / length, height / length
    return normal, height, float(np.median(np.abs(steps @ normal - height) / distance))


def _direction(vectors: Floats) -> Floats:
    out: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return out


class _Sample:
    """Rows (n, 3), thinned evenly once there are more than SAMPLES."""

    def __init__(self) -> None:
        self.rows: Floats = np.zeros((0, 3))
        self._every, self._skip = 1, 0

    def add(self, rows: Floats) -> None:
        taken = rows[self._skip :: self._every]
        self._skip = (self._skip - len(rows)) % self._every
        self.rows = np.concatenate([self.rows, taken])
        while len(self.rows) > SAMPLES:
            self.rows = self.rows[::2]
            self._every *= 2


__all__ = ["Array", "Floor", "World", "body_axes", "contacts", "settle", "to_world", "turned"]
