"""What a clip has shown and not told yet: gaps bridged, sides put right, smoothed, and made into lines. Pure.

A frame is told once what follows it is known well enough, at most LOOK_AHEAD_S of clip after itself, and is final then.
Only the last few told frames are kept. Pixels are the upright frames'; metres are in the camera's axes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.geometry.alignment import stature
from service.geometry.cameras import Camera
from service.geometry.skeletons import SKELETONS, mirror_order, to_h36m17
from service.people import Box, Joints3D, Keypoints, Person, Scale, Track, World

from .certainty import Certainty
from .lift import unmirrored
from .photo import SEEN_SCORE, joint_states
from .placing import height_factor, position_of
from .smoothing import smooth, without_spikes
from .swaps import repair
from .tracking import KEPT_S, SPEED_S, Fragment, at_border, merges
from .world import Floor, contacts

Array = NDArray[np.float32]
Floats = NDArray[np.float64]
Feet = tuple[str | None, str | None]  # left and right: down, up, or unknown

LOOK_AHEAD_S = 2.0  # of clip: the most that a line waits for
SETTLE_S = 0.8  # of clip: what is known behind every line, unless frames are too rare; longer than an exchange of sides
FILLED_SCORE = 0.2  # of a bridged joint, at most: nobody saw it


@dataclass(frozen=True)
class Seen:
    """One person in one frame. raw: the detector's points (17, 3); points: those after repairs."""

    box: Array
    score: float
    points: Array
    raw: Array
    state: str
    swapped: bool = False
    filled: bool = False


@dataclass(frozen=True)
class Moment:
    """One frame: who is in it, by track, and the tracks that had turned out to be nobody by then."""

    index: int
    time: float
    people: Mapping[int, Seen]
    nobody: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ClipPerson:
    """One person of a line. raw: the detector's own points, if asked for and seen; feet: left and right, down or up."""

    person: Person
    track: str
    states: list[str] | None
    swapped: bool
    filled: bool
    raw: Array | None
    feet: Feet | None = None


@dataclass(frozen=True)
class ClipFrame:
    index: int
    time: float
    people: tuple[ClipPerson, ...]


@dataclass(frozen=True)
class Stretch:
    """A person's points (frames, 17, 3) around a block; row n is the moment `indices[n]`."""

    indices: dict[int, int]
    times: Floats
    points: Array


@dataclass(frozen=True)
class Telling:
    """What a clip's lines are made for: the choices of its request that matter once people are found."""

    size: tuple[int, int]
    camera: Camera
    scale: Scale
    smooth: bool = True
    raw: bool = False
    states: bool = False
    mirrored: bool = False
    inferred: bool = False
    certainty: Certainty | None = None


@dataclass
class _Life:
    """What is kept of a person for as long as the clip lasts."""

    track: Track
    fragment: Fragment
    seen: NDArray[np.bool_]  # (17,) of h36m17, whether the joint was ever seen
    factor: float | None = None
    height_sum: float = 0.0  # of the network's own stature, over `lifted` frames
    lifted: int = 0


class Story:
    """Frames go in by `add`, blocks of settled ones come out by `next_block`, lines by `lines`."""

    def __init__(self, telling: Telling, block: int, context: int) -> None:
        """block: frames told together; context: frames before and behind them that smoothing and lifter look at."""
        self.telling, self.block, self.context = telling, block, context
        self.frames = 0
        self.floor = Floor()
        self._told: deque[Moment] = deque(maxlen=context)
        self._ahead: deque[Moment] = deque()
        self._finished = False
        self._lives: dict[int, _Life] = {}
        self._numbers: dict[int, int] = {}
        self._last: dict[int, tuple[float, Array]] = {}  # who was seen lately: when, and the box
        self._nobody: set[int] = set()

    def add(self, moment: Moment) -> None:
        self._ahead.append(moment)
        self.frames += 1
        self._nobody.update(moment.nobody)
        self._last.update({person: (moment.time, seen.box) for person, seen in moment.people.items()})
        self._last = {
            person: last
            for person, last in self._last.items()
            if moment.time - last[0] <= KEPT_S and person not in self._nobody
        }

    def finish(self) -> None:
        self._finished = True

    @property
    def ready(self) -> bool:
        """Whether a block may be told: enough is known of what follows it, or nothing follows."""
        if not self._ahead:
            return False
        return self._finished or self._reach_s(0) >= LOOK_AHEAD_S or self._settled() >= self.block

    def _reach_s(self, n: int) -> float:
        """How much is known of what follows the n-th frame, seconds."""
        return self._ahead[-1].time - self._ahead[n].time

    def _settled(self) -> int:
        """How many of the next frames, at most a block, may be told."""
        missing = self._missing_since()
        overdue = self._reach_s(0) >= LOOK_AHEAD_S
        count = 0
        for n in range(min(self.block, len(self._ahead))):
            reach = self._reach_s(n)
            known = n + self.context < len(self._ahead) and reach >= SETTLE_S
            rare = overdue and reach >= LOOK_AHEAD_S / 2
            waits = self._ahead[n].time > missing
            if not (self._finished or reach >= LOOK_AHEAD_S or ((known or rare) and not waits)):
                break
            count += 1
        return count

    def _missing_since(self) -> float:
        """When the first of those was last seen who are missing now and may come back: frames after it wait."""
        now = self._ahead[-1].time
        gone = [at for at, box in self._last.values() if at < now and not at_border(box, *self.telling.size)]
        return min(gone, default=np.inf)

    # ---- Settling

    def next_block(self) -> tuple[list[Moment], dict[int, Stretch]]:
        """Takes the next frames, settled, with the stretch of everyone who is in them."""
        block = [self._ahead.popleft() for _ in range(self._settled())]
        block = [self._without_nobody(moment) for moment in block]
        ahead = [self._without_nobody(m) for m in self._ahead if m.time - block[-1].time <= max(SETTLE_S, KEPT_S)]
        block, ahead = self._bridged(block, ahead)
        near = [m for n, m in enumerate(ahead) if n < self.context or m.time - block[-1].time <= SETTLE_S]
        around = [*self._told, *block, *near]
        people = sorted({person for moment in block for person in moment.people})
        settled = {person: self._settle(person, around) for person in people}
        told, stretches = len(self._told), {}
        for person, (first, points, swapped) in settled.items():
            for n in range(told, told + len(block)):
                if person in around[n].people:
                    was = around[n].people[person]
                    now = replace(was, points=points[n - first], swapped=bool(swapped[n - first]))
                    around[n] = replace(around[n], people={**around[n].people, person: now})
            stretches[person] = self._sequence(first, points, around[: told + len(block) + self.context])
        block = around[told : told + len(block)]
        self._told.extend(block)
        return block, stretches

    def _without_nobody(self, moment: Moment) -> Moment:
        if self._nobody.isdisjoint(moment.people):
            return moment
        return replace(moment, people={p: seen for p, seen in moment.people.items() if p not in self._nobody})

    def _bridged(self, block: list[Moment], ahead: list[Moment]) -> tuple[list[Moment], list[Moment]]:
        """The block, and the context ahead, with everyone put in who is missing but known before and behind."""
        line = [*([self._told[-1]] if self._told else []), *block, *ahead]
        offset = len(line) - len(block) - len(ahead)
        end = offset + len(block)
        for n in range(max(offset, 1), min(end + self.context, len(line))):
            for person in set(line[n - 1].people) - set(line[n].people):
                before = line[n - 1].people[person]
                back = next((m for m in line[n + 1 :] if person in m.people), None)
                if back is None or (not before.filled and at_border(before.box, *self.telling.size)):
                    continue
                part = (line[n].time - line[n - 1].time) / (back.time - line[n - 1].time)
                filled = _between(before, back.people[person], part)
                line[n] = replace(line[n], people={**line[n].people, person: filled})
        return line[offset:end], line[end:]

    def _settle(self, person: int, around: Sequence[Moment]) -> tuple[int, Array, NDArray[np.bool_]]:
        """The person's repaired points from the first moment of `around` on that has them: first, (n, 17, 3), (n,)."""
        there = [n for n, moment in enumerate(around) if person in moment.people]
        moments = around[there[0] : there[-1] + 1]
        unknown = np.full((17, 3), (np.nan, np.nan, 0), np.float32)
        points = np.stack([m.people[person].points if person in m.people else unknown for m in moments])
        boxes = np.stack([around[n].people[person].box for n in there])
        size = float(np.sqrt(np.median(boxes[:, 2] * boxes[:, 3])))
        times = np.array([moment.time for moment in moments])
        points, swapped = repair(points, times, size)
        swapped |= [person in m.people and m.people[person].swapped for m in moments]
        if self.telling.smooth:
            points = without_spikes(points, times, size)
        return there[0], points, swapped

    def _sequence(self, first: int, points: Array, around: Sequence[Moment]) -> Stretch:
        moments = around[first : first + len(points)]
        times = np.array([moment.time for moment in moments])
        kept = points[: len(moments)]
        if self.telling.smooth:
            kept = smooth(kept, times)
        return Stretch({moment.index: n for n, moment in enumerate(moments)}, times, kept)

    def joints(self, points: Array) -> Array:
        """The detector's points (frames, 17, 3) as the lifter reads them, of the true scene if the clip is mirrored."""
        joints = to_h36m17(points, "coco17")
        return unmirrored(joints, self.telling.size[0]) if self.telling.mirrored else joints

    # ---- Telling

    def lines(
        self, block: Sequence[Moment], stretches: Mapping[int, Stretch], poses: Mapping[int, Array]
    ) -> list[ClipFrame]:
        """The block's lines. poses: (frames, 17, 3) of each stretch for a person of 1.70 m, or none without lift."""
        told: list[list[ClipPerson]] = [[] for _ in block]
        for person, stretch in stretches.items():
            here = [n for n, moment in enumerate(block) if person in moment.people]
            rows = [stretch.indices[block[n].index] for n in here]
            life = self._live(person, [block[n] for n in here])
            seen = [block[n].people[person] for n in here]
            lifted = self._lifted(life, stretch, rows, seen, poses.get(person))
            named = self._named(stretch.points[rows])
            scored = self._scored(named, np.stack([one.box for one in seen]))
            for n, one, pose, points, (joints, feet) in zip(here, seen, named, scored, lifted, strict=True):
                told[n].append(self._person(life.track.id, one, pose, points, joints, feet))
        return [
            ClipFrame(moment.index, moment.time, tuple(sorted(people, key=lambda one: one.person.id)))
            for moment, people in zip(block, told, strict=True)
        ]

    def _person(
        self,
        number: int,
        seen: Seen,
        named: Array,
        points: Array,
        lifted: Joints3D | None,
        feet: tuple[str | None, str | None] | None,
    ) -> ClipPerson:
        """named, points: (17, 3), the detector's peaks, by which states go, and what is told."""
        telling, states = self.telling, None
        if telling.states:
            states = joint_states(named, *telling.size)
            if seen.filled:
                states = ["outside" if state == "outside" else "inferred" for state in states]
        if seen.filled:
            points[:, 2] = np.minimum(points[:, 2], FILLED_SCORE)
        raw = self._scored(self._named(seen.raw), seen.box) if telling.raw and not seen.filled else None
        known = Person(number, Box.of(seen.box, seen.score), Keypoints(points), lifted)
        return ClipPerson(known, seen.state, states, seen.swapped, seen.filled, raw, feet)

    def _lifted(
        self, life: _Life, stretch: Stretch, rows: list[int], seen: list[Seen], pose: Array | None
    ) -> list[tuple[Joints3D | None, Feet | None]]:
        """3D and feet of one person in each of its frames of a block."""
        if pose is None:
            return [(None, None)] * len(rows)
        telling = self.telling
        if life.factor is None:
            # One scale a track, told by its first block.
            life.factor = float(height_factor(stature(pose), telling.scale.stature))
        life.height_sum += stature(pose[rows]) * len(rows)
        life.lifted += len(rows)
        body = pose * np.float32(life.factor)
        joints = self.joints(stretch.points)
        places = position_of(body, joints, False, telling.camera)
        ankles = joints[:, [6, 3]]
        down = contacts(stretch.times, ankles, body, places, telling.camera.focal_px)
        own = [n for n, one in zip(rows, seen, strict=True) if not one.filled]
        self.floor.add(body[own], places[own], down[own])
        for n in own:
            life.seen |= joints[n, :, 2] >= SEEN_SCORE
        # The pelvis is where the others are counted from.
        hidden = np.zeros(17, bool) if telling.inferred else ~life.seen & (np.arange(17) > 0)
        body[:, hidden] = np.nan
        told: list[tuple[Joints3D | None, Feet | None]] = []
        for n in rows:
            position = places[n] if np.isfinite(places[n]).all() else None
            told.append((Joints3D(body[n], position, telling.scale), (_foot(down[n, 0]), _foot(down[n, 1]))))
        return told

    def _named(self, points: Array) -> Array:
        """The detector's points (..., 17, 3) under the person's own left and right."""
        return points[..., mirror_order(SKELETONS["coco17"]), :] if self.telling.mirrored else points

    def _scored(self, points: Array, boxes: Array) -> Array:
        """A copy of points (..., 17, 3) in boxes (..., 4) with the scores that are told."""
        certainty = self.telling.certainty
        return points.copy() if certainty is None else certainty.of(points, boxes)

    def _live(self, person: int, moments: Sequence[Moment]) -> _Life:
        """The person's life with these frames added; numbers are given in the order in which people are told."""
        first = moments[0]
        if person not in self._lives:
            number = self._numbers.setdefault(person, len(self._numbers))
            box = first.people[person].box
            fragment = Fragment(number, first.time, first.time, box, box, np.zeros(2, np.float32))
            track = Track(number, first.index, first.index, 0, self.telling.scale)
            self._lives[person] = _Life(track, fragment, np.zeros(17, bool))
        life = self._lives[person]
        for moment in moments:
            box, was = moment.people[person].box, life.fragment
            step = moment.time - was.last_s
            velocity: Array = was.velocity
            if step > 0:
                moved = (box[:2] + box[2:] / 2 - was.last[:2] - was.last[2:] / 2) / step
                velocity = (velocity + min(1.0, step / SPEED_S) * (moved - velocity)).astype(np.float32)
            life.fragment = replace(was, last_s=moment.time, last=box, velocity=velocity)
        life.track = replace(life.track, last=moments[-1].index, frames=life.track.frames + len(moments))
        return life

    def tracks(self) -> tuple[Track, ...]:
        """Everyone who was told, each with the factor that the whole track asks for."""
        told = []
        for life in self._lives.values():
            factor = 1.0
            if life.factor is not None and life.lifted:
                factor = height_factor(life.height_sum / life.lifted, self.telling.scale.stature) / life.factor
            told.append(replace(life.track, factor=factor))
        return tuple(sorted(told, key=lambda track: track.id))

    def merged(self) -> dict[int, int]:
        """See `tracking.merges`."""
        return merges([life.fragment for life in self._lives.values()], *self.telling.size)

    def world(self) -> tuple[World | None, str]:
        return self.floor.world()


def _between(before: Seen, after: Seen, part: float) -> Seen:
    """Somebody whom nobody saw, on the straight way from one frame to another."""
    share = np.float32(part)
    points = (1 - share) * before.points + share * after.points
    points[:, 2] = np.minimum(FILLED_SCORE, np.minimum(before.points[:, 2], after.points[:, 2]))
    box = (1 - share) * before.box + share * after.box
    return Seen(box, min(before.score, after.score), points, points, before.state, filled=True)


def _foot(down: float) -> str | None:
    return None if np.isnan(down) else "down" if down else "up"
