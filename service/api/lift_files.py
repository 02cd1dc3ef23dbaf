"""Files of keypoints that other programs wrote, lifted: as the answer's JSON, or as a recording to write in any format.

Keypoints are pixels, answers metres in the camera's axes. Knows no requests; the command line's `lift` is its caller.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from service.errors import OutOfRange
from service.formats import KeypointFile, RecordedPerson, Recording
from service.geometry.skeletons import to_coco17
from service.people import Array
from service.pipelines.call import Call, choose_camera
from service.pipelines.lift import Lifted, LiftOptions, LiftPipeline

from .images import metre_values
from .lift import Sequences


def is_body(body: bytes) -> bool:
    """Whether JSON is a body of POST /v1/lift rather than another program's file."""
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError:
        return b'"skeleton"' in body  # its own reader says better what is wrong with it
    return isinstance(values, dict) and bool({"skeleton", "image_size"} & values.keys())


def file_of(asked: Sequences) -> tuple[KeypointFile, LiftOptions]:
    """A body of POST /v1/lift as a file of keypoints, and its options."""
    frames = max(map(len, asked.people))
    people = {}
    for n, points in enumerate(asked.people):
        missing = np.full((frames - len(points), *points.shape[1:]), (np.nan, np.nan, 0), np.float32)
        people[n] = np.concatenate([points, missing])
    options = asked.options
    return KeypointFile(options.skeleton, np.arange(frames), people, options.image_size, options.times), options


def file_options(
    file: KeypointFile, image_size: tuple[int, int] | None, fps: float | None, stature: float | None
) -> LiftOptions:
    """What the lifter must know of a file: what it tells itself, and what the caller adds or says better.

    Raises OutOfRange where neither tells the pictures' size.
    """
    size = image_size or file.size
    if size is None:
        message = "`--image-size` W H is needed: this file does not tell the size of the pictures it was made from"
        raise OutOfRange(message, field="image_size")
    rate = fps or 30.0
    if file.times is not None and fps is None:
        times = file.times
        if len(times) > 1:
            rate = 1 / float(np.median(np.diff(times)))
    else:
        times = (file.frames - file.frames[:1]) / rate
    return LiftOptions(file.skeleton, size, fps=rate, times=np.asarray(times, np.float64), stature=stature)


async def lift_file(
    file: KeypointFile, options: LiftOptions, lift: LiftPipeline, call: Call
) -> dict[int, tuple[slice, Lifted]]:
    """Everybody lifted from the first frame to the last in which any joint is known; who has none is left out."""
    lifted: dict[int, tuple[slice, Lifted]] = {}
    times = options.times if options.times is not None else np.arange(len(file.frames)) / options.fps
    for person, points in file.people.items():
        seen = np.flatnonzero(np.isfinite(points[..., 0]).any(axis=1))
        if len(seen):
            part = slice(int(seen[0]), int(seen[-1]) + 1)
            one = replace(options, times=times[part], centre=False)
            lifted[person] = part, (await lift.lift_people([points[part]], one, call))[0]
    return lifted


def file_answer(file: KeypointFile, lifted: dict[int, tuple[slice, Lifted]], models: dict[str, str]) -> bytes:
    """The JSON document: as POST /v1/lift has it, with each person's id and frames."""
    people: list[dict[str, Any]] = [
        {
            "id": person,
            "frames": file.frames[part].tolist(),
            "times": np.round(each.times, 6),
            "joints3d": metre_values(each.joints),
            "position": metre_values(each.position),
            "scale": {"stature": round(each.scale.stature, 4), "source": each.scale.source},
        }
        for person, (part, each) in lifted.items()
    ]
    return orjson.dumps({"people": people, "models": models}, option=orjson.OPT_SERIALIZE_NUMPY)


def file_recording(file: KeypointFile, options: LiftOptions, lifted: dict[int, tuple[slice, Lifted]]) -> Recording:
    """What was read and what was lifted, together. Boxes are what encloses the keypoints; scores are their mean."""
    times = options.times if options.times is not None else np.arange(len(file.frames)) / options.fps
    people = []
    for person, (part, each) in lifted.items():
        points = to_coco17(file.people[person][part], file.skeleton)
        boxes, scores = _seen(points)
        present = np.isfinite(scores)
        joints = np.where(present[:, None, None], each.joints, np.nan).astype(np.float32)
        positions = np.where(present[:, None], each.position, np.nan).astype(np.float32)
        people.append(RecordedPerson(person, part.start, points, boxes, scores, joints, positions, each.scale))
    camera = choose_camera(*options.image_size, options.camera)
    return Recording(times, file.frames, options.image_size, options.fps, tuple(people), camera)


def _seen(points: Array) -> tuple[Array, Array]:
    """Boxes (frames, 4) and scores (frames,) of (frames, 17, 3); a frame without any joint has none."""
    known = np.repeat(np.isfinite(points).all(axis=-1, keepdims=True), 2, axis=-1)
    some = known.any(axis=1)
    low = np.where(some, np.where(known, points[..., :2], np.inf).min(axis=1), np.nan)
    high = np.where(some, np.where(known, points[..., :2], -np.inf).max(axis=1), np.nan)
    total = np.where(known, points[..., 2:], 0).sum(axis=1)
    scores = np.where(some, total / np.maximum(known.sum(axis=1), 1), np.nan)[:, 0]
    return np.concatenate([low, high - low], axis=1).astype(np.float32), scores.astype(np.float32)
