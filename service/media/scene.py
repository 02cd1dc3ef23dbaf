"""The lifted people as a 3D view: in perspective, on a floor grid, as from a turntable. It knows no photos.

Joints are metres, x right, y down, z away. Left limbs are blue, right ones orange, by the person's own sides; trunk and
label are the id's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.geometry.skeletons import SKELETONS, Skeleton
from service.media.strokes import SHIFT, Align, Colour, Pixels, dot, ends, fixed, label, line, write
from service.people import Person

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

_FINER = 2  # the 3D view is drawn larger and shrunk: smoother than OpenCV's own anti-aliasing
_COARSER = 4  # shadows are soft: they are blurred in so much fewer pixels
_FOV_DEGREES = 28.0
_HEAD = {"h36m17": (9, 10)}  # the bone that is drawn as a ball: from the head's middle to its top
# Further apart than this, people in one view are ants: they are drawn side by side instead, and the view says so.
_WIDEST_M = 12.0
_SLOT_M = 1.1  # between two who stand side by side
_MOST = 0.9  # of the frames: who is without a place more often has none

Floats = NDArray[np.float64]


def bones_of(skeleton: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, side) of each edge; side is "left", "right" or "middle"."""
    layout: Skeleton = SKELETONS[skeleton]
    for start, end in layout.edges:
        sides = {layout.joints[joint].partition("_")[0] for joint in (start, end)} & {"left", "right"}
        yield start, end, sides.pop() if len(sides) == 1 else "middle"


def side_colour(side: str, person_id: int) -> Colour:
    return {"left": LEFT, "right": RIGHT}.get(side) or id_colour(person_id)


def id_colour(person_id: int) -> Colour:
    return IDS[person_id % len(IDS)]


@dataclass(frozen=True)
class Stage:
    """The room that the people of a whole clip take, so that the view keeps still from frame to frame.

    low, high: (3,) metres, as the joints'; the floor is at high[1].
    slots: each id's place from left to right where all stand side by side; None: everybody at their position.
    world: y is along gravity and the floor at 0, not merely the camera's down.
    """

    low: Floats
    high: Floats
    slots: Mapping[int, int] | None = None
    world: bool = False


def stage_of(ids: Sequence[int], joints: Floats, positions: Floats, *, world: bool = False) -> Stage | None:
    """The room of a clip's people, a hundredth of the farthest joints left out: a wild guess must not shrink the rest.

    Side by side where most have no place, or where they are further apart than people can be drawn.

    Args:
        ids: of all people. joints: (n, 17, 3) metres relative to joint 0, of some or all frames. positions: (n, 3).

    Returns:
        None where nobody was lifted.
    """
    lifted = np.isfinite(joints).all(axis=(1, 2))
    if not lifted.any():
        return None
    joints, positions = joints[lifted], positions[lifted]
    there = np.isfinite(positions).all(axis=1)
    slots: Mapping[int, int] | None = None
    points = (joints[there] + positions[there, None]).reshape(-1, 3)
    placed = bool(there.mean() >= _MOST)
    if placed:
        low, high = np.quantile(points, [0.005, 0.995], axis=0)
    if not placed or float((high - low)[[0, 2]].max()) > _WIDEST_M:
        slots = {person: n for n, person in enumerate(sorted(ids))}
        feet = joints - joints[..., 1:2].max(axis=1, keepdims=True) * [0, 1, 0]
        low, high = np.quantile(feet.reshape(-1, 3), [0.005, 0.995], axis=0)
        high += np.array([_SLOT_M * (len(slots) - 1), 0, 0])
    return Stage(low, np.where([False, world and slots is None, False], 0.0, high), slots, world)


def scene(
    people: Sequence[Person],
    width: int,
    height: int,
    *,
    yaw_degrees: float = -30.0,
    pitch_degrees: float = 14.0,
    stage: Stage | None = None,
) -> Pixels:
    """The lifted people in perspective, on a floor grid, as from a turntable.

    Everybody stands at their `position` when all have one and none is very far off, else side by side on one floor.

    Args:
        width, height: pixels of the picture to make.
        yaw_degrees: how far the view is turned around the vertical; 0 looks as the camera does.
        pitch_degrees: how far from above it looks.
        stage: the room of the whole clip that this is a frame of; None: what these people take.
    """
    canvas = _background(width * _FINER, height * _FINER)
    bodies, placed = _stand(people) if stage is None else _on_stage(people, stage)
    if bodies or stage is not None:
        points = np.concatenate([body.joints for body in bodies]) if stage is None else _corners(stage.low, stage.high)
        floor_y = stage.high[1] if stage is not None and stage.world else None
        view = _View.around(points, width * _FINER, height * _FINER, yaw_degrees, pitch_degrees, floor_y)
        _draw_floor(canvas, view)
        _draw_shadows(canvas, view, bodies)
        _draw_bodies(canvas, view, bodies)
        _draw_axes(canvas, view, _WORLD_AXES if stage is not None and stage.world else _CAMERA_AXES)
        _draw_legend(canvas, "estimated places" if placed else "side by side")
    else:
        message = "no 3D poses" if people else "nobody found"
        write(canvas, message, (canvas.shape[1] / 2, canvas.shape[0] / 2), 22 * _FINER, (130, 138, 150), "centre")
    return np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


@dataclass(frozen=True)
class _Body:
    id: int
    joints: Floats  # (joints, 3) metres, in the view's common frame
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
        positions = np.array([[_SLOT_M * rank, -low, 0.0] for rank, low in zip(ranks, lows, strict=True)])
    bodies = [
        _Body(person.id, pose.joints.astype(np.float64) + position, pose.skeleton)
        for (person, pose), position in zip(lifted, positions, strict=True)
        if np.isfinite(pose.joints).any()
    ]
    return bodies, placed


def _on_stage(people: Sequence[Person], stage: Stage) -> tuple[list[_Body], bool]:
    """Where each lifted person stands on the clip's stage; who has no place there in this frame is left out."""
    bodies = []
    for person in people:
        pose = person.lifted
        if pose is None or not np.isfinite(pose.joints).any():
            continue
        joints = pose.joints.astype(np.float64)
        if stage.slots is not None:
            joints += np.array([_SLOT_M * stage.slots.get(person.id, 0), -float(np.nanmax(joints[:, 1])), 0.0])
        elif pose.position is not None:
            joints += pose.position
        else:
            continue
        bodies.append(_Body(person.id, joints, pose.skeleton))
    return bodies, stage.slots is None


def _corners(low: Floats, high: Floats) -> Floats:
    """(8, 3) of a box."""
    return np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])


@dataclass(frozen=True)
class _View:
    """A pinhole camera on a turntable around the people.

    rotation: (3, 3) from metres in the camera's axes to the view's; centre: the point that it turns around.
    floor: (x0, x1, z0, z1, y) metres, the grid's extent and height.
    """

    rotation: Floats
    centre: Floats
    distance: float
    focal_px: float
    middle: Floats
    floor: tuple[float, float, float, float, float]

    @staticmethod
    def around(
        points: Floats, width: int, height: int, yaw: float, pitch: float, floor_y: float | None = None
    ) -> _View:
        """Stands just far enough back that all points (n, 3) fit. floor_y: the floor's height; None: below them all."""
        points = points[np.isfinite(points).all(axis=1)]
        low, high = points.min(axis=0), points.max(axis=0)
        floor_y = high[1] + 0.04 if floor_y is None else floor_y
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

    def show(self, points: Floats) -> tuple[Floats, Floats]:
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
    if not bodies:
        return
    height, width = canvas.shape[:2]
    shade = np.zeros((-(-height // _COARSER), -(-width // _COARSER)), np.uint8)
    for body in bodies:
        lowest = body.joints[np.nanargmax(body.joints[:, 1])]
        (foot, ground), _ = view.show(np.array([lowest, lowest * [1, 0, 1] + [0, view.floor[4], 0]]))
        line(canvas, foot, ground, _FINER, (150, 158, 172))  # whoever floats: above which spot
        flat = body.joints * [1, 0, 1] + [0, view.floor[4], 0]
        pixels, depth = view.show(flat)
        for start, end, _ in bones_of(body.skeleton):
            if np.isfinite(pixels[[start, end]]).all():
                thick = round(0.11 * view.focal_px / depth[start] / _COARSER)
                both_ends = ends(pixels[start] / _COARSER, pixels[end] / _COARSER)
                cv2.line(shade, *both_ends, 255, max(1, thick), cv2.LINE_AA, SHIFT)
    soft = cv2.GaussianBlur(shade, (0, 0), 0.012 * max(canvas.shape) / _COARSER)
    x, y, wide, high = (_COARSER * side for side in cv2.boundingRect(np.asarray(soft)))
    if wide and high:
        part = canvas[y : y + high, x : x + wide]
        weight = cv2.resize(soft, (width, height))[y : y + high, x : x + wide].astype(np.float32) * (0.28 / 255)
        part[:] = (part + (np.array(INK, np.float32) - part) * weight[:, :, None]).astype(np.uint8)


def _draw_bodies(canvas: Pixels, view: _View, bodies: Sequence[_Body]) -> None:
    """Bones and joints of everybody, the far ones first."""
    if not bodies:
        return
    shown = [view.show(body.joints) for body in bodies]
    depths = np.concatenate([depth for _, depth in shown])
    near, far = np.nanmin(depths), np.nanmax(depths)
    strokes: list[tuple[float, int, int, int]] = []
    for number, (body, (_, depth)) in enumerate(zip(bodies, shown, strict=True)):
        before: dict[int, float] = {}  # a joint is just before all the bones that meet in it
        for start, end, _ in bones_of(body.skeleton):
            if np.isfinite(depth[[start, end]]).all():
                middle = float(depth[[start, end]].mean())
                strokes.append((middle, number, start, end))
                before |= {joint: min(before.get(joint, middle), middle) for joint in (start, end)}
        head = _HEAD.get(body.skeleton, ())
        strokes += [(middle - 0.001, number, joint, joint) for joint, middle in before.items() if joint not in head]
    sides = {body.skeleton: {(a, b): side for a, b, side in bones_of(body.skeleton)} for body in bodies}
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
            dot(canvas, pixels[start], radius, _towards_paper(side_colour(side, body.id), haze))
            continue
        width = (0.06 if side == "middle" else 0.048) * scale
        colour = _towards_paper(side_colour(side, body.id), haze)
        line(canvas, pixels[start], pixels[end], round(width + 2 * rim), _towards_paper(INK, haze))
        line(canvas, pixels[start], pixels[end], round(width), colour)
    for body, (pixels, _) in zip(bodies, shown, strict=True):
        if len(bodies) > 1:
            top = pixels[_HEAD.get(body.skeleton, (0, 0))[1]]
            if not np.isfinite(top).all():
                top = pixels[np.nanargmin(pixels[:, 1])]
            label(canvas, str(body.id), (top[0], top[1] - 6 * _FINER), 17 * _FINER, id_colour(body.id))


def _towards_paper(colour: Colour, share: float) -> Colour:
    r, g, b = (round(c + (p - c) * min(max(share, 0.0), 1.0)) for c, p in zip(colour, PAPER, strict=True))
    return r, g, b


_RED, _GREEN, _BLUE = (206, 62, 62), (58, 150, 78), (66, 96, 200)
_CAMERA_AXES = (("x right", _RED, np.eye(3)[0]), ("y down", _GREEN, np.eye(3)[1]), ("z away", _BLUE, np.eye(3)[2]))
# What is drawn has y down; the world's own y and z point the other way.
_WORLD_AXES = (("x", _RED, np.eye(3)[0]), ("y up", _GREEN, -np.eye(3)[1]), ("z", _BLUE, -np.eye(3)[2]))


def _draw_axes(canvas: Pixels, view: _View, axes: Sequence[tuple[str, Colour, Floats]]) -> None:
    """Which way the three axes point, in the lower left corner."""
    height = canvas.shape[0]
    size = 0.07 * height
    origin = np.array([size + 46 * _FINER, height - size - 26 * _FINER])
    # The one that points away most is drawn first.
    for name, colour, along in sorted(axes, key=lambda axis: -float(view.rotation[2] @ axis[2])):
        tip = origin + size * (view.rotation[:2] @ along)
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
