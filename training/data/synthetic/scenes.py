"""Scenes at random: who stands where in which pose, seen by which camera, and the rendered picture with its labels.

A scene depends on its generator alone. World axes: metres, z up, the floor at z = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.motion import Motion

from .backgrounds import background
from .figures import Cast, Figure, figure, thing
from .film import Grade, Picture, develop, over, random_grade
from .labels import PersonLabel, label
from .posing import rotation
from .raster import NEAREST_M, Rasteriser
from .shading import Light, Part, ShadowMap, floor_shade, joined, random_light, shade
from .views import View, framing, looking, random_eye, random_roll

Array = NDArray[np.float32]
Generator = np.random.Generator

ENLARGED = 2  # pixels a side that are drawn for each of the picture's
LEAST_WHOLE = 0.35  # of a crop's person that others may leave to be seen
CROP_ASPECT = 0.75  # the detector's input, width over height
CROP_TILTED = 0.2  # of crops' people
PHOTO_SIZES = ((640, 480), (480, 640), (800, 600), (960, 540), (720, 720), (540, 960))


@dataclass(frozen=True, eq=False)
class Stage:
    """Everything that scenes are made of. chance: (sequences,) how often each is drawn."""

    cast: Cast
    motion: Motion
    pictures: Sequence[Path]
    rasterise: Rasteriser
    chance: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scene:
    """Figures (numbered as their parts' owners), things that stand about, and who looks."""

    figures: tuple[Figure, ...]
    things: tuple[Part, ...]
    view: View


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture (height, width, 3) uint8 RGB and the people in it."""

    pixels: Picture
    people: list[PersonLabel]
    view: View


def sequence_chances(motion: Motion) -> NDArray[np.float64]:
    """(sequences,) a kind's share is the square root of its minutes: rare motion is what fails."""
    kinds, of = np.unique(motion.kinds, return_inverse=True)
    frames = np.bincount(of, motion.lengths, len(kinds))
    share = np.sqrt(frames)[of] * motion.lengths / frames[of]
    return np.asarray(share / share.sum())


def random_pose(stage: Stage, rng: Generator) -> Array:
    """(17, 3) captured joints about the z axis, turned at random, mirrored half of the time."""
    motion = stage.motion
    sequence = rng.choice(len(stage.chance), p=stage.chance)
    joints = motion.joints[rng.integers(motion.starts[sequence], motion.starts[sequence + 1])].copy()
    joints[:, :2] -= joints[0, :2]
    if rng.random() < 0.5:
        joints = joints[[0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13]] * np.array([-1, 1, 1], np.float32)
    return np.asarray(joints @ rotation((0, 0, 1), rng.uniform(0, 2 * np.pi)).T, np.float32)


def random_figure(stage: Stage, owner: int, rng: Generator, tilted: float = 0.0) -> Figure:
    """Somebody in some pose at the origin. tilted: the chance that the figure lies, hangs or is upside down."""
    return tilted_at_times(figure(stage.cast.person(rng), random_pose(stage, rng), owner), tilted, rng)


def tilted_at_times(made: Figure, chance: float, rng: Generator) -> Figure:
    """The figure, which by that chance lies, hangs or is upside down."""
    if rng.random() < chance:
        axis = rotation((0, 0, 1), rng.uniform(0, 2 * np.pi)) @ [1.0, 0, 0]
        angle = np.pi / 2 + rng.normal(0, 0.3) if rng.random() < 0.55 else rng.uniform(0.4, np.pi)
        made = made.moved(rotation(axis, angle), (0, 0, 0))
        made = made.moved(
            np.eye(3),
            (*-made.joints[0, :2], -float(made.outline[:, 2].min()) + (rng.random() < 0.3) * rng.uniform(0, 0.6)),
        )
    return made


def crop_view(main: Figure, size: tuple[int, int], rng: Generator) -> tuple[View, Array, float]:
    """Who looks at a crop's person, not framed yet; the person's middle, and how far away it is."""
    middle = (main.joints.min(0) + main.joints.max(0)) / 2
    distance = float(np.exp(rng.uniform(np.log(1.6), np.log(9))))
    eye = random_eye(middle, max(distance, 1.3), rng)
    eye[2] = max(eye[2], 0.08)
    return looking(eye, middle, random_roll(rng), 500.0, size), middle, distance


def crop_scene(stage: Stage, size: tuple[int, int], room: float, rng: Generator) -> Scene:
    """One person in the middle, with `room` times its box around it; in a third of the scenes others are near."""
    main = random_figure(stage, 0, rng, tilted=CROP_TILTED)
    view, middle, distance = crop_view(main, size, rng)
    outline = main.outline
    if rng.random() < 0.2:  # a close-up: only a part of the body is framed, the border cuts the rest
        upright = outline[:, 2]
        low, high = sorted(rng.uniform(0, 1, 2))
        edge = np.quantile(upright, [max(low - 0.1, 0), min(high + 0.25, 1)])
        close = outline[(upright >= edge[0]) & (upright <= edge[1])] if rng.random() < 0.6 else _upper(main, outline)
        view = framing(view, close if len(close) > 50 else outline, CROP_ASPECT, rng.uniform(1.0, 1.3), size)
    else:
        view = framing(view, outline, CROP_ASPECT, room * float(np.exp(rng.normal(0, 0.06))), size)
    figures, things = [main], []
    toward = np.append(view.eye[:2] - middle[:2], 0)
    toward /= max(np.linalg.norm(toward), 1e-6)
    aside = np.array([-toward[1], toward[0], 0])
    if rng.random() < 0.38:
        for _ in range(1 + (rng.random() < 0.3)):
            other = random_figure(stage, len(figures), rng, tilted=0.1)
            near = rng.uniform(0.35, 1.2) if rng.random() < 0.6 else -rng.uniform(0.3, 2.5)
            near = min(near, 0.55 * distance)
            place = toward * near + aside * rng.choice([-1, 1]) * rng.uniform(0.15, 0.75)
            figures.append(other.moved(np.eye(3), place + np.array([0, 0, rng.uniform(-0.05, 0.05)])))
    if rng.random() < 0.14:
        sides = rng.uniform([0.4, 0.3, 0.3], [1.6, 0.8, 1.0])
        near = min(rng.uniform(0.4, 0.9), 0.5 * distance)
        place = toward * near + aside * rng.normal(0, 0.5) + [0, 0, sides[2] / 2]
        things.append(thing(rng, place, sides, float(np.arctan2(aside[1], aside[0]) + rng.normal(0, 0.4))))
    return Scene(tuple(figures), tuple(things), view)


def _upper(main: Figure, outline: Array) -> Array:
    """The part of the outline that is nearer to the head than to the hips' level of the trunk."""
    trunk = main.joints[8] - main.joints[0]
    above: Array = outline[(outline - main.joints[0]) @ trunk > 0.1 * float(trunk @ trunk)]
    return above


def photo_scene(stage: Stage, rng: Generator, size: tuple[int, int] | None = None, people: int | None = None) -> Scene:
    """One to three people on a floor before a camera that sees most of them whole; a quarter are close, and cut."""
    size = size or PHOTO_SIZES[rng.integers(len(PHOTO_SIZES))]
    count = people or int(rng.integers(1, 4))
    half_view = np.radians(rng.uniform(32, 75)) / 2
    focal = max(size) / 2 / np.tan(half_view)
    close = rng.random() < 0.25
    distance = float(rng.uniform(1.4, 2.4) if close else rng.uniform(3.2, 7.5))
    eye = random_eye((0, 0, 0.9), distance, rng)
    view = looking(eye, (0, 0, rng.uniform(0.7, 1.1)), random_roll(rng), focal, size)
    figures: list[Figure] = []
    for owner in range(count):
        made = random_figure(stage, owner, rng, tilted=0.06)
        for _ in range(40):
            away = rng.uniform(-0.3, 0.3) if close else rng.uniform(-1.0, 2.5)
            ahead = -np.append(eye[:2], 0) / max(float(np.linalg.norm(eye[:2])), 1e-6)
            aside = np.array([-ahead[1], ahead[0], 0])
            reach = 0.75 * (distance + away) * size[0] / 2 / focal
            placed = made.moved(np.eye(3), ahead * away + aside * rng.uniform(-reach, reach))
            apart = all(np.linalg.norm(placed.joints[0, :2] - f.joints[0, :2]) > 0.45 for f in figures)
            if apart and (close or _inside(view, placed)):
                figures.append(placed)
                break
    if not figures:  # too narrow a lens for anybody: step back until one fits
        back = eye / np.linalg.norm(eye)
        while not _inside(view, made) and np.linalg.norm(view.eye) < 40:
            view = replace(view, eye=view.eye + 0.5 * back)
        figures.append(made)
    numbered = tuple(_owned(each, number) for number, each in enumerate(figures))
    return Scene(numbered, (), view)


def _owned(one: Figure, owner: int) -> Figure:
    return replace(one, parts=tuple(replace(part, owner=owner) for part in one.parts))


def _inside(view: View, one: Figure) -> bool:
    """Whether the whole figure is in the picture."""
    flat = view.project(one.outline[::5])
    good = np.isfinite(flat).all() and (flat[:, 2] > 0.3).all()
    return bool(good and (flat[:, :2] > 2).all() and (flat[:, :2] < np.array(view.size) - 2).all())


def render(scene: Scene, behind: Array, light: Light, stage: Stage, grade: Grade, rng: Generator) -> Photo:
    """Draws a scene before a background (linear, of the view's size) and labels everybody in it."""
    parts = [part for one in scene.figures for part in one.parts] + list(scene.things)
    mesh = joined(parts)
    big = scene.view.enlarged(ENLARGED)
    points = _front(big.project(mesh.places))
    ids = stage.rasterise(points, mesh.triangles, big.size)
    shadows = ShadowMap(mesh, light.sun, stage.rasterise)
    colours = shade(parts, mesh, ids, points, big, light, shadows)
    picture = over(colours, behind * floor_shade(scene.view, shadows, light)[..., None], ENLARGED)
    silhouettes = [_silhouette(one, scene.view) for one in scene.figures]
    people = label(scene.figures, mesh, ids, points, scene.view, silhouettes, ENLARGED)
    return Photo(develop(picture, grade, rng), people, scene.view)


def _front(points: Array) -> Array:
    """Points behind the camera get a depth that no rasteriser draws, instead of NaN."""
    behind = ~np.isfinite(points).all(1) | (points[:, 2] <= 0)
    return np.where(behind[:, None], np.array([0, 0, 1e-6], np.float32), points).astype(np.float32)


def _silhouette(one: Figure, view: View) -> float:
    """Pixels that somebody would cover alone, with nothing cut off, from dots at most 96 pixels high or wide."""
    flat = view.project(one.outline)
    flat = flat[np.isfinite(flat).all(1) & (flat[:, 2] > NEAREST_M), :2]
    if not len(flat):
        return 0.0
    scale = 96 / max(float(np.ptp(flat, axis=0).max()), 1e-3)
    cells = ((flat - flat.min(0)) * scale).astype(int)
    dots = np.zeros((99, 99), np.uint8)
    dots[cells[:, 1] + 1, cells[:, 0] + 1] = 1
    filled = cv2.morphologyEx(dots, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    return float(filled.sum() / scale**2)


def crop_photo(stage: Stage, size: tuple[int, int], room: float, rng: Generator) -> Photo:
    """A crop for the detector's training, the person in its middle."""
    scene = crop_scene(stage, size, room, rng)
    behind = background(scene.view, stage.pictures, rng)
    light, grade = random_light(behind, rng), random_grade(size[1], rng)
    photo = render(scene, behind, light, stage, grade, rng)
    if any(person.owner == 0 and person.whole > LEAST_WHOLE for person in photo.people):
        return photo
    return render(replace(scene, figures=scene.figures[:1], things=()), behind, light, stage, grade, rng)


def whole_photo(stage: Stage, rng: Generator, size: tuple[int, int] | None = None) -> Photo:
    """A photo of one to three people."""
    scene = photo_scene(stage, rng, size)
    behind = background(scene.view, stage.pictures, rng)
    grade = random_grade(scene.view.size[1], rng)
    return render(scene, behind, random_light(behind, rng), stage, grade, rng)
