"""The queue between many callers and one engine: asyncio around `policy.Line`. Knows no HTTP and no pictures.

Whoever waits is always answered: with a result, a refusal, or a failure.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.engines.device import Device, DeviceLost, OutOfMemory, fault_of, free_memory
from service.engines.engine import Engine, Row
from service.errors import Busy, DeadlinePassed, EngineFailed, NotReady, ServiceError
from service.metrics import Metrics, exemplar
from service.tracing import OFF, Tracing

from .policy import LIVE_BATCH_S, Class, Limits, Line, Waiting

log = logging.getLogger(__name__)


class Ticket:
    """One submission: the rows of one request, which may run in several batches, and the answer to all of them."""

    def __init__(self, count: int, answer: asyncio.Future[list[Any]], span: Any = None) -> None:
        self.answer = answer
        self.span, self.exemplar = span, exemplar.get()  # of the request, for traces and histograms
        self.waiting: list[Waiting] = []
        self.queued_s: float | None = None  # until the first of its rows began
        self._results: list[Any] = [None] * count
        self._left = count

    def settle(self, index: int, result: Any) -> None:
        """One row's result. The first failure is the answer to the whole; later rows then change nothing."""
        if self.answer.done():
            return
        if isinstance(result, BaseException):
            self.answer.set_exception(result)
            return
        self._results[index] = result
        self._left -= 1
        if not self._left:
            self.answer.set_result(self._results)


class Batcher:
    """The queue of one engine. `changed` hears of every new row; the scheduler takes batches and delivers."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        metrics: Metrics,
        changed: asyncio.Event,
        tracing: Tracing = OFF,
        lanes: int = 1,
    ) -> None:
        """lanes: how many of its batches may run at once."""
        self.engine = engine
        self._lanes = lanes
        self.line = Line(limits)
        self.rows_per_s: float | None = None  # measured over the last batches
        self._metrics, self._changed, self._tracing = metrics, changed, tracing
        self._freed = asyncio.Event()  # rows have left the line
        self._open = True
        network = engine.network
        metrics.queue_limit_rows.labels(network).set(limits.rows)
        metrics.batch_cap_rows.labels(network).set(limits.budget)
        self._queue_rows = metrics.queue_rows.labels(network)
        self._queue_wait_seconds = metrics.queue_wait_seconds.labels(network)
        self._rows_total = metrics.rows_total.labels(network)

    async def submit(
        self, rows: Sequence[Row], *, caller: str, klass: Class, deadline: float
    ) -> tuple[list[Any], float]:
        """Queues the rows and waits for all of their answers, in order; also the seconds until the first of them began.

        Rows of clips wait until there is room for them: a clip has been let in, and is not broken off because others
        crowd the queue meanwhile.

        Raises:
            QueueFull, ShareUsedUp, NotReady: at once, nothing was queued.
            DeadlinePassed: at the deadline, also while the device is busy; what has not run then never does.
            NotFinite, EngineFailed: a row of this request failed; those of other requests do not notice.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not rows:
            return [], 0.0
        held = held_bytes(rows)
        cost = sum(row.cost for row in rows)
        if klass is Class.CLIP and not self.line.has_room(cost, caller, sum(held)):
            await self._wait_for_room(cost, sum(held), caller, deadline)
        self._admit(cost, sum(held), caller, deadline, loop.time())
        ticket = Ticket(len(rows), loop.create_future(), self._tracing.here)
        self._line_up(
            ticket,
            [
                Waiting(row, row.cost, klass, caller, deadline, now, (ticket, index), held[index])
                for index, row in enumerate(rows)
            ],
        )
        expiry = loop.call_at(deadline, self._expire, ticket)
        try:
            return await ticket.answer, ticket.queued_s or 0.0
        except asyncio.CancelledError:
            self._metrics.abandoned_total.inc()
            raise
        finally:
            # After a failure, a deadline or a caller's leaving, what is still queued is not worth device time.
            expiry.cancel()
            self._leave(ticket)
            # What it was refused with holds this frame, the frame would hold the ticket, and that the refusal: a ring,
            # whose pictures wait for a collection, of which there are few.
            del ticket

    def _line_up(self, ticket: Ticket, waiting: list[Waiting]) -> None:
        ticket.waiting = waiting
        for each in waiting:
            self.line.add(each)
        self._queue_rows.set(self.line.rows)
        self._changed.set()

    def _leave(self, ticket: Ticket) -> None:
        for waiting in ticket.waiting:
            self.line.leave(waiting)
        ticket.waiting.clear()  # they hold the ticket: another ring
        self._queue_rows.set(self.line.rows)
        self._freed.set()

    def knock(self, caller: str) -> None:
        """Raises QueueFull, ShareUsedUp or NotReady where not one more row would be let in now.

        Asked before a body is parsed or decoded: what will be refused should cost nothing.
        """
        self._let_in(1, 0, caller)

    async def _wait_for_room(self, cost: int, held: int, caller: str, deadline: float) -> None:
        """Until the line would take so many rows, the deadline has passed, or nobody is let in any more."""
        try:
            async with asyncio.timeout_at(deadline):
                while self._open and not self.line.has_room(cost, caller, held):
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            return  # who admits says so
        except asyncio.CancelledError:
            self._metrics.abandoned_total.inc()
            raise

    def _admit(self, cost: int, held: int, caller: str, deadline: float, now: float) -> None:
        if deadline <= now:
            self._metrics.expired_total.inc()
            raise DeadlinePassed("the deadline had passed before the work was queued")
        self._let_in(cost, held, caller)

    def _let_in(self, cost: int, held: int, caller: str) -> None:
        try:
            if not self._open:
                raise NotReady("the service takes no new work: it is stopping", retry_after_s=1.0)
            self.line.admit(cost, caller, self.rows_per_s, held)
        except Busy as error:
            self._metrics.shed_total.labels(type(error).__name__).inc()
            raise

    def _expire(self, ticket: Ticket) -> None:
        if not ticket.answer.done():
            self._metrics.expired_total.inc()
            ticket.answer.set_exception(DeadlinePassed("the deadline passed before the answer was there"))

    def take(self, now: float) -> list[Waiting]:
        """The next batch, within the engine's budget; late rows are answered and left out."""
        batch, late = self.line.take(now, self.engine.rows_within(LIVE_BATCH_S))
        for waiting in late:
            self._expire(waiting.owner[0])
        self._queue_rows.set(self.line.rows)
        self._freed.set()
        return batch

    def begin(self, batch: Sequence[Waiting], now: float) -> None:
        """Notes how long each row waited for the device, which took the batch at `now`."""
        for waiting in batch:
            ticket, index = waiting.owner
            waited_s = max(now - waiting.arrived, 0.0)  # the event loop's clock counts whole milliseconds
            if ticket.queued_s is None:  # the others wait for those of their own request
                ticket.queued_s = waited_s
            # One row names its request.
            self._queue_wait_seconds.observe(waited_s, None if index else ticket.exemplar)

    def adapt_cap(self, failed: Sequence[int], now: float) -> None:
        """Halves the cap where memory ran out, and regains it later; follows the engine's budget.

        Args:
            failed: rows of each run, of those of one batch, for which it did not suffice.
        """
        cap, role = self.line.cap, self.engine.network
        for rows in failed:
            self._metrics.oom_total.inc()
            cap.halve(rows, now)
        changed = cap.follow(self.engine.budget)
        if failed or cap.regain(now) or changed:
            level = logging.WARNING if cap.rows < cap.budget else logging.INFO
            log.log(level, "batches of %s have %d rows at most, of %d", self.engine.label, cap.rows, cap.budget)
            self._metrics.batch_cap_rows.labels(role).set(cap.rows)

    def deliver(self, batch: Sequence[Waiting], results: Sequence[Any], seconds: float) -> None:
        """Answers everyone in the batch. `results` holds an answer or an exception a row, in order."""
        role, rows = self.engine.network, sum(waiting.cost for waiting in batch)
        self._metrics.batch_rows.labels(role).observe(rows)
        tickets: list[Ticket] = [waiting.owner[0] for waiting in batch]
        self._metrics.batch_duration_seconds.labels(role).observe(seconds, tickets[0].exemplar)
        failed = sum(isinstance(result, BaseException) for result in results)
        self._rows_total.inc(len(results) - failed)
        self._tracing.batch(role, self.engine.label, rows, failed, (ticket.span for ticket in tickets), seconds)
        rate = self._lanes * rows / max(seconds, 1e-6)
        self.rows_per_s = rate if self.rows_per_s is None else 0.8 * self.rows_per_s + 0.2 * rate
        for waiting, result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                self._metrics.failed_rows_total.labels(role, type(result).__name__).inc()
            ticket, index = waiting.owner
            ticket.settle(index, result)

    def close(self) -> None:
        """Lets nobody else in; who waits is still served."""
        self._open = False
        self._freed.set()

    def refuse(self, rows: Sequence[Waiting]) -> None:
        """Answers with NotReady: these rows will not be computed, or nobody knows."""
        for waiting in rows:
            ticket, index = waiting.owner
            ticket.settle(index, NotReady("the device stopped before this was computed", retry_after_s=1.0))

    def refuse_everybody(self) -> None:
        """Answers all who still wait with NotReady."""
        self.refuse(self.line.empty())


def held_bytes(rows: Sequence[Row]) -> list[int]:
    """What each row of a request keeps in memory; what rows share counts with the last, which leaves the queue last."""
    if len(rows) == 1:
        return [rows[0].holds.nbytes]
    last = {id(row.holds): index for index, row in enumerate(rows)}
    return [row.holds.nbytes if last[id(row.holds)] == index else 0 for index, row in enumerate(rows)]


@dataclass(frozen=True)
class Ran:
    """What came of a batch: an answer or an exception a row; and the rows of each run that lacked memory."""

    answers: list[Any]
    out_of_memory: tuple[int, ...] = ()


@dataclass(frozen=True)
class Served(Ran):
    """The same, with those of the batch whom it answers, and the seconds that it took."""

    wanted: Sequence[Waiting] = ()
    seconds: float = 0.0


def run_wanted(device: Device, engine: Engine, waiting: Sequence[Waiting], prepared: Any = None) -> Served:
    """Runs a batch on the device's thread, but for those who left, or whose time passed, since it was formed.

    Raises:
        DeviceLost: nothing can be run any more.
    """
    started = time.perf_counter()
    wanted = [each for each in waiting if not each.owner[0].answer.done()]
    if not wanted:
        return Served([])
    if device.lost:  # this batch was handed over before that was known
        raise DeviceLost(f"{engine.label}: the batch before it lost the device")
    try:
        ran = run_batch(engine, [each.row for each in wanted], prepared if len(wanted) == len(waiting) else None)
    except DeviceLost:
        device.lost = True
        raise
    return Served(ran.answers, ran.out_of_memory, wanted, time.perf_counter() - started)


def run_batch(engine: Engine, rows: Sequence[Any], prepared: Any = None) -> Ran:
    """Runs rows on the device's thread. A batch that breaks is halved until only the row that breaks it fails.

    Raises:
        DeviceLost: nothing can be run any more.
    """
    try:
        answers = engine.run(prepared if prepared is not None else engine.prepare(rows))
        if len(answers) != len(rows):
            raise EngineFailed(f"{engine.label} gave {len(answers)} answers to {len(rows)} rows")
        return Ran(answers)
    except Exception as error:
        kind = fault_of(error)
        if kind is DeviceLost:
            raise DeviceLost(f"{engine.label}: {error!r}") from error
        failed = error if isinstance(error, ServiceError) else kind(f"{engine.label}: {error!r}")
        if len(rows) == 1:
            failed.__cause__ = error if failed is not error else None
    # Out of the except block: the traceback would keep the failed batch's arrays alive.
    lacking = (sum(row.cost for row in rows),) if kind is OutOfMemory else ()
    if lacking:
        free_memory()
    if len(rows) == 1:
        return Ran([failed], lacking)
    del failed, prepared
    middle = len(rows) // 2
    halves = [run_batch(engine, half) for half in (rows[:middle], rows[middle:])]
    return Ran(
        [answer for half in halves for answer in half.answers], sum((half.out_of_memory for half in halves), lacking)
    )
