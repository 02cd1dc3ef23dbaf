"""People followed through a clip or stream: the finder looks now and then, and poses carry the boxes in between.

Pixels of the upright frames, seconds. Knows no clips and no lines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.engines.framing import CropRow
from service.geometry.boxes import same_people
from service.media.videos import Frame

from .call import Call
from .colours import worn
from .photo import PhotoOptions, PhotoPipeline
from .tracking import LOST_SCORE, WEAK_SCORE, Tracked, Tracker, carried_box, told_apart

Array = NDArray[np.float32]

QUIET_S, UNEASY_S, EMPTY_S = 0.25, 0.1, 0.15  # between two looks of the finder; the poses carry the boxes in between
FAST = 0.15  # of the person's size in UNEASY_S: so fast a motion makes the finder look more often


class Follower:
    """One clip's or stream's people. `tracker` has those that are followed now."""

    def __init__(self, photo: PhotoPipeline, options: PhotoOptions) -> None:
        self.tracker = Tracker()
        self._photo, self._options = photo, options
        self._looked_s = -np.inf

    def forget(self) -> None:
        """After a pause or a clock that went back: nobody is followed across it, and no id is used again."""
        self.tracker.tracks.clear()
        self._looked_s = -np.inf

    async def see(self, frame: Frame, call: Call) -> list[Tracked]:
        """The people of one frame, by the finder or by where they were."""
        if self.look_due(frame.time_s):
            return await self.look(frame, call)
        return (await self.carry([frame], self.tracker.carried(frame.time_s), call))[0]

    def look_due(self, now: float) -> bool:
        """Whether the finder must look at a frame."""
        return now >= self.next_look_s()

    def next_look_s(self) -> float:
        """From when on the finder must look at a frame: often while people come, go, hide or hurry, else seldom."""
        tracks = self.tracker.tracks
        wait = QUIET_S if tracks else EMPTY_S
        last = max((track.seen_s for track in tracks), default=0.0)
        for track in tracks:
            weak = track.surety < WEAK_SCORE
            if track.found < 2 or track.seen_s < last or weak or track.speed * UNEASY_S > FAST * track.size:
                wait = UNEASY_S
        return self._looked_s + wait - 1e-6

    async def look(self, frame: Frame, call: Call) -> list[Tracked]:
        """The people of one frame: the finder's, and those whom it misses but whose pose goes on."""
        self._looked_s = frame.time_s
        options = self._options
        boxes, scores, points = await self._photo.keypoints(frame.picture, options, call)
        found = np.ones(len(boxes), bool)
        height, width = frame.picture.shape[:2]
        colours = worn(frame.picture, points)
        missed = []
        for track in self.tracker.missed(frame.time_s, boxes, points, colours):
            box = carried_box(track, frame.time_s, width, height)
            if box is not None:
                missed.append((track, box))
        if missed:
            rows = [CropRow(frame.picture, box, options.flip_test) for _, box in missed]
            poses = np.stack(await self._photo.poses(rows, call, options.second_look))
            sure = poses[..., 2].mean(axis=1) >= WEAK_SCORE
            boxes = np.concatenate([boxes, np.stack([box for _, box in missed])[sure]])
            points = np.concatenate([points, poses[sure]])
            scores = np.concatenate([scores, np.array([track.score for track, _ in missed], np.float32)[sure]])
            found = np.concatenate([found, np.zeros(int(sure.sum()), bool)])
            kept = np.sort(same_people(points, boxes, found + 0.5 * scores))[: options.max_people]
            boxes, scores, points, found = boxes[kept], scores[kept], points[kept], found[kept]
            colours = worn(frame.picture, points)
        return self.tracker.update(frame.time_s, boxes, scores, points, found, colours=colours)

    async def carry(self, frames: Sequence[Frame], carried: list[Tracked], call: Call) -> list[list[Tracked]]:
        """Frames without a look: everyone where the last pose and its speed say, all in one submission."""
        height, width = frames[0].picture.shape[:2]
        rows, owners = [], []
        for n, frame in enumerate(frames):
            for track in carried:
                box = carried_box(track, frame.time_s, width, height)
                if box is not None:
                    rows.append(CropRow(frame.picture, box, self._options.flip_test))
                    owners.append((n, track))
        answers = await self._photo.poses(rows, call, self._options.second_look) if rows else []
        seen = []
        for n, frame in enumerate(frames):
            here = [
                (track, row.box, pose)
                for (at, track), row, pose in zip(owners, rows, answers, strict=True)
                if at == n and pose[:, 2].mean() >= LOST_SCORE
            ]
            boxes = np.array([box for _, box, _ in here], np.float32).reshape(-1, 4)
            points = np.array([pose for _, _, pose in here], np.float32).reshape(-1, 17, 3)
            scores = np.array([track.score for track, _, _ in here], np.float32)
            kept = told_apart([track for track, _, _ in here], frame.time_s, boxes, points)
            boxes, scores, points, found = boxes[kept], scores[kept], points[kept], np.zeros(len(kept), bool)
            colours = worn(frame.picture, points) if len(self.tracker.tracks) > 1 else None
            seen.append(self.tracker.update(frame.time_s, boxes, scores, points, found, looked=False, colours=colours))
        return seen
