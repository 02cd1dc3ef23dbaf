"""Which person of this frame is which of the last: greedy matching by pose and box; no id is used twice. Pure.

Policy: a track is tentative for its first two frames, then confirmed; it survives KEPT_S seconds unseen, and whoever
appears near its last pose within that time is the same person.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.geometry.boxes import SEGMENT_SHARE, iou, oks

Array = NDArray[np.float32]

KEPT_S = 1.0
LEAST_LIKENESS = 0.1
POSE_SHARE = 0.7  # when two people cross, boxes fall on each other and only the poses tell who is who
CONFIRMED_AFTER = 3


@dataclass
class Tracked:
    """A person being followed: the last box, score and pose, and how often it was seen."""

    id: int
    box: Array
    score: float
    points: Array
    seen_s: float
    frames: int = 1

    @property
    def state(self) -> str:
        return "confirmed" if self.frames >= CONFIRMED_AFTER else "tentative"


class Tracker:
    """Follows people from frame to frame."""

    def __init__(self) -> None:
        self.tracks: list[Tracked] = []
        self._next_id = 0

    def update(self, time_s: float, boxes: Array, scores: Array, points: Array) -> list[Tracked]:
        """Matches this frame's people to the tracks; one entry a person, in order. New people get new ids."""
        self.tracks = [track for track in self.tracks if time_s - track.seen_s <= KEPT_S]
        known = list(self.tracks)
        likeness = self._likeness(known, boxes, points)
        found: list[Tracked | None] = [None] * len(boxes)
        while likeness.size and likeness.max() >= LEAST_LIKENESS:
            old, new = divmod(int(likeness.argmax()), likeness.shape[1])
            likeness[old, :] = likeness[:, new] = -1
            track = known[old]
            track.box, track.score, track.points = boxes[new], float(scores[new]), points[new]
            track.seen_s, track.frames = time_s, track.frames + 1
            found[new] = track
        people = []
        for new, matched in enumerate(found):
            if matched is None:
                matched = Tracked(self._next_id, boxes[new], float(scores[new]), points[new], time_s)
                self._next_id += 1
                self.tracks.append(matched)
            people.append(matched)
        return people

    @staticmethod
    def _likeness(tracks: list[Tracked], boxes: Array, points: Array) -> Array:
        """(tracks, people): how much the poses are alike, and, less, how much the boxes overlap."""
        if not tracks or not len(boxes):
            return np.zeros((len(tracks), len(boxes)), np.float32)
        last = np.stack([track.box for track in tracks])
        area = SEGMENT_SHARE * last[:, 2:].prod(axis=1)
        # Twice the area: a person moves between frames, while COCO's spread is that of two labellers.
        poses = oks(np.stack([track.points for track in tracks])[:, None], points[None], 2 * area[:, None])
        return (POSE_SHARE * poses + (1 - POSE_SHARE) * iou(last, boxes)).astype(np.float32)
