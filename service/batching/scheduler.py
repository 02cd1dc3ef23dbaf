"""Whose batch runs next on a device: one asyncio task a lane of it, over the batchers whose engines share it."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from service.engines.device import Device, DeviceLost
from service.engines.engine import Engine, Prepared
from service.errors import EngineFailed
from service.metrics import Metrics
from service.tracing import OFF, Tracing

from .batcher import Batcher, run_wanted
from .policy import Class, Limits, Waiting

log = logging.getLogger(__name__)

RESTART_S = 0.1  # between a fault of the loop and its next beginning
# A batch is budgeted in tens of milliseconds: one that runs so long never ends.
STUCK_S = 120.0

Batch = tuple[Batcher, list[Waiting]]


class Scheduler:
    """Keeps one device busy.

    An idle device takes what is queued at once; while it works, arrivals gather. Only a batch that is full already is
    framed while others run on all lanes, and then handed to the device, which begins with it when a lane is free: it
    need not wait for the event loop, which may be busy with other callers. And only where it is the most urgent: taking
    a part of one early would close it to those who are about to come. Nor one that live rows lead: until it is framed,
    the newest frames of their streams come into it.
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
        self._tasks: list[asyncio.Task[None]] = []
        self._taken: list[Batch] = []  # out of their lines and not answered yet: a lane each, and one ahead

    def add(self, engine: Engine) -> Batcher:
        """Gives the engine a queue on this device."""
        limits = Limits(self._rows, self._share, engine.budget, self._bytes)
        lanes = self.device.lanes.count
        batcher = Batcher(engine, limits, self._metrics, self._changed, self._tracing, lanes)
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

    def _all(self) -> Sequence[Batcher]:
        return [*self.batchers, *self._retired] if self._retired else self.batchers

    def start(self) -> None:
        for number in range(self.device.lanes.count + 1):
            name = f"scheduler-{self.device.name}-{number}"
            self._tasks.append(asyncio.create_task(self._supervise(), name=name))

    async def _supervise(self) -> None:
        """The loop below must never end by itself: if a fault of ours ends it, it is logged and begun again."""
        while True:
            try:
                await self._work()
            except Exception:
                log.exception("the scheduler of %s broke and starts again", self.device.name)
                await asyncio.sleep(RESTART_S)

    async def _work(self) -> None:
        while True:
            # Kept by nobody here, so that an idle device holds no pictures.
            await self._serve(await self._next())

    async def _next(self) -> Batch:
        """Waits for the most urgent batch; while all lanes are taken, for one that is full."""
        while True:
            if self._window_s and any(b.line.rows for b in self._all()):
                await asyncio.sleep(self._window_s)  # for those who prefer fuller batches to early answers
            if batch := self._take(full=len(self._taken) >= self.device.lanes.count):
                self._taken.append(batch)
                return batch
            self._changed.clear()
            await self._changed.wait()

    def _take(self, *, full: bool) -> Batch | None:
        """The most urgent batch; with `full`, only if its queue fills one."""

        now = asyncio.get_running_loop().time()
        waited_for = [batcher for batcher in self._all() if batcher.line.rows]
        for batcher in sorted(waited_for, key=lambda each: -each.line.urgency(now)):
            line = batcher.line
            if full and (line.rows < line.cap.rows or line.leads(now) is Class.LIVE):
                return None
            if batch := batcher.take(now):
                return batcher, batch
        return None

    async def _serve(self, batch: Batch) -> None:
        """Runs one batch and answers everyone in it."""
        batcher, waiting = batch
        ahead = len(self._taken) > self.device.lanes.count
        try:
            prepared = await self._framed(batcher, waiting, ahead)
            async with asyncio.timeout(STUCK_S):
                served = await self.device.run(run_wanted, self.device, batcher.engine, waiting, prepared)
            now = asyncio.get_running_loop().time()
            batcher.adapt_cap(served.out_of_memory, now)
            if served.wanted:
                batcher.begin(served.wanted, now - served.seconds)
                batcher.deliver(served.wanted, served.answers, served.seconds)
        except (DeviceLost, TimeoutError) as error:
            self._lose(str(error) or f"a batch of {batcher.engine.label} had not ended after {STUCK_S:g} s")
        except Exception as error:
            log.exception("a batch of %s broke", batcher.engine.label)
            batcher.deliver(waiting, [EngineFailed(repr(error)) for _ in waiting], 0.0)
        except BaseException:  # the end
            batcher.refuse(waiting)
            raise
        finally:
            self._taken.remove(batch)

    async def _framed(self, batcher: Batcher, waiting: list[Waiting], ahead: bool) -> Prepared | None:
        """The batch framed: at once where that is light, beside those that run if it is `ahead` of the device, and
        else not yet."""
        rows, engine = [each.row for each in waiting], batcher.engine
        with suppress(Exception):  # what cannot be framed breaks again where it is run, and is halved there
            if engine.light:
                return engine.prepare(rows)
            if ahead:
                return await asyncio.get_running_loop().run_in_executor(self._framing, engine.prepare, rows)
        return None

    def _lose(self, reason: str) -> None:
        """The device is gone: whoever waits or comes is refused, and the service hears of it."""
        if self._lost:
            return
        self._lost = True
        for batcher, waiting in self._taken:
            batcher.refuse(waiting)
        for batcher in self._all():
            batcher.close()
            batcher.refuse_everybody()
        self._tell_lost(f"the device {self.device.name} is lost: {reason}")

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self._taken) or any(b.line.rows for b in self._all())

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
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._framing.shutdown(wait=False, cancel_futures=True)
        if self._lost:
            self.device.close(wait=False)
        else:
            await asyncio.to_thread(self.device.close)  # waits for a running batch, without the loop
