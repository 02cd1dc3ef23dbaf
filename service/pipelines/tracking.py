"""Which person of this frame is which of the last, and which tracks of a whole clip are one person. Pure; pixels.

Policy: people are matched to where their speed has carried them, by pose and box; of several who fit, those in the
same colours go first. A track is tentative for its first two frames, then confirmed; it survives KEPT_S unseen. What
one look of the finder shows, and the next two do not, was nobody; who is new or comes back in a followed person's pose
is that person seen twice. No id is used twice. After longer absences `merges` joins fragments on evidence of motion and
size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.geometry.boxes import SEGMENT_SHARE, iou, oks, same_people

from .colours import alike

Array = NDArray[np.float32]

KEPT_S = 1.8  # less than the look-ahead of a clip's lines, in which a gap must end to be bridged
LEAST_LIKENESS = 0.1
YOUNG = 0.8  # of the likeness of a track that few looks have found: of two who fit, the longer known has the person
POSE_SHARE = 0.7  # when two people cross, boxes fall on each other and only the poses tell who is who
CONFIRMED_AFTER = 3
DOUBLE = 0.5  # likeness of the poses over which who is new or comes back is somebody followed: a stray arm's box
SPEED_S = 0.15  # over which a track's speed is averaged
COASTS_S = 0.5  # so long the last speed is believed
LOOSER_S = 0.15  # unseen for so long, a person may have changed as much as between two frames once more
DOUBT_S = 0.6  # within this time, two looks that do not find a newcomer again count against it
LOST_SCORE = 0.2  # mean score of a pose under which a carried person is gone; joints under it do not carry
WEAK_SCORE = 0.35  # under which the finder looks more often, and a person that it does not find is gone
LEAP = 0.2  # of the person's size: a box is not carried farther than this by speed alone
CARRIED_S = 1.0  # so long poses carry a person whom the finder does not find
CLEAR = 0.05  # overlap with another's box up to which a person's colours are its own ...
NO_WORSE = 0.1  # ... or more, if the other's mean score is less by this: who is in front is seen better
LEARNT = 0.25  # of a track's colours, by each look that shows the person clear of others
KNOWN_AGAIN = 0.8  # likeness of colours over which a newcomer is somebody missing ...
STRAYS, STRAYS_S = 0.25, 1.0  # ... who may have moved so many heights, and so many more a second, since last seen

LONGEST_ABSENCE_S = 10.0  # fragments farther apart are never joined: too much can have happened
NEAR = 0.5  # of the person's height: how far from where it was going a fragment may begin ...
NEARER_S = 0.1  # ... and how much more for each second of absence
MOST_GROWTH = 1.25  # in height between two fragments
AT_BORDER = 0.02  # of the picture: a box so near its border may have left


@dataclass
class Tracked:
    """A person being followed.

    box, score, points: the last ones; seen_s: when, frames: how often. found_s, found: when and how often the finder
    found the person itself; missed: how many looks since then have not. velocity: (2,) pixels a second. colours: (2, 3)
    as `worn` has them.
    """

    id: int
    box: Array
    score: float
    points: Array
    seen_s: float
    frames: int = 1
    found_s: float = 0.0
    found: int = 1
    missed: int = 0
    velocity: Array = field(default_factory=lambda: np.zeros(2, np.float32))
    colours: Array = field(default_factory=lambda: np.full((2, 3), np.nan, np.float32))

    @property
    def state(self) -> str:
        return "confirmed" if self.frames >= CONFIRMED_AFTER else "tentative"

    @property
    def size(self) -> float:
        """Square root of the box's area, pixels."""
        return math.sqrt(max(float(self.box[2]) * float(self.box[3]), 1.0))

    @property
    def speed(self) -> float:
        """Pixels a second."""
        return math.hypot(*self.velocity.tolist())

    @property
    def surety(self) -> float:
        """Mean score of the pose."""
        return float(self.points[:, 2].mean())

    def shift(self, time_s: float) -> Array:
        """(2,) pixels that the person has probably moved since it was seen."""
        return self.velocity * np.float32(min(time_s - self.seen_s, COASTS_S))

    def predicted(self, time_s: float) -> Array:
        """(17, 3): the last pose, moved on."""
        moved = self.points.copy()
        moved[:, :2] += self.shift(time_s)
        return moved

    def see(self, time_s: float, box: Array, score: float, points: Array, looked: bool) -> None:
        step = time_s - self.seen_s
        if step > 0:
            common = np.minimum(points[:, 2], self.points[:, 2])
            moved = points[:, :2] - self.points[:, :2]
            moved[np.isnan(moved)] = 0
            speed = (moved * common[:, None]).sum(axis=0) / max(float(common.sum()), 1e-6) / step
            self.velocity = self.velocity + np.float32(min(1.0, step / SPEED_S)) * (speed - self.velocity)
        self.box, self.score, self.points = box, score, points
        self.seen_s, self.frames = time_s, self.frames + 1
        if looked:
            self.found_s, self.found = time_s, self.found + 1

    def learn(self, colours: Array) -> None:
        """Hears the colours (2, 3) of a clear view."""
        fresh = self.colours + np.float32(LEARNT) * (colours - self.colours)
        self.colours = np.where(np.isnan(self.colours), colours, np.where(np.isnan(colours), self.colours, fresh))


class Tracker:
    """Follows people from frame to frame. `doubted`: ids of tracks that the last frame showed to be nobody."""

    def __init__(self) -> None:
        self.tracks: list[Tracked] = []
        self.doubted: set[int] = set()
        self._next_id = 0

    def update(
        self,
        time_s: float,
        boxes: Array,
        scores: Array,
        points: Array,
        found: NDArray[np.bool_] | None = None,
        looked: bool = True,
        colours: Array | None = None,
    ) -> list[Tracked]:
        """Matches this frame's people to the tracks; a copy of its track a person, in order. New people get new ids.

        Who is somebody else seen twice is left out.
        found: (n,) which of them the finder found, None: all; whom it did not is left out if no track fits.
        looked: whether the finder looked at this frame.
        colours: (n, 2, 3) that the people wear, see `worn`, if anybody has looked.
        """
        self.tracks = [track for track in self.tracks if time_s - track.seen_s <= KEPT_S]
        by_finder = np.ones(len(boxes), bool) if found is None else found
        matched = self._matched(time_s, boxes, points, colours)
        if colours is not None:
            self._know_again(matched, time_s, boxes, colours, by_finder)
        newcomers = self._newcomers(matched, boxes, points, by_finder)
        for new, track in enumerate(matched):
            if track is not None:
                track.see(time_s, boxes[new], float(scores[new]), points[new], bool(by_finder[new]))
        people = []
        clear = _clear(boxes, points) if looked and colours is not None else ()
        for new, track in enumerate(matched):
            if track is None and new not in newcomers:
                continue
            if track is None:
                track = Tracked(self._next_id, boxes[new], float(scores[new]), points[new], time_s, found_s=time_s)
                self._next_id += 1
                self.tracks.append(track)
            people.append(track)
            if colours is not None and looked and clear[new]:
                track.learn(colours[new])
        self.doubted = self._nobody(time_s) if looked else set()
        self.tracks = [track for track in self.tracks if track.id not in self.doubted]
        return [copy(track) for track in people]

    def _matched(self, time_s: float, boxes: Array, points: Array, colours: Array | None) -> list[Tracked | None]:
        """Each person's track, or None: greedily, the likest pair first. Colours tell who of those who fit, no more."""
        likeness = self._likeness(self.tracks, time_s, boxes, points)
        likeness *= np.array([YOUNG if t.found < CONFIRMED_AFTER else 1 for t in self.tracks], np.float32)[:, None]
        likeness[likeness < LEAST_LIKENESS] = 0
        # Of two poses that fit, the surer one.
        likeness *= points[:, :, 2].mean(axis=1).clip(1e-3)
        if colours is not None and len(self.tracks) > 1:
            likeness *= alike(np.stack([track.colours for track in self.tracks]), colours)
        matched: list[Tracked | None] = [None] * len(boxes)
        while likeness.size and likeness.max() > 0:
            old, new = divmod(int(likeness.argmax()), likeness.shape[1])
            likeness[old, :] = likeness[:, new] = -1
            matched[new] = self.tracks[old]
        return matched

    def _know_again(
        self, matched: list[Tracked | None], time_s: float, boxes: Array, colours: Array, found: NDArray[np.bool_]
    ) -> None:
        """Gives newcomers, of those `found`, the tracks of missing people near them in the same colours.

        Who is half hidden, or was followed into somebody else's pose, comes out where nobody is expected.
        """
        there = {track.id for track in matched if track is not None}
        missing = [track for track in self.tracks if track.id not in there and track.found >= CONFIRMED_AFTER]
        new = [n for n, track in enumerate(matched) if track is None and found[n] and np.isfinite(colours[n]).any()]
        if not missing or not new:
            return
        likeness = alike(np.stack([track.colours for track in missing]), colours[new])
        last = np.stack([track.box for track in missing])
        away = (last[:, None, :2] + last[:, None, 2:] / 2) - (boxes[new, :2] + boxes[new, 2:] / 2)
        # The taller of the two: who is half hidden looks short.
        height = np.maximum(last[:, None, 3], boxes[new, 3])
        absence = time_s - np.array([track.seen_s for track in missing])
        likeness[np.linalg.norm(away, axis=-1) > (STRAYS + STRAYS_S * absence)[:, None] * height] = 0
        while likeness.max() >= KNOWN_AGAIN:
            old, which = divmod(int(likeness.argmax()), likeness.shape[1])
            likeness[old, :] = likeness[:, which] = 0
            matched[new[which]] = missing[old]

    def _newcomers(
        self, matched: list[Tracked | None], boxes: Array, points: Array, found: NDArray[np.bool_]
    ) -> set[int]:
        """Who is new, of those `found`: somebody who is followed, seen twice, is not.

        Nor is that the person behind, who comes back: a hidden track that has such a double gives it up.
        """
        newest = max((track.seen_s for track in self.tracks), default=0.0)
        followed = [n for n, track in enumerate(matched) if track is not None and track.seen_s == newest]
        back = [n for n, track in enumerate(matched) if track is not None and track.seen_s < newest]
        twice = doubles(boxes, points, back, followed)
        for n in twice:
            matched[n] = None
        new = [n for n, track in enumerate(matched) if track is None and found[n] and n not in twice]
        return set(new) - doubles(boxes, points, new, [n for n, track in enumerate(matched) if track is not None])

    def missed(self, time_s: float, boxes: Array, points: Array, colours: Array | None = None) -> list[Tracked]:
        """Those of `carried` whom a look has found before, and of whose boxes and poses now none is theirs."""
        there = {track.id for track in self._matched(time_s, boxes, points, colours) if track is not None}
        return [track for track in self.carried(time_s) if track.found > 1 and track.id not in there]

    def _nobody(self, time_s: float) -> set[int]:
        """The tracks that too few looks have found, and the last two did not. Counts this one."""
        for track in self.tracks:
            track.missed = 0 if track.found_s == time_s else track.missed + 1
        return {
            t.id for t in self.tracks if t.found < CONFIRMED_AFTER and t.missed >= 2 and time_s - t.found_s <= DOUBT_S
        }

    def carried(self, time_s: float) -> list[Tracked]:
        """Those whose pose may carry them into this frame: seen just now, and found by the finder not long ago."""
        newest = max((track.seen_s for track in self.tracks), default=0.0)
        return [t for t in self.tracks if t.seen_s == newest and time_s - t.found_s <= CARRIED_S]

    @staticmethod
    def _likeness(tracks: list[Tracked], time_s: float, boxes: Array, points: Array) -> Array:
        """(tracks, people): how much the poses are alike, and, less, how much the boxes overlap."""
        if not tracks or not len(boxes):
            return np.zeros((len(tracks), len(boxes)), np.float32)
        shifts = np.array([track.shift(time_s) for track in tracks])
        last, poses = np.array([track.box for track in tracks]), np.array([track.points for track in tracks])
        last[:, :2] += shifts
        poses[:, :, :2] += shifts[:, None]
        looser = np.array([1 + max(time_s - track.seen_s - LOOSER_S, 0) / LOOSER_S for track in tracks])
        # Twice the area: a person moves between frames, while COCO's spread is that of two labellers.
        area = SEGMENT_SHARE * (last[:, 2] * last[:, 3]) * 2 * looser
        alike = oks(poses[:, None], points[None], area[:, None])
        # Who was seen well a moment ago is not in a box that next to no joint is seen in.
        seen = np.array([track.surety >= WEAK_SCORE for track in tracks])
        alike[seen[:, None] & (points[:, :, 2].mean(axis=1) < LOST_SCORE)] = 0
        return (POSE_SHARE * alike + (1 - POSE_SHARE) * iou(last, boxes)).astype(np.float32, copy=False)


def _clear(boxes: Array, points: Array) -> NDArray[np.bool_]:
    """(n,) who of the people is clear of everybody who may stand in front: who is seen no worse than they are."""
    overlap = iou(boxes, boxes)
    np.fill_diagonal(overlap, 0)
    surety = points[..., 2].mean(axis=1)
    before = surety > surety[:, None] - NO_WORSE
    return np.asarray(((overlap <= CLEAR) | ~before).all(axis=1), bool)


def doubles(boxes: Array, points: Array, these: Sequence[int], known: Sequence[int]) -> set[int]:
    """Who of `these` people is one of those `known`, seen twice: indices of boxes (n, 4) and points (n, 17, 3)."""
    if not these or not known:
        return set()
    pose, other = points[list(these)][:, None], points[list(known)][None]
    sizes = boxes[:, 2:].prod(axis=1)
    areas = SEGMENT_SHARE * (sizes[list(these)][:, None] + sizes[list(known)]) / 2
    alike = oks(pose, other, areas, np.minimum(pose[..., 2], other[..., 2]).clip(0, None))
    return {n for n, likest in zip(these, alike.max(axis=1), strict=True) if likest > DOUBLE}


def told_apart(tracks: Sequence[Tracked], time_s: float, boxes: Array, points: Array) -> NDArray[np.intp]:
    """Who keeps a pose that several carried people ended on: whoever was expected there. The others are hidden.

    Args:
        tracks: one a person, see `Tracker.carried`; boxes (n, 4), points (n, 17, 3): what was found for each now.

    Returns:
        (k,) indices of those who keep theirs, rising.
    """
    if len(tracks) < 2:
        return np.arange(len(tracks))
    predicted = np.stack([track.predicted(time_s) for track in tracks])
    areas = SEGMENT_SHARE * np.stack([track.box for track in tracks])[:, 2:].prod(axis=1)
    return np.sort(same_people(points, boxes, oks(points, predicted, 2 * areas)))


def carried_box(track: Tracked, time_s: float, width: int, height: int) -> Array | None:
    """Where a person will be: the old box moved with the pose and its speed; None once it has left the picture."""
    box = track.box
    sure = track.points[track.points[:, 2] >= LOST_SCORE, :2]
    if len(sure) < 3:
        return box
    shift = track.shift(time_s)
    low, high = sure.min(axis=0) + shift, sure.max(axis=0) + shift
    size = np.maximum(0.5 * box[2:] + 0.5 * 1.2 * (high - low), 8)
    corner = (low + high) / 2 - size / 2
    left = np.maximum(corner, 0)
    right = np.minimum(corner + size, [width, height])
    if (right - left < 2).any():
        return None
    return np.concatenate([left, right - left]).astype(np.float32)


def reachable(tracks: Sequence[Tracked], times: Sequence[float]) -> int:
    """For how many of the frames boxes may be carried by speed alone, without a pose in between; at least 1."""
    reach = 1
    while reach < len(times) and all(
        track.speed * (times[reach] - track.seen_s) <= LEAP * track.size for track in tracks
    ):
        reach += 1
    return reach


@dataclass(frozen=True)
class Fragment:
    """One track of a clip, as far as it may be a part of a longer one.

    first_s, last_s: seconds; first, last: boxes (4,) there; velocity: (2,) pixels a second at its end.
    """

    id: int
    first_s: float
    last_s: float
    first: Array
    last: Array
    velocity: Array


def merges(fragments: Sequence[Fragment], width: int, height: int) -> dict[int, int]:
    """Which fragments are the same person after a long absence: later id to the earliest id of that person.

    Conservative, since nothing is known of their looks: both ends lie inside the picture (who crosses its border may be
    anybody), at most LONGEST_ABSENCE_S apart, of like height, the later one begins near where the earlier was going,
    and neither has a second candidate.
    """
    every = {
        (before.id, after.id)
        for before in fragments
        for after in fragments
        if before.id != after.id and _continues(before, after, width, height)
    }
    # Where one fragment leads to a second and that to a third, the first leads to the third by the second alone.
    candidates = [
        (before, after)
        for before, after in every
        if not any((before, between.id) in every and (between.id, after) in every for between in fragments)
    ]
    joined: dict[int, int] = {}
    for before_id, after_id in candidates:
        alone = sum(b == before_id for b, _ in candidates) == 1 == sum(a == after_id for _, a in candidates)
        if alone:
            joined[after_id] = before_id
    return {after_id: _earliest(after_id, joined) for after_id in joined}


def _earliest(fragment: int, joined: dict[int, int]) -> int:
    while fragment in joined:
        fragment = joined[fragment]
    return fragment


def _continues(before: Fragment, after: Fragment, width: int, height: int) -> bool:
    absence = after.first_s - before.last_s
    if not 0 < absence <= LONGEST_ABSENCE_S:
        return False
    if at_border(before.last, width, height) or at_border(after.first, width, height):
        return False
    # Heights alone: a walker's width doubles with each step, and whoever comes out from behind somebody is narrow.
    growth = float(after.first[3] / max(before.last[3], 1e-6))
    if not 1 / MOST_GROWTH <= growth <= MOST_GROWTH:
        return False
    going = before.last[:2] + before.last[2:] / 2 + before.velocity * min(absence, COASTS_S)
    apart = float(np.linalg.norm(after.first[:2] + after.first[2:] / 2 - going))
    return apart <= (NEAR + NEARER_S * absence) * float(before.last[3])


def at_border(box: Array, width: int, height: int) -> bool:
    """Whether the person of the box may be crossing the picture's border. Its lower one is where most people stand."""
    x, y, w, h = (float(number) for number in box)
    side, top = AT_BORDER * width, AT_BORDER * height
    return x < side or y < top or x + w > width - side or y + h > height - top / 4
