"""A clip's people kept on disk until its end, and the file that is made of them then. Knows no requests.

Lines are in pixels and in metres of the camera's axes; what only the whole clip tells (the world, who is the same
person, each track's scale) is applied here. Everything lies in nameless temporary files, gone with whoever holds them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import OutOfRange, TooLarge
from service.formats import FORMATS, RecordedPerson, Recording, write
from service.formats.recording import usual_rate
from service.geometry.cameras import Camera
from service.media.drawing import side_by_side
from service.media.films import Film
from service.media.scene import Stage, stage_of
from service.media.videos import ClipLimits, Frame, open_clip
from service.people import Array, Box, Joints3D, Keypoints, Person, Scale, World
from service.pipelines.clip import ClipEnd, ClipFrame, ClipOptions, ClipStart
from service.pipelines.world import settle

from .uploads import MEGABYTE

Rows = NDArray[np.void]

ROW = np.dtype(
    [
        ("frame", "<i4"),  # the place among the frames told, from 0
        ("person", "<i4"),
        ("score", "<f4"),
        ("box", "<f4", (4,)),
        ("keypoints", "<f4", (17, 3)),
        ("joints", "<f4", (17, 3)),
        ("position", "<f4", (3,)),
        ("feet", "<i1", (2,)),  # left, right: 1 down, 0 up, -1 unknown
    ]
)
FEET: dict[str | None, int] = {"down": 1, "up": 0}
FLUSH_BYTES = MEGABYTE
FILM_PX = 720  # the most rows of a film's pictures: a frame of 1080 takes three times as long to draw
STAGE_ROWS = 20_000  # of how many the room of a clip is measured
# The files have y up, drawings y down.
TURNED = np.diag([1.0, -1.0, -1.0])


class Bounded:
    """A nameless temporary file that takes so many bytes and no more; then TooLarge."""

    def __init__(self, limit_bytes: int, what: str) -> None:
        self.file: BinaryIO = cast(BinaryIO, tempfile.TemporaryFile(prefix="poselift-"))  # noqa: SIM115 - see close
        self._limit, self._what, self._given_up = limit_bytes, what, False

    def write(self, data: bytes) -> int:
        if self._given_up:
            raise OSError("nobody waits for this file any more")
        if self.file.tell() + len(data) > self._limit:
            limit = self._limit // MEGABYTE
            message = f"`format` needs more than {limit} MB on disk for {self._what}; take a shorter part of the clip"
            raise TooLarge(message, field="format", limit=self._limit)
        return self.file.write(data)

    def give_up(self) -> None:
        """Makes a thread that still writes stop at its next piece."""
        self._given_up = True

    def close(self) -> None:
        self.give_up()
        self.file.close()

    def seek(self, to: int, whence: int = 0) -> int:
        return self.file.seek(to, whence)

    def tell(self) -> int:
        return self.file.tell()

    def flush(self) -> None:
        self.file.flush()

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


class ClipSpool:
    """The people of a clip's frames, in the frames' order, as they are told. Close it, or use it in a `with`."""

    def __init__(self, limit_mb: int) -> None:
        self._spool = Bounded(limit_mb * MEGABYTE, "the people of this clip")
        self._gathered: list[Rows] = []
        self._times: list[float] = []
        self._indices: list[int] = []
        self._start: ClipStart | None = None
        self._end: ClipEnd | None = None

    def close(self) -> None:
        """Gives the disk back."""
        self._spool.close()

    @property
    def full(self) -> bool:
        """Whether it is time to `flush`."""
        return len(self._gathered) * ROW.itemsize >= FLUSH_BYTES

    def add(self, item: object) -> None:
        """One item of the clip's pipeline. Touches no disk."""
        if isinstance(item, ClipStart):
            self._start = item
        elif isinstance(item, ClipEnd):
            self._end = item
        elif isinstance(item, ClipFrame):
            place = len(self._times)
            self._times.append(item.time)
            self._indices.append(item.index)
            self._gathered += [_row(place, one.person, one.feet) for one in item.people]

    def flush(self) -> None:
        """Writes what was added to disk; TooLarge where that is full."""
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            self._spool.write(np.concatenate(gathered).tobytes())

    def rows(self) -> Rows:
        """All rows, read from disk as they are looked at."""
        self.flush()
        self._spool.flush()
        size = self._spool.tell()
        if not size:
            return np.zeros(0, ROW)
        rows: Rows = np.memmap(cast(Any, self._spool.file), ROW, "r", shape=(size // ROW.itemsize,))
        return rows

    def recording(self, every: int = 1) -> Recording:
        """Everybody over the clip: the same people under one id, each in one scale, with the clip's world."""
        start, end = self._whole
        rows, times, world = self.rows(), np.array(self._times, np.float64), end.camera_to_world
        ids = np.array(rows["person"])
        factors = np.ones(len(rows), np.float32)
        for track in end.tracks:
            factors[ids == track.id] = track.factor
        for later, first in end.merged.items():
            ids[ids == later] = first
        scales = {track.id: track.scale for track in end.tracks}
        order = np.argsort(ids, kind="stable")
        people = []
        for person in np.unique(ids):
            own = order[np.searchsorted(ids[order], person, "left") : np.searchsorted(ids[order], person, "right")]
            scale = scales.get(int(person), Scale())
            people.append(_recorded(int(person), rows[own], factors[own], scale, times, world))
        return Recording(
            times,
            np.array(self._indices, np.int64),
            (start.width, start.height),
            usual_rate(times, start.rate / every),
            tuple(people),
            start.camera,
            world,
        )

    @property
    def _whole(self) -> tuple[ClipStart, ClipEnd]:
        assert self._start is not None and self._end is not None, "a file is made of a clip that has ended"
        return self._start, self._end


def told_frames(path: Path, limits: ClipLimits, indices: NDArray[np.int64]) -> Iterator[Frame]:
    """The frames with these rising numbers, decoded."""
    wanted = iter(indices.tolist())
    following = next(wanted, None)
    if following is None:
        return
    with open_clip(path, limits) as clip:
        for frame in clip:
            if frame.index == following:
                yield frame
                following = next(wanted, None)
                if following is None:
                    return


def write_file(
    spool: ClipSpool,
    name: str,
    stem: str,
    file: Bounded | BinaryIO,
    clip: Path,
    limits: ClipLimits,
    every: int = 1,
    person: int | None = None,
) -> Iterator[tuple[str, str]]:
    """Makes the file in steps, each of which blocks for a while; yields its name and media type at every one.

    Raises:
        OutOfRange: nobody has that id. TooLarge: the file would pass its limit.
    """
    recording = spool.recording(every)
    if name != "mp4":
        yield write(recording, name, stem, cast(BinaryIO, file), person)
        return
    told = (f"{stem}.mp4", "video/mp4")
    for _ in film(recording if person is None else recording.of(person), clip, limits, file):
        yield told
    yield told


# ---- The overlay film


def film(recording: Recording, clip: Path, limits: ClipLimits, file: Bounded | BinaryIO) -> Iterator[None]:
    """Draws the clip's frames with their people beside the 3D view, a frame at each step.

    The clip is decoded once more, so that no more than one frame is held.
    """
    placed = {person.id: _turned(recording, person) for person in recording.people}
    stage = _stage(placed, recording.camera_to_world is not None)
    with Film(cast(BinaryIO, file), recording.rate) as made:
        for frame, (_, here) in zip(told_frames(clip, limits, recording.indices), recording.rows(), strict=False):
            people = [_drawn(person, row, *placed[person.id]) for person, row in here]
            made.add(side_by_side(frame.pixels, people, stage, FILM_PX), frame.time_s - recording.times[0])
            yield


def _turned(recording: Recording, person: RecordedPerson) -> tuple[Array, Array]:
    """Joints and positions as they are drawn: in the files' axes, but y down."""
    joints, positions = recording.in_file_axes(person)
    return (joints @ TURNED).astype(np.float32), (positions @ TURNED).astype(np.float32)


def _stage(placed: dict[int, tuple[Array, Array]], world: bool) -> Stage | None:
    joints = [joints for joints, _ in placed.values()]
    if not joints:
        return None
    thin = max(1, sum(map(len, joints)) // STAGE_ROWS)
    some = np.concatenate([each[::thin] for each in joints]).astype(np.float64)
    where = np.concatenate([positions[::thin] for _, positions in placed.values()]).astype(np.float64)
    return stage_of(list(placed), some, where, world=world)


def _drawn(person: RecordedPerson, row: int, joints: Array, positions: Array) -> Person:
    lifted = None
    if np.isfinite(joints[row]).any():
        place = positions[row] if np.isfinite(positions[row]).all() else None
        lifted = Joints3D(joints[row], place, person.scale)
    box = Box.of(person.boxes[row], float(person.scores[row]))
    return Person(person.id, box, Keypoints(person.keypoints[row]), lifted)


def check_file_options(options: ClipOptions, name: str | None, person: int | None) -> None:
    """Raises OutOfRange for a format made of 3D without 3D, and for a person without a format."""
    if name is None and person is not None:
        raise OutOfRange("`person` chooses whose file is made, and needs a `format`", field="person", limit=None)
    if name in FORMATS and FORMATS[name].of_3d and not options.photo.lift:
        raise OutOfRange(f"`format` {name} is made of 3D joints; `lift` must be true", field="lift", limit=True)


# ---- Rows


def _row(place: int, person: Person, feet: Sequence[str | None] | None = None) -> Rows:
    row = np.zeros(1, ROW)
    row["frame"], row["person"], row["score"], row["box"] = place, person.id, person.box.score, person.box.xywh
    row["keypoints"] = person.keypoints.points
    lifted = person.lifted
    row["joints"] = np.nan if lifted is None else lifted.joints
    row["position"] = np.nan if lifted is None or lifted.position is None else lifted.position
    row["feet"] = [FEET.get(foot, -1) for foot in feet] if feet else -1
    return row


def _recorded(
    person: int,
    rows: Rows,
    factors: Array,
    scale: Scale,
    times: NDArray[np.float64],
    world: World | None = None,
) -> RecordedPerson:
    """One person's rows, which may lie frames apart, as the frames from the first to the last.

    Standing feet are kept where they stand, which only the whole track allows.

    Args:
        factors: (rows,) from the scale of the lines to that of the whole track.
    """
    frames, kept = np.unique(rows["frame"], return_index=True)  # who is merged may be in a frame twice
    rows, factor = rows[kept], factors[kept]
    count = int(frames[-1] - frames[0]) + 1 if len(frames) else 0
    place = frames - frames[0]

    def spread(name: str, by: Array | None = None) -> Array:
        values = np.full((count, *ROW[name].shape), np.nan, np.float32)
        given = np.asarray(rows[name])
        values[place] = given if by is None else given * by.reshape(-1, *(1 for _ in ROW[name].shape))
        return values

    joints, positions = spread("joints", factor), spread("position", factor)
    feet = np.zeros((count, 2), bool)
    feet[place] = np.asarray(rows["feet"]) == 1
    if feet.any():
        moved = settle(times[frames[0] : frames[0] + count], joints, positions, feet, world)
        positions = moved.astype(np.float32)
    keypoints = spread("keypoints")
    keypoints[..., 2] = np.nan_to_num(keypoints[..., 2])
    return RecordedPerson(
        person,
        int(frames[0]),
        keypoints,
        spread("box"),
        spread("score"),
        joints,
        positions,
        scale,
    )


# ---- One photo


def photo_recording(people: tuple[Person, ...], size: tuple[int, int], camera: Camera, index: int = 0) -> Recording:
    """A photo's people as a recording of one frame with that number."""
    recorded = []
    for person in people:
        scale = person.lifted.scale if person.lifted else Scale()
        recorded.append(_recorded(person.id, _row(0, person), np.ones(1, np.float32), scale, np.zeros(1)))
    return Recording(np.zeros(1), np.array([index]), size, 1.0, tuple(recorded), camera)
