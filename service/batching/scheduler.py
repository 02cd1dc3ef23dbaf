"""Whose batch runs next on a device: one asyncio task a device, over the batchers whose engines share it."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from service.engines.device import Device, DeviceLost
from service.engines.engine import Engine, Prepared
from service.errors import EngineFailed
from service.metrics import Metrics
from service.tracing import OFF, Tracing

from .batcher import Batcher, run_batch
from .policy import Limits, Waiting

log = logging.getLogger(__name__)

RESTART_S = 0.1  # between a fault of the loop and its next beginning
# A batch is budgeted in tens of milliseconds: one that runs so long never ends.
STUCK_S = 120.0

Batch = tuple[Batcher, list[Waiting], Prepared | None]


class Scheduler:
    """Keeps one device busy.

    An idle device takes what is queued at once; while it works, arrivals gather. Only a batch that is full already is
    framed while another runs, and only where it is the most urgent: framing a part of one early would close it to those
    who are about to come, and a queue that is never empty would be served for ever.
    """

    def __init__(
        self,
        device: Device,
        metrics: Metrics,
        queue_rows: int,
        share: float,
        window_s: float = 0.0,
        lost: Callable[[str], None] = log.critical,
        tracing: Tracing = OFF,
        queue_bytes: int = Limits.bytes,
    ) -> None:
        """lost: hears, once, why the device can no longer be used; everybody has been answered then."""
        self.device = device
        self._tell_lost, self._lost, self._tracing = lost, False, tracing
        self.batchers: list[Batcher] = []
        # Each is alive as long as a pipeline over it that somebody works with; then it and its engine go by themselves.
        self._retired: weakref.WeakSet[Batcher] = weakref.WeakSet()
        self._metrics, self._rows, self._share, self._window_s = metrics, queue_rows, share, window_s
        self._bytes = queue_bytes
        self._changed = asyncio.Event()
        self._framing = ThreadPoolExecutor(1, thread_name_prefix=f"framing-{device.name}")
        self._task: asyncio.Task[None] | None = None
        self._ahead: Batch | None = None  # taken out of its line, framed or being framed, not yet running
        self._running = False

    def add(self, engine: Engine) -> Batcher:
        """Gives the engine a queue on this device."""
        limits = Limits(self._rows, self._share, engine.budget, self._bytes)
        batcher = Batcher(engine, limits, self._metrics, self._changed, self._tracing)
        self.batchers.append(batcher)
        return batcher

    def retire(self, batcher: Batcher) -> None:
        """Lets an engine go: those who began with it are still served, and with the last of them it is gone."""
        self.batchers.remove(batcher)
        self._retired.add(batcher)

    @property
    def retired(self) -> list[str]:
        """The labels of engines that were let go and that somebody still works with."""
        return sorted(batcher.engine.label for batcher in self._retired)

    def _all(self) -> Iterator[Batcher]:
        yield from self.batchers
        yield from self._retired

    def start(self) -> None:
        self._task = asyncio.create_task(self._supervise(), name=f"scheduler-{self.device.name}")

    async def _supervise(self) -> None:
        """The loop below must never end by itself: if a fault of ours ends it, it is logged and begun again."""
        while True:
            try:
                await self._work()
            except Exception:
                log.exception("the scheduler of %s broke and starts again", self.device.name)
                await asyncio.sleep(RESTART_S)

    async def _work(self) -> None:
        try:
            while True:
                await self._serve(*(self._ahead or await self._next()))
        finally:
            if self._ahead:
                batcher, waiting, _ = self._ahead
                batcher.refuse(waiting)
                self._ahead = None

    async def _serve(self, batcher: Batcher, waiting: list[Waiting], prepared: Prepared | None) -> None:
        """Runs one batch, and gets the next ready meanwhile."""
        self._ahead = None
        if self._lost:
            batcher.refuse(waiting)
            return
        # While the batch was framed, some of its callers may have left, or their time have passed.
        wanted = [each for each in waiting if not each.owner[0].answer.done()]
        if not wanted:
            return
        self._running = True
        running = asyncio.create_task(self._run(batcher, wanted, prepared if wanted == waiting else None))
        try:
            await self._prepare_ahead(running)
            await running
        except BaseException:  # the end, or a fault of ours; a task that has not begun could not answer by itself
            running.cancel()
            batcher.refuse(wanted)
            raise
        finally:
            self._running = False

    async def _next(self) -> Batch:
        """Waits for the most urgent batch."""
        while True:
            if self._window_s and any(b.line.rows for b in self._all()):
                await asyncio.sleep(self._window_s)  # for those who prefer fuller batches to early answers
            if batch := self._take():
                return batch
            self._changed.clear()
            await self._changed.wait()

    def _take(self, *, full: bool = False) -> Batch | None:
        """The most urgent batch; with `full`, only if its queue fills one."""
        now = asyncio.get_running_loop().time()
        for batcher in sorted(self._all(), key=lambda each: -each.line.urgency(now)):
            if full and batcher.line.rows < batcher.line.cap.rows:
                return None
            if batch := batcher.take(now):
                return batcher, batch, None
        return None

    async def _prepare_ahead(self, running: asyncio.Task[None]) -> None:
        """While a batch runs: frames the next as soon as some queue holds a full one."""
        loop = asyncio.get_running_loop()
        while not running.done():
            if batch := self._take(full=True):
                self._ahead = batch
                batcher, waiting, _ = batch
                rows = [each.row for each in waiting]
                with suppress(Exception):  # what cannot be framed breaks again where it is run, and is halved there
                    prepared = await loop.run_in_executor(self._framing, batcher.engine.prepare, rows)
                    self._ahead = batcher, waiting, prepared
                return
            self._changed.clear()
            change = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait([running, change], return_when=asyncio.FIRST_COMPLETED)
            finally:
                change.cancel()

    async def _run(self, batcher: Batcher, waiting: list[Waiting], prepared: Prepared | None) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        batcher.begin(waiting, started)
        rows = [each.row for each in waiting]
        results: Sequence[object]
        try:
            async with asyncio.timeout(STUCK_S):
                ran = await self.device.run(run_batch, batcher.engine, rows, prepared)
            results = ran.answers
            batcher.adapt_cap(ran.out_of_memory, loop.time())
        except (DeviceLost, TimeoutError) as error:
            batcher.refuse(waiting)
            self._lose(str(error) or f"a batch of {batcher.engine.label} had not ended after {STUCK_S:g} s")
            return
        except Exception as error:
            log.exception("a batch of %s broke", batcher.engine.label)
            results = [EngineFailed(repr(error)) for _ in rows]
        batcher.deliver(waiting, results, loop.time() - started)

    def _lose(self, reason: str) -> None:
        """The device is gone: whoever waits or comes is refused, and the service hears of it."""
        self._lost = True
        for batcher in self._all():
            batcher.close()
            batcher.refuse_everybody()
        self._tell_lost(f"the device {self.device.name} is lost: {reason}")

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return self._running or self._ahead is not None or any(b.line.rows for b in self._all())

    async def drain(self, grace_s: float) -> None:
        """Lets nobody else in and serves who waits, for at most `grace_s`; the rest is refused."""
        for batcher in self._all():
            batcher.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        while self.busy and loop.time() < end:
            await asyncio.sleep(0.02)
        for batcher in self._all():
            batcher.refuse_everybody()

    async def close(self) -> None:
        for batcher in self._all():
            batcher.close()
            batcher.refuse_everybody()
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._framing.shutdown(wait=False, cancel_futures=True)
        if self._lost:
            self.device.close(wait=False)
        else:
            await asyncio.to_thread(self.device.close)  # waits for a running batch, without the loop
