"""A photo to its people: finder, detector, conversion, lifter, place in space.

Pixels are the upright picture's; metres are in the camera's axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.batching.batcher import Batcher
from service.engines.framing import CropRow, Found, PictureRow
from service.errors import OutOfRange
from service.geometry.boxes import clip, same_people
from service.geometry.cameras import Camera
from service.geometry.planes import AnyPicture
from service.geometry.skeletons import SKELETONS, mirror_order, to_h36m17
from service.media.pictures import Picture
from service.people import Box, Joints3D, Keypoints, Person, Scale

from .call import Call, CameraOptions, check_models, choose_camera, run_rows
from .certainty import Certainty
from .lift import LiftPipeline, unmirrored, unmirrored_camera
from .placing import Unplaced
from .presence import Presence
from .second_look import surest, turned_row, turns

Array = NDArray[np.float32]

SPARE_PEOPLE = 10  # candidates beyond those asked for: some of them turn out to be nobody
SEEN_SCORE = 0.3  # a joint under it is taken as hidden: the detector guesses


@dataclass(frozen=True)
class PhotoOptions:
    """What a photo's request may say.

    boxes: (n, 4) pixels: one person each, in that order, the finder is skipped.
    second_look: show people who lie or stand on their head to the detector once more, upright.
    """

    boxes: Array | None = None
    max_people: int = 20
    min_person_score: float = 0.4
    flip_test: bool = False
    second_look: bool = True
    lift: bool = True
    states: bool = False
    mirrored: bool = False
    stature: float | None = None
    camera: CameraOptions = CameraOptions()
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PhotoAnswer:
    """states: of each person's 17 keypoints, if asked for."""

    width: int
    height: int
    camera: Camera
    people: tuple[Person, ...]
    models: dict[str, str]
    states: list[list[str]] | None


class PhotoPipeline:
    """Photos through three queues.

    presence: what makes a chance of the finder's score and the pose; without it the score is the finder's own.
    certainty: what makes the answered scores of joints from the detector's peaks; without it they are the peaks.
    """

    def __init__(
        self,
        person: Batcher,
        pose: Batcher,
        lift: LiftPipeline,
        presence: Presence | None = None,
        certainty: Certainty | None = None,
    ) -> None:
        self.person, self.pose, self.lift = person, pose, lift
        self.presence, self.certainty = presence, certainty

    @property
    def models(self) -> dict[str, str]:
        return {"person": self.person.engine.label, "pose": self.pose.engine.label, **self.lift.models}

    def knock(self, options: PhotoOptions, call: Call) -> None:
        """Raises Busy where the photo would be refused once it is decoded: see `Batcher.knock`."""
        if options.boxes is None:
            self.person.knock(call.caller)
        elif len(options.boxes):
            self.pose.knock(call.caller)

    async def find_people(self, picture: Picture, options: PhotoOptions, call: Call) -> PhotoAnswer:
        """Everyone in the picture, by falling score (by the request's order where it brought boxes).

        Raises:
            OutOfRange: a box that has no part inside the picture.
            Unknown: a model that is not loaded.
        """
        check_models(options.models, self.models)
        height, width = picture.pixels.shape[:2]
        camera = choose_camera(width, height, options.camera, picture.focal_35mm)
        boxes, scores, points = await self.keypoints(picture.pixels, options, call)
        lifted: list[Joints3D | None] = [None] * len(boxes)
        if options.lift and len(boxes):
            lifted = list(await self._lift(points, (width, height), options, camera, call))
        if options.mirrored:
            points = points[:, mirror_order(SKELETONS["coco17"])]
        scored = self.scored(points, boxes)
        people = tuple(
            Person(n, Box.of(box, float(score)), Keypoints(pose), joints)
            for n, (box, score, pose, joints) in enumerate(zip(boxes, scores, scored, lifted, strict=True))
        )
        states = [joint_states(pose, width, height) for pose in points] if options.states else None
        return PhotoAnswer(width, height, camera, people, self.models, states)

    async def keypoints(self, picture: AnyPicture, options: PhotoOptions, call: Call) -> tuple[Array, Array, Array]:
        """Boxes (n, 4), scores (n,) and COCO-17 keypoints (n, 17, 3) of one picture."""
        height, width = picture.shape[:2]
        if options.boxes is not None:
            boxes = _inside(options.boxes, width, height)
            rows = [CropRow(picture, box, options.flip_test) for box in boxes]
            points = _stacked(await self.poses(rows, call, options.second_look))
            return boxes, np.ones(len(boxes), np.float32), points
        least, most = options.min_person_score, options.max_people
        if self.presence is not None:  # the pose may raise who is not sure enough yet
            least, most = self.presence.least_score(least), most + SPARE_PEOPLE
        found: Found = (await run_rows(self.person, [PictureRow(picture, least_score=least)], call))[0]
        kept = np.nonzero((found.scores >= least) & (found.boxes[:, 2:] > 0).all(1))[0][:most]
        boxes, scores = found.boxes[kept], found.scores[kept]
        rows = [CropRow(picture, box, options.flip_test) for box in boxes]
        points = _stacked(await self.poses(rows, call, second_look=False))
        chances = self._chances(boxes, scores, points)
        if options.second_look:
            likely = np.nonzero(np.maximum(scores, chances) >= options.min_person_score)[0]
            first = points[likely]
            again = await self._look_again([rows[n] for n in likely], first, call)
            if again is not first:
                points[likely] = again
                chances = self._chances(boxes, scores, points)
        people = same_people(points, boxes, chances)
        people = people[chances[people] >= options.min_person_score][: options.max_people]
        return boxes[people], chances[people], points[people]

    async def poses(self, rows: Sequence[CropRow], call: Call, second_look: bool = True) -> list[Array]:
        """COCO-17 keypoints (17, 3) of each row's person; those who do not stand upright may be looked at again."""
        first = await run_rows(self.pose, rows, call)
        return list(await self._look_again(rows, _stacked(first), call)) if second_look else first

    async def _look_again(self, rows: Sequence[CropRow], points: Array, call: Call) -> Array:
        """The points (n, 17, 3), better ones where a turned crop gives them; the same array where nobody is turned."""
        angles = turns(points)
        again = [turned_row(row, angle) for row, each in zip(rows, angles, strict=True) for angle in each]
        if not again:
            return points
        looks = iter(await run_rows(self.pose, again, call))
        chosen = []
        for row, pose, each in zip(rows, points, angles, strict=True):
            chosen.append(surest(pose, [next(looks) for _ in each], partial(self.scored, boxes=row.box)))
        return _stacked(chosen)

    def scored(self, points: Array, boxes: Array) -> Array:
        """The detector's points (..., 17, 3) in boxes (..., 4) with the scores that are answered."""
        return points if self.certainty is None else self.certainty.of(points, boxes)

    def _chances(self, boxes: Array, scores: Array, points: Array) -> Array:
        """(n,) chances that a person is there."""
        return scores if self.presence is None else self.presence.chances(boxes, scores, points)

    async def _lift(
        self, points: Array, size: tuple[int, int], options: PhotoOptions, camera: Camera, call: Call
    ) -> Sequence[Joints3D]:
        """Each pose as a sequence of one frame."""
        joints = to_h36m17(points, "coco17")
        if options.mirrored:
            joints, camera = unmirrored(joints, size[0]), unmirrored_camera(camera, size[0])
        scale = Scale(options.stature, "given") if options.stature is not None else Scale()
        frames = [pose[None] for pose in joints]
        poses = await self.lift.poses(frames, [np.zeros(1)] * len(frames), size, False, call)
        bodies = [Unplaced(pose, seen, False, camera, scale.stature) for pose, seen in zip(poses, frames, strict=True)]
        return [
            Joints3D(each.joints[0], each.position[0] if np.isfinite(each.position[0]).all() else None, scale)
            for each in await self.lift.place(bodies)
        ]


def _stacked(poses: Sequence[Array]) -> Array:
    """(n, 17, 3), also of none."""
    return np.stack(poses) if len(poses) else np.zeros((0, 17, 3), np.float32)


def _inside(boxes: Array, width: int, height: int) -> Array:
    """The boxes clipped to the picture; one with nothing inside is refused by its index."""
    clipped = clip(boxes, width, height)
    outside = np.nonzero((clipped[:, 2:] <= 0).any(1))[0]
    if len(outside):
        n = int(outside[0])
        given = [round(float(v), 2) for v in boxes[n]]
        message = f"`boxes[{n}]` is {given}; no part of it is inside the picture of {width}x{height} pixels"
        raise OutOfRange(message, field=f"boxes[{n}]", limit=[width, height])
    return clipped


def joint_states(points: Array, width: int, height: int) -> list[str]:
    """seen, occluded, outside or inferred for each joint of (joints, 3) points."""
    x, y, score = points.T
    outside = (x < 0) | (y < 0) | (x >= width) | (y >= height)
    names = np.where(
        np.isnan(x), "inferred", np.where(outside, "outside", np.where(score < SEEN_SCORE, "occluded", "seen"))
    )
    return [str(name) for name in names]
