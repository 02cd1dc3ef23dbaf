"""What the writers write: the people of a clip or a sequence, whole, and the axes that files speak in.

Pixels are the upright picture's, from its corner. In a Recording 3D is in metres in the camera's axes (x right, y down,
z away); in files y points up. Knows no file format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.errors import OutOfRange
from service.geometry.cameras import Camera
from service.people import Array, Scale, World

__all__ = ["RecordedPerson", "Recording", "World", "grid_times", "on_grid", "whole_clip"]

Floats = NDArray[np.float64]

# Without a world the camera's axes are turned half round x: x right, y up, z towards the camera.
UPRIGHT = np.diag([1.0, -1.0, -1.0])
SAME_FRAME = 0.05  # of a frame's time: a grid moment this near a frame is that frame, whatever clocks round
SAME_RATE = 0.02  # of a rate, by which the usual step and the mean may differ; times come rounded
MOST_GRID = 200_000  # frames


@dataclass(frozen=True)
class RecordedPerson:
    """One person over consecutive frames of the recording, the first of which is its frame number `first` (from 0).

    keypoints: (frames, 17, 3) coco17; x, y in pixels, score 0..1; an unknown joint is (NaN, NaN, 0).
    boxes: (frames, 4) x, y, width, height. scores: (frames,), NaN in a frame where the person is absent.
    joints: (frames, 17, 3) h36m17 relative to joint 0; NaN unknown. positions: (frames, 3) of joint 0; NaN unknown.
    """

    id: int
    first: int
    keypoints: Array
    boxes: Array
    scores: Array
    joints: Array
    positions: Array
    scale: Scale = Scale()

    @property
    def present(self) -> NDArray[np.bool_]:
        """(frames,) whether the person is in the frame."""
        return np.isfinite(self.scores)


@dataclass(frozen=True)
class Recording:
    """Frames and their people.

    times: (frames,) seconds, rising. indices: (frames,) the frames' numbers in the clip.
    size: width, height in pixels. rate: nominal frames a second of these frames (with every second frame, half the
    clip's), never rounded. camera_to_world: applied in the files where it is known.
    """

    times: Floats
    indices: NDArray[np.int64]
    size: tuple[int, int]
    rate: float
    people: tuple[RecordedPerson, ...]
    camera: Camera
    camera_to_world: World | None = None

    def of(self, person: int) -> Recording:
        """The same with that person alone; OutOfRange where there is no such id."""
        kept = tuple(each for each in self.people if each.id == person)
        if not kept:
            ids = [each.id for each in self.people]
            raise OutOfRange(f"`person` must be one of {ids}, got {person}", field="person", limit=ids)
        return replace(self, people=kept)

    def rows(self) -> Iterator[tuple[int, list[tuple[RecordedPerson, int]]]]:
        """Every frame's number (from 0), with those who are in it and their row there, in order of id."""
        people = sorted(self.people, key=lambda person: person.id)
        here = [person.first + np.flatnonzero(person.present) for person in people]
        frames = np.concatenate([np.zeros(0, np.int64), *here])
        owners = np.repeat(np.arange(len(people)), [len(each) for each in here])
        order = np.argsort(frames, kind="stable")  # the people stay in their order within a frame
        bounds = np.searchsorted(frames[order], np.arange(len(self.times) + 1))
        for frame in range(len(self.times)):
            owned = [people[owners[n]] for n in order[bounds[frame] : bounds[frame + 1]]]
            yield frame, [(person, frame - person.first) for person in owned]

    def blocks(self, frames: int) -> Iterator[Recording]:
        """The same recording, so many frames at a time: for writers that must not hold it all in wider numbers."""
        for begin in range(0, len(self.times), frames):
            end = min(begin + frames, len(self.times))
            people = []
            for person in self.people:
                first, last = max(person.first, begin), min(person.first + len(person.scores), end)
                if first < last:
                    part = slice(first - person.first, last - person.first)
                    seen = person.keypoints[part], person.boxes[part], person.scores[part]
                    lifted = person.joints[part], person.positions[part]
                    people.append(RecordedPerson(person.id, first - begin, *seen, *lifted, person.scale))
            part = slice(begin, end)
            yield replace(self, times=self.times[part], indices=self.indices[part], people=tuple(people))

    @property
    def file_axes(self) -> World:
        """From the camera's axes to those of the files: the world's, else the camera's turned upright."""
        return self.camera_to_world or World(UPRIGHT, np.zeros(3))

    def in_file_axes(self, person: RecordedPerson) -> tuple[Floats, Floats]:
        """joints (frames, 17, 3) relative to joint 0 and positions (frames, 3), metres in the files' axes."""
        axes = self.file_axes
        return person.joints @ axes.rotation.T, person.positions @ axes.rotation.T + axes.translation

    def placed(self, person: RecordedPerson) -> Floats:
        """(frames, 17, 3) metres in the files' axes: where each joint is in space.

        A person whose position is not known in any frame is given with joint 0 at the origin; one whose position is
        known in some frames is unknown in the others.
        """
        joints, positions = self.in_file_axes(person)
        if not np.isfinite(positions).all(axis=-1).any():
            return joints
        return joints + positions[:, None]


def usual_rate(times: Floats, told: float) -> float:
    """Frames a second by the usual step of times (frames,).

    told: the clip's own, a mean over its pauses: it stays where it agrees, and where the grid would be too long.
    """
    if len(times) < 3:
        return told
    usual = 1 / float(np.median(np.diff(times)))
    near = abs(usual - told) <= SAME_RATE * told
    return told if near or (times[-1] - times[0]) * usual > MOST_GRID else usual


def grid_times(times: Floats, rate: float) -> Floats:
    """(n,) seconds: an even grid at that rate, from the first frame to the last. Empty for no frames."""
    if not len(times):
        return np.zeros(0)
    even: Floats = times[0] + np.arange(int((times[-1] - times[0]) * rate + SAME_FRAME) + 1) / rate
    return even


def on_grid(values: Floats, times: Floats, grid: Floats, rate: float) -> Floats:
    """Values (frames, ...) at `times` brought to the grid, linearly; what is unknown on either side stays unknown.

    A moment of the grid that falls on a frame has that frame's value as it is.
    """
    if not len(times):
        return np.full((len(grid), *values.shape[1:]), np.nan)
    after = np.clip(np.searchsorted(times, grid), 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    span = times[after] - times[before]
    part = np.divide(grid - times[before], span, out=np.ones(len(grid)), where=span > 0)
    near = SAME_FRAME / rate / np.where(span > 0, span, 1)
    part = np.where(part <= near, 0, np.where(part >= 1 - near, 1, part))
    part = part.reshape(-1, *(1 for _ in values.shape[1:]))
    mixed = (1 - part) * values[before] + part * values[after]
    even: Floats = np.where(part == 0, values[before], np.where(part == 1, values[after], mixed))
    return even


def whole_clip(recording: Recording, person: RecordedPerson) -> tuple[Floats, Floats]:
    """The person on the clip's even grid: (frames,) seconds and (frames, 17, 3) metres in the files' axes.

    Every person of a recording has the same frames, so that their files can be opened together; NaN while absent.
    """
    grid = grid_times(recording.times, recording.rate)
    all_frames = np.full((len(recording.times), *person.joints.shape[1:]), np.nan)
    all_frames[person.first : person.first + len(person.joints)] = recording.placed(person)
    return grid, on_grid(all_frames, recording.times, grid, recording.rate)
