"""A scheduler's ends: drained or closed, it answers everybody."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from service.batching.policy import Class
from service.batching.scheduler import Scheduler
from service.engines.device import Device
from service.errors import NotReady
from service.metrics import Metrics

from .fake import PATIENCE_S, Network, Number, engine_of, queues, solo, until


def test_draining_finishes_what_was_admitted_and_lets_nobody_in() -> None:
    async def story() -> None:
        async with queues(budget=4) as (here, network):
            await here.occupy()
            inside = here.ask(*range(1, 20))
            await until(lambda: here.batchers["lift"].line.rows == 15)
            draining = asyncio.create_task(here.scheduler.drain(PATIENCE_S))
            await asyncio.sleep(0.03)
            with pytest.raises(NotReady):
                await here.ask(99)
            assert not draining.done()
            network.gate.set()
            await draining
            assert await inside == solo(*range(1, 20))
            assert not here.scheduler.busy

    asyncio.run(story())


def test_draining_an_idle_device_is_over_at_once() -> None:
    async def story() -> None:
        async with queues() as (here, _):
            await asyncio.wait_for(here.scheduler.drain(60.0), 2.0)
            with pytest.raises(NotReady):
                await here.ask(1)

    asyncio.run(story())


def test_draining_refuses_who_still_waits_when_the_grace_is_over() -> None:
    async def story() -> None:
        async with queues() as (here, network):
            running = await here.occupy()
            waiting = here.ask(1, 2)
            await here.queued(2)
            await here.scheduler.drain(0.05)
            with pytest.raises(NotReady):
                await waiting
            assert here.sample("queue_rows", network="lift") == 0
            network.gate.set()
            assert await running == solo(0)  # it was on the device: it is answered
            assert network.computed == [0]

    asyncio.run(story())


def test_closing_answers_everybody() -> None:
    async def story() -> None:
        async with queues(budget=4) as (here, network):
            running = await here.occupy()
            framed = here.ask(1, 2, 3, 4)
            await until(lambda: len(here.scheduler._taken) == 2)
            waiting = here.ask(5, 6, caller="b")
            await here.queued(2)
            closing = asyncio.create_task(here.scheduler.close())
            answers = await asyncio.wait_for(asyncio.gather(running, framed, waiting, return_exceptions=True), 5)
            assert [type(answer) for answer in answers] == [NotReady] * 3
            assert not closing.done()  # the device's thread still works; the loop does not wait for it
            network.gate.set()
            await closing
            with pytest.raises(NotReady):
                await here.ask(7)
            assert here.sample("queue_rows", network="lift") == 0
            assert network.computed == [0]

    asyncio.run(story())


def test_closing_twice_or_before_the_start_is_harmless() -> None:
    async def story() -> None:
        scheduler = Scheduler(Device("cpu"), Metrics(CollectorRegistry()), 8, 0.5)
        batcher = scheduler.add(engine_of(Network()))
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        early = asyncio.create_task(batcher.submit([Number(1)], caller="a", klass=Class.PHOTO, deadline=deadline))
        await asyncio.sleep(0.01)
        await scheduler.close()
        with pytest.raises(NotReady):
            await early
        await scheduler.close()

    asyncio.run(story())
