"""People drawn: over their photo in 2D, and as a 3D view beside it. It opens no files and knows no HTTP.

Pictures are (height, width, 3) uint8 RGB, keypoints pixels of the picture, joints metres in the camera's axes (x right,
y down, z away). Left limbs are blue, right ones orange, by the person's own sides; trunk and label are the id's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from service.geometry.skeletons import SKELETONS, Skeleton
from service.media.strokes import SHIFT, Align, Colour, Pixels, dot, ends, fixed, label, line, write
from service.people import Box, Keypoints, Person

LEFT: Colour = (44, 130, 235)
RIGHT: Colour = (247, 118, 42)
# Neighbours differ in hue and lightness, and none is near the limbs' two colours.
IDS: tuple[Colour, ...] = (
    (38, 166, 111),
    (150, 84, 214),
    (222, 58, 118),
    (196, 152, 16),
    (16, 152, 168),
    (130, 98, 72),
    (94, 112, 196),
    (118, 158, 44),
)
INK: Colour = (30, 36, 48)
PAPER: Colour = (248, 249, 251)

SEEN = 0.3  # under this score a joint is drawn thin, without its dot
GUESSED = 0.05  # under this one not at all
_FINER = 2  # the 3D view is drawn larger and shrunk: smoother than OpenCV's own anti-aliasing
_FOV_DEGREES = 28.0
_HEAD = {"h36m17": (9, 10)}  # the bone that is drawn as a ball: from the head's middle to its top
# Further apart than this, people in one view are ants: they are drawn side by side instead, and the view says so.
_WIDEST_M = 12.0


def overlay(picture: Pixels, people: Sequence[Person]) -> Pixels:
    """A copy of the picture with everybody's 2D skeleton; lines are as wide as fits the person's size."""
    canvas = picture.copy()
    faint = picture.copy()
    bones = [(person, *bone) for person in _smallest_first(people) for bone in _bones(person.keypoints.skeleton)]
    for person, start, end, side in bones:
        bone_ends = person.keypoints.points[[start, end]]
        if GUESSED <= bone_ends[:, 2].min() < SEEN:
            colour = _side_colour(side, person.id)
            line(faint, bone_ends[0], bone_ends[1], max(1, round(_line_width(person) / 2)), colour)
    canvas = np.asarray(cv2.addWeighted(canvas, 0.4, faint, 0.6, 0), np.uint8)
    for person in _smallest_first(people):
        _draw_keypoints(canvas, person)
    for person in _smallest_first(people):
        size = max(13.0, min(30.0, 2.2 * _line_width(person) + 8.0))
        label(canvas, str(person.id), _above_head(person), size, _id_colour(person.id))
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
    seen = [bone for bone in _bones(person.keypoints.skeleton) if points[[bone[0], bone[1]], 2].min() >= SEEN]
    joints = SKELETONS[person.keypoints.skeleton].joints
    # The face is small and its lines are many: half as wide, so that something of it stays to be seen.
    share = [0.5 if _in_face(joint) else 1.0 for joint in joints]
    for start, end, _ in seen:
        line(canvas, points[start], points[end], round(width * min(share[start], share[end])) + 2 * rim, INK)
    for start, end, side in seen:
        colour = _side_colour(side, person.id)
        line(canvas, points[start], points[end], round(width * min(share[start], share[end])), colour)
    for (x, y, score), part in zip(points, share, strict=True):
        if score >= SEEN:
            dot(canvas, (x, y), 0.62 * width * part + rim, INK)
            dot(canvas, (x, y), 0.62 * width * part, PAPER)


def _line_width(person: Person) -> float:
    return float(np.clip(0.014 * np.hypot(person.box.width, person.box.height), 1.0, 16.0))


def _bones(skeleton: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, side) of each edge; side is "left", "right" or "middle"."""
    layout: Skeleton = SKELETONS[skeleton]
    for start, end in layout.edges:
        sides = {layout.joints[joint].partition("_")[0] for joint in (start, end)} & {"left", "right"}
        yield start, end, sides.pop() if len(sides) == 1 else "middle"


def _in_face(joint: str) -> bool:
    return joint.startswith("mouth_") or joint.endswith(("nose", "_ear")) or "_eye" in joint


def _side_colour(side: str, person_id: int) -> Colour:
    return {"left": LEFT, "right": RIGHT}.get(side) or _id_colour(person_id)


def _id_colour(person_id: int) -> Colour:
    return IDS[person_id % len(IDS)]


# ---- The 3D view


def scene(
    people: Sequence[Person], width: int, height: int, *, yaw_degrees: float = -30.0, pitch_degrees: float = 14.0
) -> Pixels:
    """The lifted people in perspective, on a floor grid, as from a turntable.

    Everybody stands at their `position` when all have one and none is very far off, else side by side on one floor.

    Args:
        width, height: pixels of the picture to make.
        yaw_degrees: how far the view is turned around the vertical; 0 looks as the camera does.
        pitch_degrees: how far from above it looks.
    """
    canvas = _background(width * _FINER, height * _FINER)
    bodies, placed = _stand(people)
    if bodies:
        view = _View.around(bodies, width * _FINER, height * _FINER, yaw_degrees, pitch_degrees)
        _draw_floor(canvas, view)
        _draw_shadows(canvas, view, bodies)
        _draw_bodies(canvas, view, bodies)
        _draw_axes(canvas, view)
        _draw_legend(canvas, "estimated places" if placed else "side by side")
    else:
        message = "no 3D poses" if people else "nobody found"
        write(canvas, message, (canvas.shape[1] / 2, canvas.shape[0] / 2), 22 * _FINER, (130, 138, 150), "centre")
    return np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


@dataclass(frozen=True)
class _Body:
    id: int
    joints: NDArray[np.float64]  # (joints, 3) metres, in the view's common frame
    skeleton: str


def _stand(people: Sequence[Person]) -> tuple[list[_Body], bool]:
    """Where each lifted person stands, and whether that is where they truly are."""
    lifted = [(person, person.lifted) for person in people if person.lifted is not None]
    positions = np.array([[np.nan] * 3 if pose.position is None else pose.position for _, pose in lifted])
    placed = bool(lifted) and bool(np.isfinite(positions).all()) and bool(np.ptp(positions, axis=0).max() <= _WIDEST_M)
    if not placed:
        lows = [np.nanmax(pose.joints[:, 1], initial=0.0) for _, pose in lifted]
        # Left to right as in the photo, feet on one floor.
        ranks = np.argsort(np.argsort([person.box.x + person.box.width / 2 for person, _ in lifted]))
        positions = np.array([[1.1 * rank, -low, 0.0] for rank, low in zip(ranks, lows, strict=True)])
    bodies = [
        _Body(person.id, pose.joints.astype(np.float64) + position, pose.skeleton)
        for (person, pose), position in zip(lifted, positions, strict=True)
        if np.isfinite(pose.joints).any()
    ]
    return bodies, placed


@dataclass(frozen=True)
class _View:
    """A pinhole camera on a turntable around the people.

    rotation: (3, 3) from metres in the camera's axes to the view's; centre: the point that it turns around.
    floor: (x0, x1, z0, z1, y) metres, the grid's extent and height.
    """

    rotation: NDArray[np.float64]
    centre: NDArray[np.float64]
    distance: float
    focal_px: float
    middle: NDArray[np.float64]
    floor: tuple[float, float, float, float, float]

    @staticmethod
    def around(bodies: Sequence[_Body], width: int, height: int, yaw: float, pitch: float) -> _View:
        """Stands just far enough back that everybody fits."""
        points = np.concatenate([body.joints for body in bodies])
        points = points[np.isfinite(points).all(axis=1)]
        low, high = points.min(axis=0), points.max(axis=0)
        floor_y = high[1] + 0.04
        x0, z0 = np.floor((low[[0, 2]] - 0.35) * 2) / 2
        x1, z1 = np.ceil((high[[0, 2]] + 0.35) * 2) / 2
        centre = (low + high) / 2
        turn, tilt = np.deg2rad(yaw), np.deg2rad(pitch)
        about_y = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
        about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
        rotation = about_x @ about_y
        below = points * [1, 0, 1] + [0, floor_y, 0]
        seen = (np.concatenate([points, below]) - centre) @ rotation.T
        focal_px = 0.5 * max(width, height) / np.tan(np.deg2rad(_FOV_DEGREES / 2))
        room = np.array([0.42 * width, 0.38 * height])
        # Nothing may come behind the eye: not a body right in the middle, not an empty corner of the floor.
        corners = (np.array([[x, floor_y, z] for x in (x0, x1) for z in (z0, z1)]) - centre) @ rotation.T
        nearest = min(seen[:, 2].min(), corners[:, 2].min())
        distance = max(float((focal_px * np.abs(seen[:, :2]) / room - seen[:, 2:]).max()), 1.0 - nearest)
        flat = focal_px * seen[:, :2] / (seen[:, 2:] + distance)
        middle = np.array([width / 2, 0.48 * height]) - (flat.min(axis=0) + flat.max(axis=0)) / 2
        return _View(rotation, centre, distance, float(focal_px), middle, (x0, x1, z0, z1, floor_y))

    def show(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n, 3) metres to (n, 2) pixels and (n,) depths in metres from the view's eye."""
        seen = (points - self.centre) @ self.rotation.T
        depth = seen[:, 2] + self.distance
        return self.focal_px * seen[:, :2] / depth[:, None] + self.middle, depth


def _background(width: int, height: int) -> Pixels:
    fade = np.linspace(0, 1, height)[:, None, None]
    column = np.array(PAPER) * (1 - fade) + np.array([236, 239, 244]) * fade
    return np.repeat(column.round().astype(np.uint8), width, axis=1)


def _draw_floor(canvas: Pixels, view: _View) -> None:
    x0, x1, z0, z1, y = view.floor
    corners, _ = view.show(np.array([[x0, y, z0], [x1, y, z0], [x1, y, z1], [x0, y, z1]]))
    cv2.fillPoly(canvas, [fixed(corners)], (227, 231, 238), cv2.LINE_AA, SHIFT)
    step = 0.5 if max(x1 - x0, z1 - z0) <= 6 else 1.0
    lines = [((x, y, z0), (x, y, z1)) for x in np.arange(x0, x1 + 0.01, step)]
    lines += [((x0, y, z), (x1, y, z)) for z in np.arange(z0, z1 + 0.01, step)]
    for start, end in lines:
        (a, b), _ = view.show(np.array([start, end]))
        line(canvas, a, b, _FINER, (203, 209, 219))


def _draw_shadows(canvas: Pixels, view: _View, bodies: Sequence[_Body]) -> None:
    shade = np.zeros(canvas.shape[:2], np.uint8)
    for body in bodies:
        lowest = body.joints[np.nanargmax(body.joints[:, 1])]
        (foot, ground), _ = view.show(np.array([lowest, lowest * [1, 0, 1] + [0, view.floor[4], 0]]))
        line(canvas, foot, ground, _FINER, (150, 158, 172))  # whoever floats: above which spot
        flat = body.joints * [1, 0, 1] + [0, view.floor[4], 0]
        pixels, depth = view.show(flat)
        for start, end, _ in _bones(body.skeleton):
            if np.isfinite(pixels[[start, end]]).all():
                width = round(0.11 * view.focal_px / depth[start])
                cv2.line(shade, *ends(pixels[start], pixels[end]), 255, max(1, width), cv2.LINE_AA, SHIFT)
    blur = 0.012 * max(canvas.shape)
    weight = cv2.GaussianBlur(shade, (0, 0), blur).astype(np.float32)[:, :, None] / 255 * 0.28
    canvas[:] = (canvas * (1 - weight) + np.array(INK) * weight).astype(np.uint8)


def _draw_bodies(canvas: Pixels, view: _View, bodies: Sequence[_Body]) -> None:
    """Bones and joints of everybody, the far ones first."""
    shown = [view.show(body.joints) for body in bodies]
    depths = np.concatenate([depth for _, depth in shown])
    near, far = np.nanmin(depths), np.nanmax(depths)
    strokes: list[tuple[float, int, int, int]] = []
    for number, (body, (_, depth)) in enumerate(zip(bodies, shown, strict=True)):
        before: dict[int, float] = {}  # a joint is just before all the bones that meet in it
        for start, end, _ in _bones(body.skeleton):
            if np.isfinite(depth[[start, end]]).all():
                middle = float(depth[[start, end]].mean())
                strokes.append((middle, number, start, end))
                before |= {joint: min(before.get(joint, middle), middle) for joint in (start, end)}
        head = _HEAD.get(body.skeleton, ())
        strokes += [(middle - 0.001, number, joint, joint) for joint, middle in before.items() if joint not in head]
    sides = {body.skeleton: {(a, b): side for a, b, side in _bones(body.skeleton)} for body in bodies}
    for depth_m, number, start, end in sorted(strokes, reverse=True):
        body, (pixels, _) = bodies[number], shown[number]
        scale = view.focal_px / depth_m  # pixels a metre
        rim = max(1.5 * _FINER, 0.011 * scale)
        haze = 0.35 * (depth_m - near) / max(far - near, 1.0)
        if start == end:
            dot(canvas, pixels[start], 0.026 * scale + rim, _towards_paper(INK, haze))
            dot(canvas, pixels[start], 0.026 * scale, _towards_paper((255, 255, 255), haze))
            continue
        side = sides[body.skeleton][start, end]
        if (start, end) == _HEAD.get(body.skeleton):
            # Its top and its middle are joints, so its size is measured, too.
            radius = max(0.06 * scale, float(np.hypot(*(pixels[end] - pixels[start]))))
            dot(canvas, pixels[start], radius + rim, _towards_paper(INK, haze))
            dot(canvas, pixels[start], radius, _towards_paper(_side_colour(side, body.id), haze))
            continue
        width = (0.06 if side == "middle" else 0.048) * scale
        colour = _towards_paper(_side_colour(side, body.id), haze)
        line(canvas, pixels[start], pixels[end], round(width + 2 * rim), _towards_paper(INK, haze))
        line(canvas, pixels[start], pixels[end], round(width), colour)
    for body, (pixels, _) in zip(bodies, shown, strict=True):
        if len(bodies) > 1:
            top = pixels[_HEAD.get(body.skeleton, (0, 0))[1]]
            if not np.isfinite(top).all():
                top = pixels[np.nanargmin(pixels[:, 1])]
            label(canvas, str(body.id), (top[0], top[1] - 6 * _FINER), 17 * _FINER, _id_colour(body.id))


def _towards_paper(colour: Colour, share: float) -> Colour:
    r, g, b = (round(c + (p - c) * min(max(share, 0.0), 1.0)) for c, p in zip(colour, PAPER, strict=True))
    return r, g, b


def _draw_axes(canvas: Pixels, view: _View) -> None:
    """Which way the three axes point, in the lower left corner."""
    height = canvas.shape[0]
    size = 0.07 * height
    origin = np.array([size + 46 * _FINER, height - size - 26 * _FINER])
    axes = (("x right", (206, 62, 62)), ("y down", (58, 150, 78)), ("z away", (66, 96, 200)))
    order = np.argsort(-view.rotation[2])  # the one that points away most is drawn first
    for axis in order:
        name, colour = axes[axis]
        tip = origin + size * view.rotation[:2, axis]
        length = float(np.hypot(*(tip - origin)))
        cv2.arrowedLine(
            canvas, *ends(origin, tip), colour, round(1.5 * _FINER), cv2.LINE_AA, SHIFT, 6 * _FINER / max(length, 1)
        )
        out = (tip - origin) / max(length, 1)
        align: Align = "centre" if abs(out[0]) < 0.5 else "left" if out[0] > 0 else "right"
        write(canvas, name, tip + np.array([5.0, 10.0]) * out * _FINER, 11 * _FINER, colour, align)


def _draw_legend(canvas: Pixels, arrangement: str) -> None:
    height, width = canvas.shape[:2]
    y = height - 14 * _FINER
    for name, colour, x in (("left", LEFT, 218), ("right", RIGHT, 172)):
        dot(canvas, (width - x * _FINER, y), 5 * _FINER, colour)
        write(canvas, name, (width - (x - 9) * _FINER, y), 11 * _FINER, INK, "left")
    write(canvas, arrangement, (width - 12 * _FINER, y), 11 * _FINER, (120, 128, 140), "right")


# ---- Both, as one picture


def side_by_side(picture: Pixels, people: Sequence[Person]) -> Pixels:
    """The photo with its skeletons, the 3D view on its right, and a line under both that says units and scale.

    The photo is brought to a height of 480 to 1080 pixels, so that lines and letters can be read.
    """
    height, width = picture.shape[:2]
    tall = min(max(height, 480), 1080)
    factor = tall / height
    if factor != 1:
        wide = max(1, round(width * factor))
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        picture = np.asarray(cv2.resize(picture, (wide, tall), interpolation=how), np.uint8)
        people = [_scaled(person, wide / width, factor) for person in people]
    panel = scene(people, tall, tall)
    both = np.concatenate([overlay(picture, people), np.full((tall, 2, 3), 255, np.uint8), panel], axis=1)
    strip = max(26, round(0.045 * tall))
    caption = np.full((strip, both.shape[1], 3), 255, np.uint8)
    text = f"3D joints in metres, camera axes x right, y down, z away - {_scale_words(people)}"
    size = min(0.48 * strip, 1.7 * both.shape[1] / len(text))
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
