"""From single detections, as pose files list them, to people over frames: what the three readers share.

Points are (joints, 3): x, y in pixels, score 0..1; an unknown joint is (NaN, NaN, 0). Knows no file format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import Unreadable
from service.geometry.boxes import oks
from service.geometry.skeletons import SKELETONS, UNKNOWN, to_coco17
from service.people import Array

FARTHEST_PX = 1e6  # points may lie outside the picture, but not where 32-bit arithmetic ends
MOST = 2**62  # a frame's number; above it 64 bits end
SAME_PERSON_OKS = 0.2  # OKS from one frame to the next over which two poses may be one person's
FORGOTTEN_FRAMES = 15  # a person not seen for so many frames is not looked for again


@dataclass(frozen=True)
class Detection:
    """One pose in the frame of that number; person: the file's own id, or None."""

    frame: int
    person: int | None
    points: Array


@dataclass(frozen=True)
class KeypointFile:
    """What a pose file holds.

    frames: (frames,) their numbers in the file, rising; they need not follow on each other.
    people: (frames, joints, 3) an id, in the order of `skeleton`; unknown where a person is absent.
    size: the pictures' width and height, where the file tells. times: (frames,) seconds, rising, where it tells.
    """

    skeleton: str
    frames: NDArray[np.int64]
    people: dict[int, Array]
    size: tuple[int, int] | None = None
    times: NDArray[np.float64] | None = None


def flat_points(numbers: Any, layouts: Mapping[int, str], where: str) -> Array:
    """x, y, score, x, y, score, ... as (joints, 3), what has no score or is 0, 0 made unknown, scores over 1 made 1.

    Raises:
        Unreadable: not numbers, too far away, or for a number of joints that `layouts` (joints to skeleton) lacks.
    """
    try:
        with np.errstate(over="ignore"):
            points = np.array(numbers, np.float32).reshape(-1, 3)
    except (TypeError, ValueError, OverflowError) as error:
        raise Unreadable(f"`keypoints` of {where} must be a flat list of x, y, score", field="file") from error
    if len(points) not in layouts:
        wanted = " or ".join(str(3 * count) for count in layouts)
        raise Unreadable(f"`keypoints` of {where} must have {wanted} numbers, got {points.size}", field="file")
    points[:, 2] = np.minimum(points[:, 2], 1)
    known = np.isfinite(points).all(-1, keepdims=True) & (points[:, 2:] > 0) & points[:, :2].any(-1, keepdims=True)
    return check_near(np.where(known, points, UNKNOWN), where)


def check_near(points: Array, where: str) -> Array:
    """The points (..., 2 or more) as they are; Unreadable where one lies further away than arithmetic bears."""
    if (np.abs(points[..., :2]) > FARTHEST_PX).any():
        message = f"`keypoints` of {where} must lie within {FARTHEST_PX:g} pixels"
        raise Unreadable(message, field="file", limit=[-FARTHEST_PX, FARTHEST_PX])
    return points


def number_of(entry: Mapping[str, Any], field: str, where: str) -> int:
    """A whole number of an entry, of at most 62 bits; Unreadable where it is none."""
    number = entry.get(field)
    if not isinstance(number, int) or isinstance(number, bool) or abs(number) > MOST:
        raise Unreadable(f"`{field}` of {where} must be a whole number, got {number!r}", field="file")
    return number


def id_of(value: Any) -> int | None:
    """A person's id as a file has it; None where it is no whole number."""
    return value if type(value) is int else None  # not isinstance: true is nobody's id


def joined(
    detections: Sequence[Detection],
    skeleton: str,
    size: tuple[int, int] | None = None,
    frames: Sequence[int] | None = None,
) -> KeypointFile:
    """People over frames; `frames` names those in which nobody was as well.

    The file's ids are taken if every detection has one and no frame has one twice; otherwise people are followed from
    frame to frame by their poses.
    """
    numbers = np.unique(np.array([each.frame for each in detections] if frames is None else frames, np.int64))
    joints = len(SKELETONS[skeleton].joints)
    keys = {(each.frame, each.person) for each in detections}
    if any(each.person is None for each in detections) or len(keys) < len(detections):
        detections = _followed(detections, skeleton)
    people: dict[int, Array] = {}
    for each in detections:
        if each.points.shape != (joints, 3):
            raise Unreadable(f"`keypoints` has people of {len(each.points)} and of {joints} joints", field="file")
        assert each.person is not None
        if each.person not in people:
            people[each.person] = np.full((len(numbers), joints, 3), UNKNOWN)
        people[each.person][np.searchsorted(numbers, each.frame)] = each.points
    return KeypointFile(skeleton, numbers, people, size)


def _followed(detections: Sequence[Detection], skeleton: str) -> list[Detection]:
    """The same with ids from 0: the pairs most alike, by OKS against each person's last pose, are taken first."""
    last: dict[int, Detection] = {}
    named: list[Detection] = []
    following = 0
    by_frame: dict[int, list[Detection]] = {}
    for each in detections:
        by_frame.setdefault(each.frame, []).append(each)
    for place, frame in enumerate(sorted(by_frame)):
        last = {person: seen for person, seen in last.items() if place - seen.frame <= FORGOTTEN_FRAMES}
        poses = np.stack([to_coco17(each.points, skeleton) for each in by_frame[frame]])
        ids: dict[int, int] = {}
        if last:
            old = np.stack([seen.points for seen in last.values()])
            extent = np.nanmax(old[..., :2], axis=1, initial=0) - np.nanmin(old[..., :2], axis=1, initial=np.inf)
            alike = oks(poses[:, None], old[None], np.maximum(extent, 1).prod(-1)[None])
            for flat in np.argsort(-alike, axis=None, kind="stable"):
                n, m = np.unravel_index(flat, alike.shape)
                person = list(last)[m]
                if alike[n, m] >= SAME_PERSON_OKS and int(n) not in ids and person not in ids.values():
                    ids[int(n)] = person
        for n, each in enumerate(by_frame[frame]):
            person = ids.get(n, following)
            following = max(following, person + 1)
            # `frame` counts the file's frames here, not their numbers, so that every=2 forgets no sooner.
            last[person] = Detection(place, person, poses[n])
            named.append(Detection(frame, person, each.points))
    return named
