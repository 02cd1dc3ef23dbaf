"""Training windows for the lifter: motion, other bodies, random cameras, a detector's errors. All of it numpy.

World axes are z up, metres. What comes out is what the service's framing takes (pixels, scores, NaN for unknown), and
the target: root-relative joints in the camera's axes (x right, y down, z away), for a person of 1.70 m stature, because
one camera cannot see absolute size.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.geometry.alignment import ANKLE_HEIGHT_M
from service.geometry.skeletons import SKELETONS, mirror_order

from .motion import Motion

Array = NDArray[np.float32]
Generator = np.random.Generator

H36M = SKELETONS["h36m17"]
PARENTS = np.array(H36M.parents)
MIRROR = mirror_order(H36M)
STATURE = 1.70
# How far a detector misses, joint by joint, relative to its mean: wrists and ankles most.
HARDNESS = np.array([0.7, 0.8, 0.9, 1.2, 0.8, 0.9, 1.2, 0.6, 0.6, 0.6, 0.8, 0.8, 1.1, 1.4, 0.8, 1.1, 1.4], np.float32)
SIZES = np.array([(1920, 1080), (1280, 720), (1080, 1920), (640, 480), (480, 640), (1000, 1000)], np.float32)
LIMBS = ([2, 3], [5, 6], [12, 13], [15, 16], [3], [6], [13], [16], [1, 2, 3, 4, 5, 6], [2, 3, 5, 6], [9, 10], [3, 6])
# Drawn for each window: bones (child joints, a left one with its right one) and the spread of the factor's logarithm.
BONES: tuple[tuple[tuple[int, ...], float], ...] = (
    ((1, 4), 0.12),  # half hip width: where the sources differ most
    ((2, 5), 0.06),
    ((3, 6), 0.06),
    ((7,), 0.07),
    ((8,), 0.07),
    ((9,), 0.12),
    ((10,), 0.12),
    ((11, 14), 0.10),
    ((12, 15), 0.06),
    ((13, 16), 0.06),
)


@dataclass(frozen=True)
class WindowRecipe:
    """What is drawn, and how often. Rates are frames a second, angles degrees, distances metres."""

    frames: int = 27
    rates: tuple[float, float] = (10.0, 60.0)
    still: float = 0.1  # share of windows that are one frame repeated: photos are lifted that way
    exchanged: float = 0.25  # share whose upper body comes from another sequence
    field_of_view: tuple[float, float] = (25.0, 100.0)  # on the longer side
    distance: tuple[float, float] = (1.5, 12.0)
    cut: float = 1 / 6  # share of close-ups, whose people the border cuts
    made: float = 0.5  # share whose joints 0, 7, 8, 9, 10 are made from the others, as for COCO-17
    noisy: float = 0.6
    hidden: float = 0.15  # share with whole limbs or a half of the body unknown
    tilted: float = 0.05  # share whose world is turned by any angle: lying, hanging, upside down


@dataclass(frozen=True)
class Windows:
    """points (n, frames, 17, 3) pixels and score, NaN unknown; sizes (n, 2); given (n,); targets (n, frames, 17, 3)."""

    points: Array
    sizes: Array
    given: NDArray[np.bool_]
    targets: Array


class WindowMaker:
    """Draws batches of windows from a motion pack. The same generator state gives the same windows."""

    def __init__(self, motion: Motion, recipe: WindowRecipe) -> None:
        self.motion = motion
        self.recipe = recipe
        # A kind's share is the square root of its minutes: rare motion is what fails.
        lengths = motion.lengths
        kinds, kind_of = np.unique(motion.kinds, return_inverse=True)
        frames = np.bincount(kind_of, lengths, minlength=len(kinds))
        share = np.sqrt(frames)[kind_of] * lengths / frames[kind_of]
        self._chance = share / share.sum()

    def draw(self, count: int, rng: Generator) -> Windows:
        recipe = self.recipe
        bodies = self._bodies(count, rng)
        swap = np.nonzero(rng.random(count) < recipe.exchanged)[0]
        if len(swap):
            bodies[swap] = _exchange(bodies[swap], self._bodies(len(swap), rng))
        bodies = _reproportion(bodies, rng)
        mirrored = rng.random(count) < 0.5
        bodies[mirrored] = bodies[mirrored][:, :, MIRROR] * np.array([-1, 1, 1], np.float32)
        bodies = bodies * (STATURE / _stature(bodies))[:, None, None, None]
        tilt = np.nonzero(rng.random(count) < recipe.tilted)[0]
        if len(tilt):
            turn = _rotations(rng.normal(size=(len(tilt), 3)), rng.uniform(0, np.pi, len(tilt)))
            bodies[tilt] = np.einsum("nij,nfkj->nfki", turn, bodies[tilt])
        in_camera, sizes, focal = _film(bodies, rng, recipe)
        return _detect(in_camera, sizes, focal, rng, recipe)

    def _bodies(self, count: int, rng: Generator) -> Array:
        """(count, frames, 17, 3) of world joints at a random rate each, ends repeated where a sequence is short."""
        recipe, motion = self.recipe, self.motion
        which = rng.choice(len(self._chance), count, p=self._chance)
        low, high = np.log(recipe.rates[0]), np.log(recipe.rates[1])
        step = motion.rate / np.exp(rng.uniform(low, high, count)) * rng.uniform(0.8, 1.25, count)
        step[rng.random(count) < 0.3] = 1.0  # the pack's own rate, untouched
        step[rng.random(count) < recipe.still] = 0.0
        length = motion.lengths[which]
        span = step * (recipe.frames - 1)
        first = rng.uniform(0, 1, count) * np.maximum(length - 1 - span, 0)
        at = np.clip(first[:, None] + step[:, None] * np.arange(recipe.frames), 0, (length - 1)[:, None])
        below = at.astype(np.int64)
        part = (at - below).astype(np.float32)[..., None, None]
        below += motion.starts[which][:, None]
        above = np.minimum(below + 1, (motion.starts[which + 1] - 1)[:, None])
        bodies: Array = motion.joints[below] * (1 - part) + motion.joints[above] * part
        return bodies


def _exchange(bodies: Array, others: Array) -> Array:
    """Legs of `bodies`, everything above the hip of `others`, turned about the vertical so that the hips agree."""

    def heading(joints: Array) -> Array:
        across = joints[..., 4, :2] - joints[..., 1, :2]
        return np.asarray(np.arctan2(across[..., 1], across[..., 0]), np.float32)

    turn = heading(bodies) - heading(others)  # (n, frames)
    cos, sin = np.cos(turn)[..., None], np.sin(turn)[..., None]
    upper = others[..., 7:, :] - others[..., :1, :]
    x, y = upper[..., 0], upper[..., 1]
    turned = np.stack([cos * x - sin * y, sin * x + cos * y, upper[..., 2]], -1)
    return np.concatenate([bodies[..., :7, :], bodies[..., :1, :] + turned], -2)


def _reproportion(bodies: Array, rng: Generator) -> Array:
    """The same directions on bones of other lengths, one draw a window; one in ten is a child."""
    count = len(bodies)
    factors = np.ones((count, 17), np.float32)
    for bones, spread in BONES:
        factors[:, bones] = np.exp(rng.normal(0, spread, (count, 1)))
    child = rng.random(count) < 0.1
    larger, shorter = [9, 10], [2, 3, 5, 6]  # heads and legs
    factors[:, larger] *= np.where(child, 1.3, 1)[:, None]
    factors[:, shorter] *= np.where(child, 0.9, 1)[:, None]
    out = bodies.copy()
    for joint in range(1, 17):
        parent = PARENTS[joint]
        bone = bodies[..., joint, :] - bodies[..., parent, :]
        out[..., joint, :] = out[..., parent, :] + bone * factors[:, joint, None, None]
    return out


def _stature(bodies: Array) -> Array:
    """(n,) standing heights: interface.md's sum of legs, trunk, head and what lies below the ankles."""

    def length(*chain: int) -> Array:
        bones = [np.linalg.norm(bodies[..., a, :] - bodies[..., b, :], axis=-1) for a, b in itertools.pairwise(chain)]
        mean: Array = np.sum(bones, 0).mean(-1)
        return mean

    return np.asarray((length(1, 2, 3) + length(4, 5, 6)) / 2 + length(0, 7, 8, 9, 10) + ANKLE_HEIGHT_M, np.float32)


def _rotations(axes: NDArray[np.float64], angles: NDArray[np.float64]) -> Array:
    """(n, 3, 3) rotations by `angles` radians about `axes` (n, 3) of any length (Rodrigues)."""
    x, y, z = (axes / np.linalg.norm(axes, axis=-1, keepdims=True)).T
    zero = np.zeros_like(x)
    cross = np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    sin, cos = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    turn: Array = (np.eye(3) + sin * cross + (1 - cos) * cross @ cross).astype(np.float32)
    return turn


def _film(bodies: Array, rng: Generator, recipe: WindowRecipe) -> tuple[Array, Array, Array]:
    """Looks at each window through a camera of its own: joints in the camera's frame, picture sizes, focal lengths."""
    count = len(bodies)
    sizes = SIZES[rng.integers(len(SIZES), size=count)]
    half_angle = np.radians(rng.uniform(*recipe.field_of_view, count)) / 2
    focal = (sizes.max(-1) / 2 / np.tan(half_angle)).astype(np.float32)
    flat = bodies.reshape(count, -1, 3)
    middle = flat.mean(1)
    radius = np.linalg.norm(flat - middle[:, None], axis=-1).max(1)
    # Mostly the whole person fits into the shorter side.
    fits = radius * (1.15 * focal / (sizes.min(-1) / 2) + 0.3)
    distance = np.maximum(np.exp(rng.uniform(np.log(recipe.distance[0]), np.log(recipe.distance[1]), count)), fits)
    close = rng.random(count) < recipe.cut
    distance = np.where(close, rng.uniform(0.35, 0.9, count) * fits, distance)
    distance = np.maximum(distance, radius + 0.4)
    around = rng.uniform(0, 2 * np.pi, count)
    # The camera's height, from the floor up to a high mast, never more than 70 degrees above the person.
    height = flat[..., 2].min(1) + np.where(
        rng.random(count) < 0.9, rng.uniform(0.2, 3.2, count), rng.uniform(2, 7, count)
    )
    rise = np.clip(height - middle[:, 2], -0.94 * distance, 0.94 * distance)
    flat_distance = np.sqrt(np.maximum(distance**2 - rise**2, 0))
    eye = middle + np.stack([flat_distance * np.cos(around), flat_distance * np.sin(around), rise], -1)
    # The person stands off the picture's middle by up to a third of the view.
    aim = (
        middle
        + rng.normal(0, 1, (count, 3)) * (0.12 * distance * np.tan(half_angle))[:, None]
        + rng.normal(0, 0.15, (count, 3))
    )
    away = aim - eye
    away /= np.linalg.norm(away, axis=-1, keepdims=True)
    right = np.cross(away, [0.0, 0.0, 1.0])
    right /= np.maximum(np.linalg.norm(right, axis=-1, keepdims=True), 1e-6)
    down = np.cross(away, right)
    roll = np.radians(rng.normal(0, np.where(rng.random(count) < 0.15, 20, 3)))[:, None]
    right, down = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
    axes = np.stack([right, down, away], -1).astype(np.float32)
    in_camera = np.einsum("nfji,nik->nfjk", bodies - eye[:, None, None].astype(np.float32), axes)
    in_camera[..., 2] = np.maximum(in_camera[..., 2], 0.15)
    return in_camera, sizes, focal


def _project(joints: Array, sizes: Array, focal: Array) -> Array:
    places = joints[..., :2] / joints[..., 2:] * focal[:, None, None, None] + sizes[:, None, None] / 2
    return np.asarray(places, np.float32)


def _detect(in_camera: Array, sizes: Array, focal: Array, rng: Generator, recipe: WindowRecipe) -> Windows:
    """What a detector would say: made joints, its errors, unknown limbs."""
    count, frames = len(in_camera), in_camera.shape[1]
    made = rng.random(count) < recipe.made
    seen = in_camera
    if made.any():
        seen = in_camera.copy()
        seen[made] += rng.normal(0, 0.012, (int(made.sum()), 1, 17, 3))  # where a labeller sees the joint
        middle = (seen[:, :, 1] + seen[:, :, 4]) / 2
        wider = np.where(made, rng.uniform(0.9, 1.5, count), 1)[:, None, None]  # hips are clicked on the surface
        for hip in (1, 4):
            seen[:, :, hip] = middle + (seen[:, :, hip] - middle) * wider
        seen[..., 2] = np.maximum(seen[..., 2], 0.15)
    places = _project(seen, sizes, focal)
    scores = np.ones((count, frames, 17), np.float32)
    noisy = np.nonzero(rng.random(count) < recipe.noisy)[0]
    if len(noisy):
        places[noisy], scores[noisy] = _jitter(places[noisy], rng)
    unknown = _hide(count, frames, rng, recipe.hidden)
    # A detector answers beyond the border with a guess at best; half of those are taken as not known.
    outside = ((places < 0) | (places >= sizes[:, None, None])).any(-1)
    unknown |= outside & (rng.random((count, 1, 1)) < 0.5)
    places[unknown] = np.nan
    places[made], scores[made] = _make_middle_joints(places[made], scores[made])
    points = np.concatenate([places, np.where(np.isnan(places[..., :1]), 0, scores[..., None])], -1)
    targets = in_camera - in_camera[:, :, :1]
    return Windows(points.astype(np.float32), sizes, ~made, targets.astype(np.float32))


def _make_middle_joints(places: Array, scores: Array) -> tuple[Array, Array]:
    """Copies with 0, 7, 8 and 10 as `to_h36m17` would make them of the others. places (n, frames, 17, 2)."""
    p, s = places.copy(), scores.copy()
    p[:, :, 0], s[:, :, 0] = (p[:, :, 1] + p[:, :, 4]) / 2, np.minimum(s[:, :, 1], s[:, :, 4])
    p[:, :, 8], s[:, :, 8] = (p[:, :, 11] + p[:, :, 14]) / 2, np.minimum(s[:, :, 11], s[:, :, 14])
    p[:, :, 7], s[:, :, 7] = (p[:, :, 0] + p[:, :, 8]) / 2, np.minimum(s[:, :, 0], s[:, :, 8])
    p[:, :, 10], s[:, :, 10] = 2 * p[:, :, 9] - p[:, :, 8], np.minimum(s[:, :, 9], s[:, :, 8])
    return p, s


def _jitter(places: Array, rng: Generator) -> tuple[Array, Array]:
    """Errors that wander and errors that flicker, swaps of left and right, misses with a low score."""
    count, frames = len(places), places.shape[1]
    extent = np.ptp(places, axis=2)  # (n, frames, 2)
    size = np.sqrt(np.maximum(extent, 4).prod(-1)).mean(1)[:, None, None, None]
    severity = rng.gamma(2.0, 0.5, (count, 1, 1, 1))  # mean 1: easy and hard clips
    flicker = rng.normal(size=places.shape)
    wander = np.empty_like(flicker)
    wander[:, 0] = rng.normal(size=(count, 17, 2))
    keep = rng.uniform(0.7, 0.97, (count, 1, 1))
    fresh = np.sqrt(1 - keep**2)
    for frame in range(1, frames):
        wander[:, frame] = keep * wander[:, frame - 1] + fresh * rng.normal(size=(count, 17, 2))
    offset = 0.016 * size * severity * HARDNESS[:, None] * (0.6 * flicker + 0.8 * wander)
    places = places + offset
    missed_by = np.linalg.norm(offset, axis=-1) / size[..., 0]
    scores = np.clip(
        rng.uniform(0.75, 1.0, (count, 1, 1)) - 2.0 * missed_by + rng.normal(0, 0.05, missed_by.shape), 0.2, 1.0
    )
    for n in np.nonzero(rng.random(count) < 0.25)[0]:
        first, last = np.sort(rng.integers(0, frames + 1, 2))
        first = max(first, last - 10)
        right, left = [([1, 2, 3], [4, 5, 6]), ([14, 15, 16], [11, 12, 13])][rng.integers(2)]
        part = slice(rng.integers(3), 3)
        places[n, first:last, right[part] + left[part]] = places[n, first:last, left[part] + right[part]]
        scores[n, first:last, right[part] + left[part]] *= rng.uniform(0.5, 1.0)
    for n in np.nonzero(rng.random(count) < 0.4)[0]:
        for _ in range(rng.integers(1, 4)):
            joint, first, long = rng.integers(1, 17), rng.integers(frames), rng.integers(1, 16)
            places[n, first : first + long, joint] += rng.normal(0, 0.18, 2) * size[n, 0, 0]
            scores[n, first : first + long, joint] = rng.uniform(0.02, 0.35)
    return places.astype(np.float32), scores.astype(np.float32)


def _hide(count: int, frames: int, rng: Generator, share: float) -> NDArray[np.bool_]:
    unknown = np.zeros((count, frames, 17), bool)
    for n in np.nonzero(rng.random(count) < share)[0]:
        whole = rng.random() < 0.6
        first, last = (0, frames) if whole else np.sort(rng.integers(0, frames + 1, 2))
        for _ in range(rng.integers(1, 3)):
            unknown[n, first:last, LIMBS[rng.integers(len(LIMBS))]] = True
    # The root stays if either hip does; single joints drop out anywhere.
    unknown |= (rng.random((count, 1, 1)) < 0.1) & (rng.random((count, frames, 17)) < 0.05)
    return unknown
