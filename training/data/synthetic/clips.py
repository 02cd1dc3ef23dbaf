"""Short clips: people who walk past and behind each other and some who stay, before a camera that stands still.

A person's number in the labels is its true id. World axes: metres, z up, the floor at z = 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .backgrounds import background
from .figures import Figure, Person, figure
from .film import random_grade
from .posing import rotation
from .scenes import Photo, Scene, Stage, render
from .shading import random_light
from .views import looking

Array = NDArray[np.float32]
Generator = np.random.Generator

RATE = 24.0
SIZE = (768, 432)
TRAVELS_M_A_SECOND = 0.6  # on the way from its first to its last place; slower is staying
GAIT_S = (0.7, 1.5)  # how long after a frame its pose comes again


def clip(stage: Stage, rng: Generator, seconds: float | None = None, people: int | None = None) -> Iterator[Photo]:
    """The frames of a clip at RATE, one to three people (most clips have more than one)."""
    count = people or int(rng.choice([1, 2, 3], p=[0.2, 0.4, 0.4]))
    frames = int((seconds or rng.uniform(3, 6)) * RATE)
    distance, height = rng.uniform(4.5, 7), rng.uniform(0.9, 2.2)
    focal = max(SIZE) / 2 / np.tan(np.radians(rng.uniform(45, 70)) / 2)
    view = looking((0, -distance, height), (0, 0, 0.95), float(np.radians(rng.normal(0, 2))), focal, SIZE)
    paths = [(stage.cast.person(rng), _path(stage, number, count, frames, rng)) for number in range(count)]
    behind = background(view, stage.pictures, rng)
    light, grade = random_light(behind, rng), replace(random_grade(SIZE[1], rng), streak=None)
    for frame in range(frames):
        figures = tuple(_placed(person, path[frame], number) for number, (person, path) in enumerate(paths))
        yield render(Scene(figures, (), view), behind, light, stage, grade, rng)


def _placed(person: Person, joints: Array, number: int) -> Figure:
    """The person's figure where the captured joints are, on the ground plan."""
    made = figure(person, joints - [*joints[0, :2], 0], number)
    return made.moved(np.eye(3), (*joints[0, :2], 0))


def _path(stage: Stage, number: int, count: int, frames: int, rng: Generator) -> Array:
    """(frames, 17, 3) somebody's joints: the first two walk past each other, a third may stay where it is."""
    motion = stage.motion
    walks = [s for s in range(len(motion.lengths)) if _travels(stage, s)]
    depth = (number - (count - 1) / 2) * rng.uniform(0.7, 1.1)
    if walks and (number < 2 or rng.random() < 0.5):
        sequence = walks[rng.integers(len(walks))]
        joints = continued(resampled(_of(stage, sequence), motion.rate, RATE), frames)
        way = joints[-1, 0, :2] - joints[0, 0, :2]
        heading = rng.normal(0, 0.25) + (np.pi if number % 2 else 0)
        joints = _spun(joints, heading - float(np.arctan2(way[1], way[0])))
        middle = joints[frames // 2, 0, :2] + rng.normal(0, [0.4, 0.1])
        return np.asarray(joints - np.append(middle, 0) + [0, depth, 0], np.float32)
    stays = np.array([0 if s in walks else chance for s, chance in enumerate(stage.chance)])
    sequence = int(rng.choice(len(stays), p=stays / stays.sum()))
    joints = continued(resampled(_of(stage, sequence), motion.rate, RATE), frames)
    joints = _spun(joints, rng.uniform(0, 2 * np.pi))
    return np.asarray(joints - [*joints[0, 0, :2], 0] + [rng.normal(0, 0.6), depth, 0], np.float32)


def _spun(joints: Array, angle: float) -> Array:
    return np.asarray(joints @ rotation((0, 0, 1), angle).T, np.float32)


def _of(stage: Stage, sequence: int) -> Array:
    return stage.motion.joints[stage.motion.starts[sequence] : stage.motion.starts[sequence + 1]]


def _travels(stage: Stage, sequence: int) -> bool:
    joints = _of(stage, sequence)
    way = np.linalg.norm(joints[-1, 0, :2] - joints[0, 0, :2])
    return bool(way / (len(joints) / stage.motion.rate) > TRAVELS_M_A_SECOND and len(joints) > GAIT_S[1] * 50)


def resampled(joints: Array, rate: float, wanted: float) -> Array:
    """(frames, 17, 3) at another rate, linear between frames; the first frame stays the first."""
    at = np.arange(0, len(joints) - 1 + 1e-6, rate / wanted)
    low = np.minimum(at.astype(int), len(joints) - 2) if len(joints) > 1 else np.zeros(len(at), int)
    share = (at - low)[:, None, None]
    after = joints[np.minimum(low + 1, len(joints) - 1)]
    return np.asarray(joints[low] * (1 - share) + after * share, np.float32)


def continued(joints: Array, frames: int) -> Array:
    """The first `frames` frames; a shorter sequence goes on with its own gait, or back and forth if it has none.

    joints: (n, 17, 3) world at RATE. The gait is the stretch whose last pose is most like its first; what it travels is
    travelled again each time.
    """
    if len(joints) >= frames:
        return joints[:frames]
    poses = joints - joints[:, :1] * [1, 1, 0]
    shortest, longest = (int(seconds * RATE) for seconds in GAIT_S)
    pairs = [(i, j) for i in range(len(joints)) for j in range(i + shortest, min(i + longest, len(joints) - 1) + 1)]
    travels = np.linalg.norm(joints[-1, 0, :2] - joints[0, 0, :2]) > 0.5
    if not pairs or not travels:
        there_and_back = np.concatenate([joints, joints[-2:0:-1]]) if len(joints) > 2 else joints
        return there_and_back[np.arange(frames) % len(there_and_back)]
    first, last = min(pairs, key=lambda pair: float(np.abs(poses[pair[0]] - poses[pair[1]]).mean()))
    step = (joints[last, 0] - joints[first, 0]) * [1, 1, 0]
    stretch = joints[first:last]
    out, rounds = [joints[:last]], 1
    while sum(map(len, out)) < frames:
        out.append(stretch + rounds * step)
        rounds += 1
    return np.asarray(np.concatenate(out)[:frames], np.float32)
