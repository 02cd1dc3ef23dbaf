"""Who waits, who is let in, who runs next: rules as plain code. No asyncio, no threads; the clock is an argument.

Everything is counted in rows' costs (the network inputs that a row takes), never in requests. Times are seconds on one
clock of the caller's choosing.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from service.errors import Busy, QueueFull, ShareUsedUp


class Class(IntEnum):
    """How urgent a request is; lower goes first."""

    LIVE = 0
    PHOTO = 1
    CLIP = 2


# A row's urgency is its weight times its wait: a live row overtakes, but a clip's row that has waited sixteen times as
# long goes before it, so nobody starves.
WEIGHT = {Class.LIVE: 16.0, Class.PHOTO: 4.0, Class.CLIP: 1.0}


@dataclass(frozen=True)
class Limits:
    """rows: most that may wait; share: part of them one caller may hold while others wait; budget: most in a batch;
    bytes: most that those who wait may keep in memory."""

    rows: int = 256
    share: float = 0.5
    budget: int = 32
    bytes: int = 1024**3


# What a batch may take whose most urgent row is live: a frame waits for the batch that runs and then for its own.
LIVE_BATCH_S = 0.02
# How long after memory ran out a batch's cap is tried a step higher.
REGAIN_S = 60.0


class Cap:
    """The most rows of a batch: the budget; less for a while where the device's memory ran out."""

    def __init__(self, budget: int) -> None:
        self.budget = self.rows = budget
        self._changed = 0.0

    def follow(self, budget: int) -> bool:
        """Takes another budget; whether it was another. A cap that memory holds down regains it step by step."""
        if budget == self.budget:
            return False
        self.rows = budget if self.rows == self.budget else min(self.rows, budget)
        self.budget = budget
        return True

    def halve(self, ran: int, now: float) -> None:
        """Memory did not suffice for a batch of `ran` rows."""
        self.rows, self._changed = max(1, min(self.rows, ran // 2)), now

    def regain(self, now: float) -> bool:
        """Doubles it where it has held for REGAIN_S; whether it did."""
        if self.rows >= self.budget or now - self._changed < REGAIN_S:
            return False
        self.rows, self._changed = min(2 * self.rows, self.budget), now
        return True


@dataclass(eq=False)
class Waiting:
    """One row in line; `gone` once it is out of it, taken into a batch or left by its caller.

    held: bytes that it keeps in memory; 0 where a later row of the same request keeps them.
    """

    row: Any
    cost: int
    klass: Class
    caller: str
    deadline: float
    arrived: float
    owner: Any = None
    held: int = 0
    gone: bool = field(default=False, init=False)


def urgency(klass: Class, waited_s: float) -> float:
    """What the most urgent row is chosen by, within a line and among the lines that share a device."""
    return WEIGHT[klass] * (max(waited_s, 0.0) + 1e-3)


def retry_after_s(rows: int, rows_per_s: float | None) -> float:
    """When a refused caller may come back: the time that the line needs, between 1 and 60 s."""
    if not rows_per_s:
        return 1.0
    return min(max(rows / rows_per_s, 1.0), 60.0)


class Line:
    """The line before one network: bounded, in classes, callers of a class taking turns.

    A caller's rows stay in their order, but live ones: there the earliest deadline, so the oldest frame, goes first.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.cap = Cap(limits.budget)
        self.rows = 0  # costs of those who still wait
        self.bytes = 0  # that they keep in memory
        self._turns: dict[Class, OrderedDict[str, deque[Waiting]]] = {klass: OrderedDict() for klass in Class}
        self._queued: dict[str, int] = {}  # costs by caller

    def admit(self, cost: int, caller: str, rows_per_s: float | None = None, held: int = 0) -> None:
        """Lets `cost` more rows of `caller` in, which keep `held` bytes in memory, or raises QueueFull or ShareUsedUp.

        An empty line takes anything.

        A share binds only while somebody else waits: who is alone may fill the line.
        """
        limit = self.limits.rows
        if self.rows and self.rows + cost > limit:
            message = f"the queue holds {self.rows} of {limit} rows; {cost} more do not fit"
            raise QueueFull(
                message, field="queue_rows", limit=limit, retry_after_s=retry_after_s(self.rows, rows_per_s)
            )
        if self.rows and self.bytes + held > self.limits.bytes:
            message = f"what waits holds {self.bytes} of {self.limits.bytes} bytes; {held} more do not fit"
            wait_s = retry_after_s(self.rows, rows_per_s)
            raise QueueFull(message, field="queue_mb", limit=self.limits.bytes, retry_after_s=wait_s)
        queued = self._queued.get(caller, 0)
        share = max(int(limit * self.limits.share), 1)
        if queued and self.rows > queued and queued + cost > share:
            message = f"you have {queued} rows queued; {cost} more pass your share of {share} while others wait"
            wait_s = retry_after_s(queued, rows_per_s)
            raise ShareUsedUp(message, field="caller_share", limit=share, retry_after_s=wait_s)

    def has_room(self, cost: int, caller: str, held: int = 0) -> bool:
        """Whether `admit` would let them in."""
        try:
            self.admit(cost, caller, held=held)
        except Busy:
            return False
        return True

    @property
    def full(self) -> bool:
        """Whether nobody's row would be let in."""
        return self.rows >= self.limits.rows or self.bytes > self.limits.bytes

    def add(self, waiting: Waiting) -> None:
        line = self._turns[waiting.klass].setdefault(waiting.caller, deque())
        place = len(line)
        if waiting.klass is Class.LIVE:  # a stream asks again and again, and its frame may have waited already
            while place and line[place - 1].deadline > waiting.deadline:
                place -= 1
        line.insert(place, waiting)
        self._count(waiting, 1)

    def leave(self, waiting: Waiting) -> None:
        """Takes a row out of the line, where it still is there: its pixels must not be kept for nobody."""
        if waiting.gone:
            return
        waiting.gone = True
        turns = self._turns[waiting.klass]
        turns[waiting.caller].remove(waiting)
        if not turns[waiting.caller]:
            del turns[waiting.caller]
        self._count(waiting, -1)

    def urgency(self, now: float) -> float:
        """Of the most urgent row; 0 when nobody waits."""
        return max((urgency(klass, now - head.arrived) for klass, head in self._heads()), default=0.0)

    def leads(self, now: float) -> Class | None:
        """The class of the most urgent row, which a batch is formed around."""
        return self._most_urgent(now)[0] if self.rows else None

    def take(self, now: float, live_rows: int | None = None) -> tuple[list[Waiting], list[Waiting]]:
        """Forms a batch within the cap: (batch, those whose deadline had passed, which are not in it).

        Args:
            live_rows: the cap where the most urgent row is live, if that is less.
        """
        batch: list[Waiting] = []
        late: list[Waiting] = []
        room = self.cap.rows
        while self.rows:
            klass, head = self._most_urgent(now)
            if not batch and klass is Class.LIVE and live_rows is not None:
                room = min(room, live_rows)
            # A single row dearer than the whole cap runs alone rather than never.
            if head.deadline > now and head.cost > room and batch:
                break
            self.leave(head)
            if head.caller in self._turns[klass]:
                self._turns[klass].move_to_end(head.caller)
            if head.deadline <= now:
                late.append(head)
                continue
            batch.append(head)
            room -= head.cost
            if room <= 0:
                break
        return batch, late

    def empty(self) -> list[Waiting]:
        """Takes everybody out."""
        everybody = [waiting for turns in self._turns.values() for line in turns.values() for waiting in line]
        for waiting in everybody:
            self.leave(waiting)
        return everybody

    def _heads(self) -> list[tuple[Class, Waiting]]:
        """Who is next in each class."""
        return [(klass, next(iter(turns.values()))[0]) for klass, turns in self._turns.items() if turns]

    def _most_urgent(self, now: float) -> tuple[Class, Waiting]:
        return max(self._heads(), key=lambda each: urgency(each[0], now - each[1].arrived))

    def _count(self, waiting: Waiting, sign: int) -> None:
        self.rows += sign * waiting.cost
        self.bytes += sign * waiting.held
        queued = self._queued.get(waiting.caller, 0) + sign * waiting.cost
        if queued:
            self._queued[waiting.caller] = queued
        else:
            self._queued.pop(waiting.caller, None)
