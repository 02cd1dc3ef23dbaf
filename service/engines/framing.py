"""Framing: rows become a network's input array, and its output becomes people's words again. numpy and OpenCV only.

Knows the networks' input conventions (which pixels, which order, which normalisation), not the networks. Pixels are
those of the upright picture, counted from its top-left corner; 3D is in metres, root-relative, in the camera's axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.geometry.boxes import clip, from_corners, suppress
from service.geometry.crops import (
    TRANSFORMS,
    Crop,
    Transform,
    cells_to_input,
    crop_of_box,
    cut,
    letterbox,
    to_picture,
    udp_stride,
)
from service.geometry.heatmaps import decode_argmax, decode_dark, decode_quarter, decode_udp, merge_mirrored
from service.geometry.planes import AnyPicture
from service.geometry.skeletons import SKELETONS, mirror_order, mirror_points

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

LIFTER_CHANNELS = 6
# A person's size in a window is told in steps of 3 %: a frame looks the same in every window that it is in, as long as
# the size stays on its step, so that what a network made of it can be kept (`engines/remembering.py`).
SIZE_STEPS = 24  # to twice the size


@dataclass(frozen=True, eq=False)
class PictureRow:
    """A whole picture for the finder: (height, width, 3) uint8 RGB, or planes.

    least_score: under which nobody asks for a box. A box is suppressed by surer ones alone, so that the others stay as
    they are; among few candidates that takes a tenth of the time.
    """

    picture: AnyPicture
    cost: int = 1
    least_score: float = 0.0

    @property
    def holds(self) -> AnyPicture:
        return self.picture


@dataclass(frozen=True, eq=False)
class CropRow:
    """One person for the detector: the box in the picture's pixels. `flip_test` costs a second, mirrored input.

    rotation: degrees by which the picture turns counter-clockwise about the middle of the box, which does not turn.
    """

    picture: AnyPicture
    box: Array
    flip_test: bool = False
    rotation: float = 0.0

    @property
    def cost(self) -> int:
        return 2 if self.flip_test else 1

    @property
    def holds(self) -> AnyPicture:
        return self.picture


@dataclass(frozen=True, eq=False)
class TensorCropRow:
    """One person for the detector, cut out by the caller: (height, width, 3) uint8 RGB, of the network's own size.

    heatmaps: whether they are answered as well.
    """

    crop: Pixels
    heatmaps: bool = False
    cost: int = 1

    @property
    def holds(self) -> Pixels:
        return self.crop


@dataclass(frozen=True, eq=False)
class WindowRow:
    """One window for the lifter.

    points: (frames, 17, 3) pixels and score in the h36m17 order, NaN for unknown; size: the picture's width and height;
    given: whether the joints came as h36m17, not made from another skeleton.
    mirror_test: lift the mirror image too, a second input, and answer the mean of both.
    """

    points: Array
    size: tuple[int, int]
    given: bool
    mirror_test: bool = False

    @property
    def cost(self) -> int:
        return 2 if self.mirror_test else 1

    @property
    def holds(self) -> Array:
        return self.points


class LateWindowRow:
    """The same, of what there is when its batch is framed: who waits for the device with an old frame has a newer one
    by then.

    make: called once, by whoever frames the batch, which is the event loop (`LiftFraming.light`).
    """

    mirror_test = False
    cost = 1

    def __init__(self, make: Callable[[], Array], frames: int, size: tuple[int, int], given: bool) -> None:
        self._make, self.size, self.given = make, size, given
        self.nbytes = frames * 17 * 3 * np.dtype(np.float32).itemsize

    @cached_property
    def points(self) -> Array:
        return self._make()

    @property
    def holds(self) -> LateWindowRow:
        return self


@dataclass(frozen=True)
class Found:
    """What the finder answers: boxes (n, 4) x, y, width, height in picture pixels, scores (n,), falling."""

    boxes: Array
    scores: Array


@dataclass(frozen=True, eq=False)
class CropPose:
    """What the detector answers to a TensorCropRow: (17, 3) x, y in crop pixels, score; (17, h, w), if asked for."""

    points: Array
    heatmaps: Array | None


class FinderFraming:
    """RTMDet's: the picture letterboxed into a square, distances from the cells' corners, suppression by overlap."""

    strides = (8, 16, 32)
    least_logit = -4.6  # a chance of 0.01; far below, the exponential would overflow

    def __init__(self, preset: Mapping[str, Any], side: int) -> None:
        self.side = side
        self.most_overlap = float(preset["suppress_iou"])

    def inputs(self, rows: Sequence[PictureRow]) -> Pixels:
        return np.stack([letterbox(row.picture, self.side)[0] for row in rows])

    def example(self) -> Pixels:
        return np.full((1, self.side, self.side, 3), 114, np.uint8)

    def answers(self, outputs: Sequence[NDArray[Any]], rows: Sequence[PictureRow]) -> list[Found]:
        return [
            self._found([level[n] for level in outputs], row.picture, row.least_score) for n, row in enumerate(rows)
        ]

    def _found(self, levels: Sequence[Array], picture: AnyPicture, least_score: float) -> Found:
        """levels: (rows, columns, 5) logit, left, top, right, bottom in input pixels, one for each stride."""
        corners, scores = [], []
        asked = min(max(least_score - 1e-6, 1e-6), 1 - 1e-6)  # rounding of the logarithm must not lose a box
        least_logit = max(self.least_logit, math.log(asked / (1 - asked)))
        for level, stride in zip(levels, self.strides, strict=True):
            logit = level[..., 0]
            row, column = np.nonzero(logit > least_logit)
            left, top, right, bottom = level[row, column, 1:].T
            x, y = column * stride, row * stride
            corners.append(np.stack([x - left, y - top, x + right, y + bottom], axis=1))
            scores.append(1 / (1 + np.exp(-logit[row, column])))
        height, width = picture.shape[:2]
        scale = self.side / max(height, width)
        fitted = np.array([max(1, round(width * scale)) / width, max(1, round(height * scale)) / height])
        boxes = from_corners(np.concatenate(corners))
        score = np.concatenate(scores)
        kept = suppress(boxes, score, self.most_overlap)
        in_picture = (boxes[kept] / np.tile(fitted, 2)).astype(np.float32)
        return Found(clip(in_picture, width, height), score[kept].astype(np.float32))


class PoseFraming:
    """Top-down heatmap detectors: a crop a person; the preset says size, padding and how peaks are read.

    Published networks bring a `transform` of their own, see `crop_of_box`; without one it is `centre`.
    """

    def __init__(self, preset: Mapping[str, Any]) -> None:
        self.width, self.height = int(preset["width"]), int(preset["height"])
        self.padding = float(preset["padding"])
        self.transform: Transform = preset.get("transform", "centre")
        if self.transform not in TRANSFORMS:
            raise ValueError(f"`transform` must be one of {', '.join(TRANSFORMS)}, got {self.transform!r}")
        stride = float(preset["stride"])
        self.stride = udp_stride(self.width, self.height, stride) if self.transform == "udp" else stride
        self.shift = (float(preset["shift"][0]), float(preset["shift"][1]))
        self.flip_shift = int(preset["flip_shift"])
        decode, blur = preset["decode"], int(preset.get("blur", 3))
        decoders: dict[str, Callable[[Array], tuple[Array, Array]]] = {
            "dark": lambda h: decode_dark(h, blur),
            "quarter": decode_quarter,
            "argmax": decode_argmax,
            "udp": lambda h: decode_udp(h, blur),
        }
        if decode not in decoders:
            raise ValueError(f"`decode` must be one of {', '.join(decoders)}, got {decode!r}")
        self.decode = decoders[decode]
        self.order = mirror_order(SKELETONS["coco17"])

    def crop(self, row: CropRow) -> Crop:
        return crop_of_box(row.box, self.width, self.height, self.padding, row.rotation, self.transform)

    def inputs(self, rows: Sequence[CropRow | TensorCropRow]) -> Pixels:
        crops = []
        for row in rows:
            if isinstance(row, TensorCropRow):
                crops.append(row.crop)
                continue
            crop = cut(row.picture, self.crop(row))
            crops += [crop, crop[:, ::-1]] if row.flip_test else [crop]
        return np.stack(crops)

    def example(self) -> Pixels:
        return np.zeros((1, self.height, self.width, 3), np.uint8)

    def answers(self, outputs: Sequence[NDArray[Any]], rows: Sequence[CropRow | TensorCropRow]) -> list[Any]:
        """(17, 3) a row: x, y in picture pixels, score 0..1; a CropPose for a crop that was given as such."""
        heatmaps = outputs[0]
        first = np.cumsum([0, *(row.cost for row in rows)])[:-1]
        own = heatmaps if len(heatmaps) == len(rows) else heatmaps[first]
        flipped = [n for n, row in enumerate(rows) if isinstance(row, CropRow) and row.flip_test]
        if flipped:
            own = own.copy()
            own[flipped] = merge_mirrored(own[flipped], heatmaps[first[flipped] + 1], self.order, self.flip_shift)
        positions, scores = self.decode(own)
        in_input = cells_to_input(positions, self.stride, self.shift)
        points = np.concatenate([in_input, scores.clip(0, 1)[..., None]], axis=-1)
        answers: list[Array | CropPose] = []
        for n, row in enumerate(rows):
            if isinstance(row, TensorCropRow):
                # Copies: a view would keep the whole batch's heatmaps for as long as one caller's answer.
                maps = own[n].astype(np.float32) if row.heatmaps else None
                answers.append(CropPose(points[n].astype(np.float32), maps))
            else:
                answers.append(to_picture(points[n], self.crop(row)))
        return answers


class LiftFraming:
    """Our lifters: `window_channels` in, metres out.

    light: eight windows take 40 microseconds, so a batch is framed by whoever forms it. In a thread of its own each of
    NumPy's steps would let go of the interpreter and wait for the event loop to give it back.
    """

    light = True

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self._order = mirror_order(SKELETONS["h36m17"])

    def inputs(self, rows: Sequence[WindowRow | LateWindowRow]) -> Array:
        windows = []
        for row in rows:
            windows.append(row.points)
            if row.mirror_test:
                windows.append(mirror_points(row.points, SKELETONS["h36m17"], row.size[0]))
        of_input = [row for row in rows for _ in range(row.cost)]
        sizes = np.array([row.size for row in of_input], np.float32)
        return window_channels(np.stack(windows), sizes, np.array([row.given for row in of_input]))

    def example(self) -> Array:
        return np.zeros((1, self.frames, 17, LIFTER_CHANNELS), np.float32)

    def answers(self, outputs: Sequence[NDArray[Any]], rows: Sequence[WindowRow | LateWindowRow]) -> list[Array]:
        """(frames, 17, 3) a row: metres relative to joint 0 for a person of 1.70 m stature."""
        poses = (outputs[0] - outputs[0][:, :, :1]).astype(np.float32, copy=False)
        answers, first = [], 0
        for row in rows:
            pose = poses[first]
            if row.mirror_test:
                pose = (pose + _mirrored_back(poses[first + 1], self._order)) / np.float32(2)
            answers.append(pose)
            first += row.cost
        return answers


class PublishedLiftFraming:
    """PoseFormer's and VideoPose3D's: places in the picture alone, and a pose for a window's centre frame alone.

    A joint that is unknown has no form in their input: it is put where it was in the frames around, and one that the
    window never has in the middle of the others.
    """

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self._order = mirror_order(SKELETONS["h36m17"])

    def inputs(self, rows: Sequence[WindowRow | LateWindowRow]) -> Array:
        windows = []
        for row in rows:
            windows.append(published_channels(row.points, row.size))
            if row.mirror_test:
                mirrored = mirror_points(row.points, SKELETONS["h36m17"], row.size[0])
                windows.append(published_channels(mirrored, row.size))
        return np.stack(windows)

    def example(self) -> Array:
        return np.zeros((1, self.frames, 17, 2), np.float32)

    def answers(self, outputs: Sequence[NDArray[Any]], rows: Sequence[WindowRow]) -> list[Array]:
        """(frames, 17, 3) a row: metres relative to joint 0 in the centre frame, NaN in the others."""
        poses = outputs[0][:, 0]
        answers = np.full((len(rows), self.frames, 17, 3), np.nan, np.float32)
        first = 0
        for answer, row in zip(answers, rows, strict=True):
            pose = poses[first]
            if row.mirror_test:
                pose = (pose + _mirrored_back(poses[first + 1], self._order)) / np.float32(2)
            answer[self.frames // 2] = pose
            first += row.cost
        # They learned the other joints against a true joint 0; what they answer for it is noise.
        answers[:, self.frames // 2, 0] = 0
        return list(answers)


def _mirrored_back(pose: NDArray[Any], order: NDArray[np.intp]) -> Array:
    """(..., 17, 3) lifted from a mirror image, as its true image has it."""
    back: Array = pose[..., order, :] * np.array([-1, 1, 1], np.float32)
    return back


def published_channels(points: Array, size: tuple[int, int]) -> Array:
    """A window as VideoPose3D normalises it: u = 2x / w - 1, v = 2y / w - h / w, both over the picture's width.

    Args:
        points: (frames, 17, 3) pixels and score; an unknown joint has NaN for x and y.
        size: width and height of the picture in pixels.

    Returns:
        (frames, 17, 2) float32.
    """
    width, height = size
    places = points[..., :2] * np.float32(2 / width) - np.array([1, height / width], np.float32)
    known = np.isfinite(places).all(-1)
    if not known.all():
        places, time = places.copy(), np.arange(len(places))
        for joint in np.flatnonzero(known.any(0) & ~known.all(0)):
            seen = known[:, joint]
            for axis in range(2):
                places[~seen, joint, axis] = np.interp(time[~seen], time[seen], places[seen, joint, axis])
        never = ~known.any(0)
        places[:, never] = places[:, ~never].mean(1, keepdims=True) if not never.all() else 0
    return places.astype(np.float32, copy=False)


def window_channels(points: Array, sizes: Array, given: NDArray[np.bool_]) -> Array:
    """Makes the lifter's input from windows of 2D poses in the h36m17 order.

    The network is told each joint twice: around the hip in units of the person's own size, so that near and far people
    look alike, and in the picture, so that the view's direction and the path through it are not lost.

    Args:
        points: (windows, frames, 17, 3) pixels and score; an unknown joint has NaN for x and y.
        sizes: (windows, 2) width and height of the picture in pixels.
        given: (windows,) whether the joints were given as h36m17, or made from another skeleton.

    Returns:
        (windows, frames, 17, 6) float32: x and y around the hip over the window's root mean square extent (which, over
        half the picture's longer side, is rounded to the nearest of `SIZE_STEPS`); the score, or -1 for an unknown
        joint; x and y around the picture's middle, +-1 on its longer side; 1 if given, else 0. Unknown joints are 0 but
        for the score.
    """
    points, sizes = np.asarray(points, np.float32), np.asarray(sizes, np.float32)
    channels = np.empty((*points.shape[:-1], LIFTER_CHANNELS), np.float32)
    windows, frames, joints = points.shape[:-1]
    # Numbers first: NumPy goes through rows of a window's joints far faster than through pairs of x and y.
    into = channels.reshape(windows, frames * joints, LIFTER_CHANNELS).transpose(2, 0, 1)
    planes = np.ascontiguousarray(points.reshape(windows, frames * joints, 3).transpose(2, 0, 1))
    places, scores = planes[:2], planes[2]
    finite = np.isfinite(places)
    known: NDArray[np.bool_] | None = None if finite.all() else finite[0] & finite[1]  # (windows, frames x joints)
    of_frames = (2, windows, frames, joints)
    if known is None:
        middle: Array = places.reshape(of_frames)[..., :1]
        count: Array | int = frames * joints
    else:
        places, scores = np.where(known, places, 0), np.where(known, scores, -1)
        in_frames = known.reshape(of_frames[1:])
        # Around the hip; where it is unknown, around the middle of what is known in that frame.
        mean = places.reshape(of_frames).sum(-1) / np.maximum(in_frames.sum(-1), 1).astype(np.float32)
        middle = np.where(in_frames[..., 0], places.reshape(of_frames)[..., 0], mean)[..., None]
        count = np.maximum(known.sum(1), 1).astype(np.float32)
    half = sizes / 2
    around = (places.reshape(of_frames) - middle).reshape(places.shape)
    in_picture = places - half.T[..., None]
    if known is not None:
        around, in_picture = np.where(known, around, 0), np.where(known, in_picture, 0)
    # Added up window by window, so that none depends on who shares its batch.
    x, y = around
    extent = np.sqrt((np.einsum("ni,ni->n", x, x) + np.einsum("ni,ni->n", y, y)) / count)
    side = half.max(1)
    # A window without extent (one joint known, or none) must not blow up: a pixel is the least that counts.
    steps = np.rint(SIZE_STEPS * np.log2(np.maximum(extent, 1) / side))
    np.divide(around, (side * np.exp2(steps / SIZE_STEPS))[:, None], out=into[0:2])
    into[2] = scores
    np.divide(in_picture, side[:, None], out=into[3:5])
    into[5] = given[:, None]
    return channels
