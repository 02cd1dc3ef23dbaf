"""Training windows for the lifter: motion, other bodies, random cameras, a detector's errors. Plain torch, any device.

World axes are z up, metres. What comes out is what the service's framing takes (pixels, scores, NaN for unknown), and
the target: root-relative joints in the camera's axes (x right, y down, z away), for a person of 1.70 m stature, because
one camera cannot see absolute size.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from service.geometry.alignment import ANKLE_HEIGHT_M
from service.geometry.skeletons import SKELETONS, mirror_order

from .motion import Motion

H36M = SKELETONS["h36m17"]
PARENTS = H36M.parents
MIRROR = torch.from_numpy(mirror_order(H36M))
STATURE = 1.70
STILL_M = 1e-5  # less than which no joint of a window moves that is one frame repeated
# How far a detector misses, joint by joint, relative to its mean: wrists and ankles most.
HARDNESS = (0.7, 0.8, 0.9, 1.2, 0.8, 0.9, 1.2, 0.6, 0.6, 0.6, 0.8, 0.8, 1.1, 1.4, 0.8, 1.1, 1.4)
SIZES = ((1920, 1080), (1280, 720), (1080, 1920), (640, 480), (480, 640), (1000, 1000))
LIMBS = (
    (2, 3),
    (5, 6),
    (12, 13),
    (15, 16),
    (3,),
    (6,),
    (13,),
    (16,),
    (1, 2, 3, 4, 5, 6),
    (2, 3, 5, 6),
    (9, 10),
    (3, 6),
)
# Left with right: what a detector mixes up, from the hip or shoulder, the knee or elbow, or the end alone.
SWAPPED = ((1, 2, 3, 4, 5, 6), (2, 3, 5, 6), (3, 6), (11, 12, 13, 14, 15, 16), (12, 13, 15, 16), (13, 16))
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
# Degrees by which a bone turns, with all that hangs on it, in windows of bent bodies: spread of a normal draw.
BENDS = (0, 0, 10, 8, 0, 10, 8, 6, 5, 6, 6, 3, 15, 12, 3, 15, 12)


@dataclass(frozen=True)
class WindowRecipe:
    """What is drawn, and how often. Rates are frames a second, angles degrees, distances metres."""

    frames: int = 27
    rates: tuple[float, float] = (10.0, 60.0)
    still: float = 0.1  # share of windows that are one frame repeated: photos are lifted that way
    exchanged: float = 0.25  # share whose upper body comes from another sequence
    bent: float = 0.0  # share of moving windows whose limbs are turned a little, for poses that the motion lacks
    field_of_view: tuple[float, float] = (25.0, 100.0)  # on the longer side
    distance: tuple[float, float] = (1.5, 12.0)
    cut: float = 1 / 6  # share of close-ups, whose people the border cuts
    made: float = 0.5  # share whose joints 0, 7, 8, 9, 10 are made from the others, as for COCO-17
    noisy: float = 0.6
    hidden: float = 0.15  # share with whole limbs or a half of the body unknown
    tilted: float = 0.05  # share whose world is turned by any angle: lying, hanging, upside down
    kinds: float = 0.5  # a kind of motion is drawn by its minutes to this power; 0: all alike. Rare ones are what fails


@dataclass(frozen=True)
class Windows:
    """points (n, frames, 17, 3) pixels and score, NaN unknown; sizes (n, 2); given (n,); targets (n, frames, 17, 3)."""

    points: Tensor
    sizes: Tensor
    given: Tensor
    targets: Tensor


class Dice:
    """Random tensors on one device, from one seed."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def chance(self, share: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device) < share

    def below(self, count: int, *shape: int) -> Tensor:
        """Whole numbers from 0 up to `count` - 1."""
        return torch.randint(count, shape, generator=self.generator, device=self.device)

    def weighted(self, weights: Tensor, count: int) -> Tensor:
        return torch.multinomial(weights, count, replacement=True, generator=self.generator)

    def span(self, frames: int, count: int) -> tuple[Tensor, Tensor]:
        """(count,) first and last: two places of 0..frames in their order."""
        ends = self.below(frames + 1, count, 2).sort(1).values
        return ends[:, 0], ends[:, 1]


class WindowMaker:
    """Draws batches of windows from a motion pack. The same seed gives the same windows on the same kind of device."""

    def __init__(self, motion: Motion, recipe: WindowRecipe, device: torch.device | None = None) -> None:
        self.recipe, self.rate = recipe, motion.rate
        self.device = device or torch.device("cpu")
        self._joints = torch.from_numpy(motion.joints).to(self.device)
        self._starts = torch.from_numpy(motion.starts).to(self.device)
        lengths = motion.lengths
        kinds, kind_of = np.unique(motion.kinds, return_inverse=True)
        frames = np.bincount(kind_of, lengths, minlength=len(kinds))
        share = (frames**recipe.kinds)[kind_of] * lengths / frames[kind_of]
        self._chance = torch.from_numpy(share / share.sum()).to(self.device, torch.float32)

    def draw(self, count: int, seed: int) -> Windows:
        recipe, dice = self.recipe, Dice(seed, self.device)
        bodies = self._bodies(count, dice)
        exchanged = _exchange(bodies, self._bodies(count, dice))
        bodies = torch.where(dice.chance(recipe.exchanged, count, 1, 1, 1), exchanged, bodies)
        # Depth behind a lone frame is a guess, which needs the habits of real bodies: it is not bent.
        moving = (bodies - bodies[:, :1]).abs().amax((1, 2, 3)) >= STILL_M
        bodies = _reshape(bodies, _proportions(count, dice), _bends(recipe.bent * moving, dice))
        seen_in_mirror = bodies[:, :, MIRROR.to(self.device)] * _row([-1.0, 1.0, 1.0], bodies)
        bodies = torch.where(dice.chance(0.5, count, 1, 1, 1), seen_in_mirror, bodies)
        bodies = bodies * (STATURE / _stature(bodies))[:, None, None, None]
        angles = torch.where(dice.chance(recipe.tilted, count), dice.uniform(0, math.pi, count), 0.0)
        bodies = torch.einsum("nij,nfkj->nfki", rotations(dice.normal(count, 3), angles), bodies)
        in_camera, sizes, focal = _film(bodies, dice, recipe)
        windows = _detect(in_camera, sizes, focal, dice, recipe)
        # One frame repeated is one detection repeated: nothing can be averaged over its frames.
        still = (windows.targets - windows.targets[:, :1]).abs().amax((1, 2, 3)) < STILL_M
        points = torch.where(still[:, None, None, None], windows.points[:, :1], windows.points)
        return replace(windows, points=points)

    def _bodies(self, count: int, dice: Dice) -> Tensor:
        """(count, frames, 17, 3) of world joints at a random rate each, ends repeated where a sequence is short."""
        recipe = self.recipe
        which = dice.weighted(self._chance, count)
        low, high = (math.log(rate) for rate in recipe.rates)
        step = self.rate / dice.uniform(low, high, count).exp() * dice.uniform(0.8, 1.25, count)
        step = torch.where(dice.chance(0.3, count), 1.0, step)  # the pack's own rate, untouched
        step = torch.where(dice.chance(recipe.still, count), 0.0, step)
        starts, ends = self._starts[which], self._starts[which + 1]
        last = (ends - starts - 1).float()
        first = dice.uniform(0, 1, count) * (last - step * (recipe.frames - 1)).clamp(min=0)
        at = first[:, None] + step[:, None] * torch.arange(recipe.frames, device=self.device)
        at = torch.minimum(at, last[:, None])
        below = at.long()
        part = (at - below)[..., None, None]
        below = below + starts[:, None]
        above = torch.minimum(below + 1, (ends - 1)[:, None])
        return self._joints[below] * (1 - part) + self._joints[above] * part


def _row(values: list[float] | tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def _members(groups: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """(groups, 17) whether a joint belongs to a group."""
    table = torch.zeros(len(groups), 17, dtype=torch.bool)
    for row, joints in enumerate(groups):
        table[row, list(joints)] = True
    return table.to(device)


def _frames_between(first: Tensor, last: Tensor, frames: int) -> Tensor:
    """(n, frames, 1) whether a frame lies in first..last (n,), the last one excluded."""
    at = torch.arange(frames, device=first.device)
    return ((at >= first[:, None]) & (at < last[:, None]))[..., None]


def _exchange(bodies: Tensor, others: Tensor) -> Tensor:
    """Legs of `bodies`, everything above the hip of `others`, turned about the vertical so that the hips agree."""

    def heading(joints: Tensor) -> Tensor:
        across = joints[..., 4, :2] - joints[..., 1, :2]
        return torch.atan2(across[..., 1], across[..., 0])

    turn = heading(bodies) - heading(others)  # (n, frames)
    cos, sin = turn.cos()[..., None], turn.sin()[..., None]
    x, y, z = (others[..., 7:, :] - others[..., :1, :]).unbind(-1)
    turned = torch.stack([cos * x - sin * y, sin * x + cos * y, z], -1)
    return torch.cat([bodies[..., :7, :], bodies[..., :1, :] + turned], -2)


def _proportions(count: int, dice: Dice) -> Tensor:
    """(count, 17) factors on the bones that end in a joint, both sides alike; one body in ten is a child's."""
    factors = torch.ones(count, 17, device=dice.device)
    for bones, spread in BONES:
        factors[:, list(bones)] = (spread * dice.normal(count, 1)).exp()
    child = dice.chance(0.1, count, 1)
    larger, shorter = [9, 10], [2, 3, 5, 6]  # heads and legs
    factors[:, larger] *= torch.where(child, 1.3, 1.0)
    factors[:, shorter] *= torch.where(child, 0.9, 1.0)
    return factors


def _bends(chance: Tensor, dice: Dice) -> Tensor:
    """(count, 17, 3, 3) rotations of the bones that end in a joint, a window bent by its `chance` (count,)."""
    count = len(chance)
    spread = _row([math.radians(degrees) for degrees in BENDS], dice.normal(1))
    angles = spread * dice.normal(count, 17) * (dice.uniform(0, 1, count, 1) < chance[:, None])
    return rotations(dice.normal(count * 17, 3), angles.flatten()).reshape(count, 17, 3, 3)


def _reshape(bodies: Tensor, factors: Tensor, bends: Tensor) -> Tensor:
    """The same motion on bones of other lengths, a bend turning a bone and all that hangs on it.

    bodies (n, frames, 17, 3); factors (n, 17); bends (n, 17, 3, 3), one draw a window.
    """
    places, turns = [bodies[..., 0, :]], [bends[:, 0]]
    for joint in range(1, 17):
        parent = PARENTS[joint]
        turns.append(turns[parent] @ bends[:, joint])
        bone = (bodies[..., joint, :] - bodies[..., parent, :]) * factors[:, joint, None, None]
        places.append(places[parent] + torch.einsum("nij,nfj->nfi", turns[joint], bone))
    return torch.stack(places, -2)


def _stature(bodies: Tensor) -> Tensor:
    """(n,) standing heights: interface.md's sum of legs, trunk, head and what lies below the ankles."""

    def length(*chain: int) -> Tensor:
        bones = [(bodies[..., a, :] - bodies[..., b, :]).norm(dim=-1) for a, b in itertools.pairwise(chain)]
        return torch.stack(bones).sum(0).mean(-1)

    return (length(1, 2, 3) + length(4, 5, 6)) / 2 + length(0, 7, 8, 9, 10) + ANKLE_HEIGHT_M


def rotations(axes: Tensor, angles: Tensor) -> Tensor:
    """(n, 3, 3) rotations by `angles` radians (n,) about `axes` (n, 3) of any length (Rodrigues)."""
    x, y, z = (axes / axes.norm(dim=-1, keepdim=True).clamp(min=1e-9)).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    sin, cos = angles.sin()[:, None, None], angles.cos()[:, None, None]
    return torch.eye(3, device=axes.device) + sin * cross + (1 - cos) * cross @ cross


def _film(bodies: Tensor, dice: Dice, recipe: WindowRecipe) -> tuple[Tensor, Tensor, Tensor]:
    """Looks at each window through a camera of its own: joints in the camera's frame, picture sizes, focal lengths."""
    count = len(bodies)
    sizes = torch.tensor(SIZES, dtype=torch.float32, device=dice.device)[dice.below(len(SIZES), count)]
    half_angle = torch.deg2rad(dice.uniform(*recipe.field_of_view, count)) / 2
    focal = sizes.amax(-1) / 2 / half_angle.tan()
    flat = bodies.reshape(count, -1, 3)
    middle = flat.mean(1)
    radius = (flat - middle[:, None]).norm(dim=-1).amax(1)
    # Mostly the whole person fits into the shorter side.
    fits = radius * (1.15 * focal / (sizes.amin(-1) / 2) + 0.3)
    near, far = (math.log(metres) for metres in recipe.distance)
    distance = torch.maximum(dice.uniform(near, far, count).exp(), fits)
    distance = torch.where(dice.chance(recipe.cut, count), dice.uniform(0.35, 0.9, count) * fits, distance)
    distance = torch.maximum(distance, radius + 0.4)
    around = dice.uniform(0, 2 * math.pi, count)
    # The camera's height, from the floor up to a high mast, never more than 70 degrees above the person.
    low, high = dice.uniform(0.2, 3.2, count), dice.uniform(2, 7, count)
    height = flat[..., 2].amin(1) + torch.where(dice.chance(0.9, count), low, high)
    rise = torch.minimum(torch.maximum(height - middle[:, 2], -0.94 * distance), 0.94 * distance)
    flat_distance = (distance**2 - rise**2).clamp(min=0).sqrt()
    eye = middle + torch.stack([flat_distance * around.cos(), flat_distance * around.sin(), rise], -1)
    # The person stands off the picture's middle by up to a third of the view.
    aim = middle + dice.normal(count, 3) * (0.12 * distance * half_angle.tan())[:, None] + 0.15 * dice.normal(count, 3)
    away = torch.nn.functional.normalize(aim - eye, dim=-1)
    up = _row([0.0, 0.0, 1.0], away).expand_as(away)
    right = torch.nn.functional.normalize(torch.linalg.cross(away, up), dim=-1, eps=1e-6)
    down = torch.linalg.cross(away, right)
    roll = torch.deg2rad(dice.normal(count) * torch.where(dice.chance(0.15, count), 20.0, 3.0))[:, None]
    right, down = roll.cos() * right + roll.sin() * down, roll.cos() * down - roll.sin() * right
    axes = torch.stack([right, down, away], -1)
    in_camera = torch.einsum("nfji,nik->nfjk", bodies - eye[:, None, None], axes)
    return _in_front(in_camera), sizes, focal


def _in_front(joints: Tensor) -> Tensor:
    """No joint nearer to the camera than 15 cm: behind it nothing can be projected."""
    return torch.cat([joints[..., :2], joints[..., 2:].clamp(min=0.15)], -1)


def _detect(in_camera: Tensor, sizes: Tensor, focal: Tensor, dice: Dice, recipe: WindowRecipe) -> Windows:
    """What a detector would say: made joints, its errors, unknown limbs."""
    count, frames = in_camera.shape[:2]
    made = dice.chance(recipe.made, count)
    labelled = in_camera + 0.012 * dice.normal(count, 1, 17, 3)  # where a labeller sees the joint
    hips = labelled[:, :, [1, 4]]
    middle = hips.mean(2, keepdim=True)
    # Hips are clicked on the surface.
    labelled[:, :, [1, 4]] = middle + (hips - middle) * dice.uniform(0.9, 1.5, count, 1, 1, 1)
    seen = _in_front(torch.where(made[:, None, None, None], labelled, in_camera))
    places = seen[..., :2] / seen[..., 2:] * focal[:, None, None, None] + sizes[:, None, None] / 2
    scores = torch.ones(count, frames, 17, device=dice.device)
    noisy = dice.chance(recipe.noisy, count)[:, None, None]
    jittered, doubted = _jitter(places, dice)
    places, scores = torch.where(noisy[..., None], jittered, places), torch.where(noisy, doubted, scores)
    unknown = _hide(count, frames, dice, recipe.hidden)
    # A detector answers beyond the border with a guess at best; half of those are taken as not known.
    outside = ((places < 0) | (places >= sizes[:, None, None])).any(-1)
    unknown = unknown | (outside & dice.chance(0.5, count, 1, 1))
    places = places.masked_fill(unknown[..., None], math.nan)
    made_places, made_scores = _make_middle_joints(places, scores)
    places = torch.where(made[:, None, None, None], made_places, places)
    scores = torch.where(made[:, None, None], made_scores, scores)
    points = torch.cat([places, torch.where(places[..., :1].isnan(), 0.0, scores[..., None])], -1)
    return Windows(points, sizes, ~made, in_camera - in_camera[:, :, :1])


def _make_middle_joints(places: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Copies with 0, 7, 8 and 10 as `to_h36m17` would make them of the others. places (n, frames, 17, 2)."""
    p, s = places.clone(), scores.clone()
    p[:, :, 0], s[:, :, 0] = (p[:, :, 1] + p[:, :, 4]) / 2, torch.minimum(s[:, :, 1], s[:, :, 4])
    p[:, :, 8], s[:, :, 8] = (p[:, :, 11] + p[:, :, 14]) / 2, torch.minimum(s[:, :, 11], s[:, :, 14])
    p[:, :, 7], s[:, :, 7] = (p[:, :, 0] + p[:, :, 8]) / 2, torch.minimum(s[:, :, 0], s[:, :, 8])
    p[:, :, 10], s[:, :, 10] = 2 * p[:, :, 9] - p[:, :, 8], torch.minimum(s[:, :, 9], s[:, :, 8])
    return p, s


def _jitter(places: Tensor, dice: Dice) -> tuple[Tensor, Tensor]:
    """Errors that wander and errors that flicker, swaps of left and right, misses with a low score."""
    count, frames = places.shape[:2]
    extent = places.amax(2) - places.amin(2)  # (n, frames, 2)
    size = extent.clamp(min=4).prod(-1).sqrt().mean(1)[:, None, None, None]
    # A gamma draw of shape 2, mean 1: easy and hard clips.
    severity = -0.5 * (dice.uniform(1e-6, 1, count) * dice.uniform(1e-6, 1, count)).log()[:, None, None, None]
    wander = _wandering(places.shape, dice)
    hardness = _row(HARDNESS, places)[:, None]
    offset = 0.016 * size * severity * hardness * (0.6 * dice.normal(*places.shape) + 0.8 * wander)
    missed_by = offset.norm(dim=-1) / size[..., 0]
    scores = dice.uniform(0.75, 1.0, count, 1, 1) - 2.0 * missed_by + 0.05 * dice.normal(*missed_by.shape)
    places, scores = places + offset, scores.clamp(0.2, 1.0)
    first, last = dice.span(frames, count)
    swap = _frames_between(torch.maximum(first, last - 10), last, frames) & dice.chance(0.25, count, 1, 1)
    swap = swap & _members(SWAPPED, dice.device)[dice.below(len(SWAPPED), count)][:, None]
    places = torch.where(swap[..., None], places[:, :, MIRROR.to(dice.device)], places)
    scores = torch.where(swap, scores * dice.uniform(0.5, 1.0, count, 1, 1), scores)
    missing = dice.chance(0.4, count, 1, 1)
    for times in range(3):
        first = dice.below(frames, count)
        miss = missing & _frames_between(first, first + 1 + dice.below(15, count), frames)
        miss = miss & (torch.arange(17, device=dice.device) == 1 + dice.below(16, count, 1, 1))
        if times:  # one to three of them
            miss = miss & dice.chance((2 / 3, 1 / 2)[times - 1], count, 1, 1)
        places = torch.where(miss[..., None], places + 0.18 * size * dice.normal(count, 1, 1, 2), places)
        scores = torch.where(miss, dice.uniform(0.02, 0.35, count, 1, 1), scores)
    return places, scores


def _wandering(shape: torch.Size, dice: Dice) -> Tensor:
    """(n, frames, 17, 2) of unit spread, each frame a share of the one before it (a draw a window) and a fresh part."""
    count, frames = shape[:2]
    keep = dice.uniform(0.7, 0.97, count, 1, 1)
    at = torch.arange(frames, device=dice.device)
    behind = at[:, None] - at
    # The recursion written out: the weight of frame s in frame t is keep^(t - s), and all but the first are fresh.
    weights = torch.where(behind >= 0, keep ** behind.clamp(min=0), 0.0)
    weights = weights * torch.where(at > 0, (1 - keep**2).sqrt(), 1.0)
    return (weights @ dice.normal(count, frames, 34)).reshape(shape)


def _hide(count: int, frames: int, dice: Dice, share: float) -> Tensor:
    """(n, frames, 17) what is not known: one or two limbs in a share of the windows, single joints in a tenth."""
    limbs = _members(LIMBS, dice.device)
    parts = limbs[dice.below(len(LIMBS), count)]
    parts = parts | (limbs[dice.below(len(LIMBS), count)] & dice.chance(0.5, count, 1))
    first, last = dice.span(frames, count)
    when = _frames_between(first, last, frames) | dice.chance(0.6, count, 1, 1)
    unknown = dice.chance(share, count, 1, 1) & when & parts[:, None]
    return unknown | (dice.chance(0.1, count, 1, 1) & dice.chance(0.05, count, frames, 17))
