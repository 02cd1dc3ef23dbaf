"""When a batch begins, in which lane it runs, and whose is next on a device."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry

from service.batching.policy import Class
from service.batching.scheduler import Scheduler
from service.engines.device import Device
from service.errors import NotReady
from service.metrics import Metrics

from .fake import PATIENCE_S, Network, Number, engine_of, queues, solo, until

# ---- When a batch begins


def test_a_lone_caller_is_served_at_once() -> None:
    async def story() -> None:
        async with queues() as (here, network):
            loop = asyncio.get_running_loop()
            began = loop.time()
            for n in range(20):
                assert await here.ask(n) == solo(n)
            assert loop.time() - began < 5
            assert network.runs == [[n] for n in range(20)]

    asyncio.run(story())


def test_arrivals_gather_while_the_device_works() -> None:
    async def story() -> None:
        async with queues() as (here, network):
            await here.occupy()
            asked = []
            for n in range(1, 11):
                asked.append(here.ask(n, caller=f"caller{n % 3}"))
                await asyncio.sleep(0.002)
            await here.queued(10)
            assert network.runs == [[0]]
            network.gate.set()
            await asyncio.gather(*asked)
            assert [len(run) for run in network.runs] == [1, 10]

    asyncio.run(story())


def test_many_callers_at_once_make_few_batches() -> None:
    async def story() -> None:
        async with queues(budget=16) as (here, network):
            answers = await asyncio.gather(*(here.ask(n, caller=str(n)) for n in range(64)))
            assert answers == [solo(n) for n in range(64)]
            assert len(network.runs) <= 8

    asyncio.run(story())


def test_a_window_gathers_those_who_come_close_together() -> None:
    async def story() -> None:
        network = Network()
        scheduler = Scheduler(Device("cpu"), Metrics(CollectorRegistry()), 64, 0.5, window_s=0.1)
        batcher = scheduler.add(engine_of(network))
        scheduler.start()
        deadline = asyncio.get_running_loop().time() + PATIENCE_S

        async def ask(n: int) -> list[Any]:
            await asyncio.sleep(0.01 * n)
            answers, _ = await batcher.submit([Number(n)], caller=str(n), klass=Class.PHOTO, deadline=deadline)
            return answers

        assert await asyncio.gather(*(ask(n) for n in range(4))) == [solo(n) for n in range(4)]
        assert network.runs == [[0, 1, 2, 3]]
        await scheduler.close()

    asyncio.run(story())


# ---- Lanes


def test_each_lane_runs_a_batch_and_a_free_one_takes_a_lone_caller_at_once() -> None:
    async def story() -> None:
        async with queues(budget=4, lanes=2) as (here, network):
            first = await here.occupy()
            second = here.ask(1, caller="b")
            await until(lambda: len(network.runs) == 2)
            third = here.ask(2, caller="c")
            await here.queued(1)  # both lanes are taken
            network.gate.set()
            assert [await first, await second, await third] == [solo(0), solo(1), solo(2)]
            assert network.runs == [[0], [1], [2]]

    asyncio.run(story())


def test_one_full_batch_is_handed_over_ahead_of_the_lanes_and_the_rest_waits_in_line() -> None:
    async def story() -> None:
        async with queues(budget=2, lanes=2) as (here, network):
            running = [await here.occupy(), here.ask(1, caller="b")]
            await until(lambda: len(network.runs) == 2)
            waiting = here.ask(2, 3, 4, 5, 6, caller="c")
            await here.queued(3)
            assert len(here.scheduler._taken) == 3
            network.gate.set()
            assert await waiting == solo(2, 3, 4, 5, 6)
            await asyncio.gather(*running)
            assert sorted(network.computed) == [0, 1, 2, 3, 4, 5, 6]

    asyncio.run(story())


def test_a_batch_that_was_handed_over_does_not_run_on_a_device_that_is_lost() -> None:
    async def story() -> None:
        async with queues(budget=2) as (here, network):
            occupier, ahead = await here.occupy(), here.ask(1, 2)
            await until(lambda: len(here.scheduler._taken) == 2)
            network.sticky = RuntimeError("CUDA error: device-side assert triggered")
            network.gate.set()
            answers = await asyncio.gather(occupier, ahead, return_exceptions=True)
            assert [type(answer) for answer in answers] == [NotReady] * 2
            assert network.runs == [[0]]
            assert len(here.lost) == 1

    asyncio.run(story())


# ---- Whose turn the device is


def test_networks_that_share_a_device_take_it_in_turns_of_urgency() -> None:
    async def story() -> None:
        async with queues({"person": 4, "pose": 4, "lift": 4}) as (here, person):
            await here.occupy("person")
            order: list[str] = []

            async def ask(role: str, klass: Class) -> None:
                await here.ask(1, role=role, klass=klass)
                order.append(role)

            turns = (("person", Class.CLIP), ("pose", Class.PHOTO), ("lift", Class.LIVE))
            asked = [asyncio.create_task(ask(role, klass)) for role, klass in turns]
            for role, _ in turns:
                await here.queued(1, role)
            person.gate.set()
            await asyncio.gather(*asked)
            assert order == ["lift", "pose", "person"]

    asyncio.run(story())


def test_a_queue_that_is_always_full_does_not_starve_one_that_never_is() -> None:
    async def story() -> None:
        async with queues({"person": 1, "lift": 32}) as (here, person):
            await here.occupy("person")
            clip = [here.ask(n, role="person", caller="clip", klass=Class.CLIP) for n in range(1, 41)]
            live = here.ask(7, role="lift", caller="live", klass=Class.LIVE)
            await here.queued(1, "lift")
            person.gate.set()
            assert await live == solo(7)
            assert len(person.runs) <= 4  # what ran, what was framed already, and a little for the answer's way back
            await asyncio.gather(*clip)

    asyncio.run(story())


def test_a_live_row_overtakes_a_clip_that_fills_the_queue() -> None:
    async def story() -> None:
        async with queues(budget=2, rows=100) as (here, network):
            await here.occupy()
            clip = here.ask(*range(1, 51), caller="clip", klass=Class.CLIP)
            await asyncio.sleep(0.02)
            live = here.ask(99, caller="live", klass=Class.LIVE)
            await asyncio.sleep(0.1)
            network.gate.set()
            assert await live == solo(99)
            await clip
            assert network.computed.index(99) <= 4

    asyncio.run(story())


# ---- Between batches


def test_an_idle_device_keeps_no_pictures() -> None:
    """The last batch must not live until the next one comes: its pictures are large, and not ours to keep."""
    import gc
    import weakref

    class Picture(Number):
        pass

    async def story() -> None:
        async with queues() as (here, _):
            picture = Picture(1)
            kept = weakref.ref(picture)
            await here.ask(picture)
            del picture
            await asyncio.sleep(0.02)
            gc.collect()
            assert kept() is None

    asyncio.run(story())
