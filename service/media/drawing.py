"""People drawn: over their photo in 2D, and as a 3D view beside it. It opens no files and knows no HTTP.

Pictures are (height, width, 3) uint8 RGB, keypoints pixels of the picture, joints metres in the camera's axes (x right,
y down, z away). Left limbs are blue, right ones orange, by the person's own sides; trunk and label are the id's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from service.geometry.skeletons import SKELETONS
from service.media.scene import INK, PAPER, Stage, bones_of, id_colour, scene, side_colour
from service.media.strokes import Pixels, dot, label, line, write
from service.people import Box, Keypoints, Person

SEEN = 0.3  # under this score a joint is drawn thin, without its dot
GUESSED = 0.05  # under this one not at all


def overlay(picture: Pixels, people: Sequence[Person]) -> Pixels:
    """A copy of the picture with everybody's 2D skeleton; lines are as wide as fits the person's size."""
    canvas = picture.copy()
    faint = picture.copy()
    bones = [(person, *bone) for person in _smallest_first(people) for bone in bones_of(person.keypoints.skeleton)]
    for person, start, end, side in bones:
        bone_ends = person.keypoints.points[[start, end]]
        if GUESSED <= bone_ends[:, 2].min() < SEEN:
            colour = side_colour(side, person.id)
            line(faint, bone_ends[0], bone_ends[1], max(1, round(_line_width(person) / 2)), colour)
    canvas = np.asarray(cv2.addWeighted(canvas, 0.4, faint, 0.6, 0), np.uint8)
    for person in _smallest_first(people):
        _draw_keypoints(canvas, person)
    for person in _smallest_first(people):
        size = max(13.0, min(30.0, 2.2 * _line_width(person) + 8.0))
        label(canvas, str(person.id), _above_head(person), size, id_colour(person.id))
    return canvas


def _above_head(person: Person) -> tuple[float, float]:
    """A little above the face where it is seen, else the middle of the box's upper edge."""
    joints = SKELETONS[person.keypoints.skeleton].joints
    face = person.keypoints.points[[_in_face(joint) for joint in joints]]
    face = face[face[:, 2] >= SEEN]
    if len(face) < 2:
        return person.box.x + person.box.width / 2, person.box.y
    return float(face[:, 0].mean()), float(face[:, 1].min() - 0.06 * person.box.height)


def _smallest_first(people: Sequence[Person]) -> list[Person]:
    """The near ones, drawn last, are on top."""
    return sorted(people, key=lambda person: person.box.height)


def _draw_keypoints(canvas: Pixels, person: Person) -> None:
    points = person.keypoints.points
    width = _line_width(person)
    rim = max(1, round(width / 4))
    seen = [bone for bone in bones_of(person.keypoints.skeleton) if points[[bone[0], bone[1]], 2].min() >= SEEN]
    joints = SKELETONS[person.keypoints.skeleton].joints
    # The face is small and its lines are many: half as wide, so that something of it stays to be seen.
    share = [0.5 if _in_face(joint) else 1.0 for joint in joints]
    for start, end, _ in seen:
        line(canvas, points[start], points[end], round(width * min(share[start], share[end])) + 2 * rim, INK)
    for start, end, side in seen:
        colour = side_colour(side, person.id)
        line(canvas, points[start], points[end], round(width * min(share[start], share[end])), colour)
    for (x, y, score), part in zip(points, share, strict=True):
        if score >= SEEN:
            dot(canvas, (x, y), 0.62 * width * part + rim, INK)
            dot(canvas, (x, y), 0.62 * width * part, PAPER)


def _line_width(person: Person) -> float:
    return float(np.clip(0.014 * np.hypot(person.box.width, person.box.height), 1.0, 16.0))


def _in_face(joint: str) -> bool:
    return joint.startswith("mouth_") or joint.endswith(("nose", "_ear")) or "_eye" in joint


# ---- Both, as one picture


def side_by_side(picture: Pixels, people: Sequence[Person], stage: Stage | None = None, tallest: int = 1080) -> Pixels:
    """The photo with its skeletons, the 3D view on its right, and a line under both that says units and scale.

    The photo is brought to a height of 480 to `tallest` pixels, so that lines and letters can be read.

    Args:
        stage: of the clip that the picture is a frame of.
    """
    height, width = picture.shape[:2]
    tall = min(max(height, 480), tallest)
    factor = tall / height
    if factor != 1:
        wide = max(1, round(width * factor))
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        picture = np.asarray(cv2.resize(picture, (wide, tall), interpolation=how), np.uint8)
        people = [_scaled(person, wide / width, factor) for person in people]
    panel = scene(people, tall, tall, stage=stage)
    both = np.concatenate([overlay(picture, people), np.full((tall, 2, 3), 255, np.uint8), panel], axis=1)
    strip = max(26, round(0.045 * tall))
    caption = np.full((strip, both.shape[1], 3), 255, np.uint8)
    axes = "camera axes x right, y down, z away"
    if stage is not None and stage.world:
        axes = "world axes, y up, floor at 0"
    text = f"3D joints in metres, {axes} - {_scale_words(people)}"
    size = min(0.48 * strip, 1.7 * both.shape[1] / max(len(text), 90))
    write(caption, text, (0.5 * strip, strip / 2), size, (84, 92, 106), "left")
    return np.concatenate([both, caption], axis=0)


def _scaled(person: Person, x: float, y: float) -> Person:
    box = Box(person.box.x * x, person.box.y * y, person.box.width * x, person.box.height * y, person.box.score)
    points = (person.keypoints.points * [x, y, 1]).astype(np.float32)
    return replace(person, box=box, keypoints=Keypoints(points, person.keypoints.skeleton))


def _scale_words(people: Sequence[Person]) -> str:
    scales = {person.lifted.scale for person in people if person.lifted is not None}
    if not scales:
        return "no 3D poses"
    if len(scales) == 1:
        scale = scales.pop()
        return f"for a standing height of {scale.stature:.2f} m ({scale.source})"
    return f"for standing heights ({' and '.join(sorted({scale.source for scale in scales}))})"


def encode(picture: Pixels, kind: str) -> bytes:
    """The picture as "png" or "jpeg" bytes. Raises ValueError for another kind."""
    settings = {
        "png": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 3]),
        "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90]),
    }
    if kind not in settings:
        raise ValueError(f"`kind` is {kind!r}, it can be {' or '.join(settings)}")
    ending, options = settings[kind]
    _, coded = cv2.imencode(ending, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return coded.tobytes()
