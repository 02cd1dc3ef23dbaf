"""Faults of our own in the scheduler, a queue or a device's thread: callers are answered, and it goes on."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from service.batching import scheduler as scheduler_file
from service.errors import DeadlinePassed, EngineFailed

from .fake import queues, solo


def test_a_scheduler_whose_loop_breaks_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scheduler_file, "RESTART_S", 0.001)

    async def story() -> None:
        async with queues() as (here, _):
            batcher = here.batchers["lift"]
            take, calls = batcher.take, 0

            def breaks_once(now: float) -> Any:
                nonlocal calls
                calls += 1
                if calls == 1:
                    raise RuntimeError("a fault of ours")
                return take(now)

            monkeypatch.setattr(batcher, "take", breaks_once)
            assert await here.ask(1) == solo(1)
            assert await here.ask(2) == solo(2)
            assert "a fault of ours" in caplog.text

    with caplog.at_level(logging.ERROR):
        asyncio.run(story())


def test_a_fault_while_a_batch_runs_answers_its_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_file, "RESTART_S", 0.001)

    async def story() -> None:
        async with queues() as (here, _):
            batcher = here.batchers["lift"]
            begin = batcher.begin

            def breaks(*arguments: Any) -> None:
                monkeypatch.setattr(batcher, "begin", begin)
                raise RuntimeError("a fault of ours")

            monkeypatch.setattr(batcher, "begin", breaks)
            with pytest.raises(EngineFailed):
                await asyncio.wait_for(here.ask(1), 5)
            assert await here.ask(2) == solo(2)

    asyncio.run(story())


def test_a_fault_that_stays_leaves_the_loop_free_and_callers_their_deadlines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        async with queues() as (here, _):

            def breaks(now: float) -> Any:
                raise RuntimeError("a fault of ours")

            monkeypatch.setattr(here.batchers["lift"], "take", breaks)
            with pytest.raises(DeadlinePassed):
                await asyncio.wait_for(here.ask(1, seconds=0.1), 5)
            assert here.sample("queue_rows", network="lift") == 0

    asyncio.run(story())


def test_an_engine_that_breaks_outside_its_rows_fails_its_batch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with queues() as (here, _):
            device = here.scheduler.device
            run = device.run

            async def breaks(*arguments: Any) -> Any:
                monkeypatch.setattr(device, "run", run)
                raise OSError("the device's thread is gone")

            monkeypatch.setattr(device, "run", breaks)
            with pytest.raises(EngineFailed, match="gone"):
                await here.ask(1)
            assert await here.ask(2) == solo(2)

    asyncio.run(story())
