"""Whose batch runs next on a device, and the ends: drained, closed, broken."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.batching import scheduler as scheduler_file
from service.batching.policy import Class
from service.batching.scheduler import Scheduler
from service.engines.device import Device
from service.errors import DeadlinePassed, EngineFailed, NotReady
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


# ---- The batch that is framed ahead


class Watched:
    """A framing that tells when, and on which thread, it frames."""

    def __init__(self, framing: Any) -> None:
        self._framing = framing
        self.framed: list[tuple[list[float], str]] = []

    def inputs(self, rows: Sequence[Number]) -> Any:
        self.framed.append(([row.value for row in rows], threading.current_thread().name))
        return self._framing.inputs(rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._framing, name)


def test_a_batch_that_is_light_to_frame_is_framed_by_who_forms_it() -> None:
    async def story() -> None:
        async with queues(budget=4) as (here, network):
            engine = here.batchers["lift"].engine
            watched = engine.framing = Watched(engine.framing)
            engine.light = True
            await here.occupy()
            tasks = [here.ask(n) for n in range(1, 6)]
            await until(lambda: len(watched.framed) == 2)
            network.gate.set()
            assert await asyncio.gather(*tasks) == [solo(n) for n in range(1, 6)]
            assert [values for values, _ in watched.framed] == [[0], [1, 2, 3, 4], [5]]
            assert {thread for _, thread in watched.framed} == {threading.current_thread().name}

    asyncio.run(story())


def test_a_light_batch_that_cannot_be_framed_is_halved_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with queues(budget=4) as (here, network):
            engine = here.batchers["lift"].engine
            engine.light = True
            real = engine.framing.inputs

            def inputs(rows: Sequence[Number]) -> Any:
                if any(row.value == 2 for row in rows):
                    raise ValueError("no such number")
                return real(rows)

            monkeypatch.setattr(engine.framing, "inputs", inputs)
            await here.occupy()
            tasks = [here.ask(n, caller=str(n)) for n in range(1, 5)]
            await asyncio.sleep(0.02)
            network.gate.set()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert [answers[n - 1] for n in (1, 3, 4)] == [solo(n) for n in (1, 3, 4)]
            assert isinstance(answers[1], EngineFailed)

    asyncio.run(story())


def test_a_full_batch_is_framed_while_another_runs() -> None:
    async def story() -> None:
        async with queues(budget=4) as (here, network):
            engine = here.batchers["lift"].engine
            watched = engine.framing = Watched(engine.framing)
            await here.occupy()
            asked = here.ask(1, 2, 3, 4, 5)
            await until(lambda: len(watched.framed) == 2)
            values, thread = watched.framed[-1]
            assert values == [1, 2, 3, 4]
            assert thread.startswith("framing")
            assert network.runs == [[0]]
            assert here.batchers["lift"].line.rows == 1
            network.gate.set()
            assert await asked == solo(1, 2, 3, 4, 5)
            assert [values for values, _ in watched.framed] == [[0], [1, 2, 3, 4], [5]]  # none of them twice
            assert network.runs == [[0], [1, 2, 3, 4], [5]]

    asyncio.run(story())


def test_part_of_a_batch_is_not_closed_early() -> None:
    async def story() -> None:
        async with queues(budget=4) as (here, network):
            await here.occupy()
            first = here.ask(1, 2)
            await here.queued(2)
            await asyncio.sleep(0.02)
            second = here.ask(3, caller="b")
            await here.queued(3)
            network.gate.set()
            await asyncio.gather(first, second)
            assert [sorted(run) for run in network.runs] == [[0], [1, 2, 3]]

    asyncio.run(story())


def test_who_left_or_expired_after_the_framing_is_not_computed() -> None:
    async def story() -> None:
        async with queues(budget=4) as (here, network):
            await here.occupy()
            leaving, staying = here.ask(1, caller="leaving"), here.ask(2, caller="staying")
            late = here.ask(3, 4, caller="late", seconds=0.1)
            await until(lambda: len(here.scheduler._taken) == 2)
            leaving.cancel()
            with pytest.raises(DeadlinePassed):
                await late
            network.gate.set()
            assert await staying == solo(2)
            assert network.computed == [0, 2]

    asyncio.run(story())


def test_nobody_left_of_a_framed_batch_is_no_run() -> None:
    async def story() -> None:
        async with queues(budget=1) as (here, network):
            occupier = await here.occupy()
            with pytest.raises(DeadlinePassed):
                await here.ask(1, seconds=0.05)
            network.gate.set()
            await occupier
            assert await here.ask(2) == solo(2)
            assert network.computed == [0, 2]

    asyncio.run(story())


def test_a_framed_batch_with_a_bad_row_fails_only_that() -> None:
    async def story() -> None:
        async with queues(budget=4) as (here, network):
            await here.occupy()
            network.poison = {2.0}
            asked = [here.ask(n, caller=str(n)) for n in range(1, 5)]
            await until(lambda: len(here.scheduler._taken) == 2)
            network.gate.set()
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(answers.pop(1), EngineFailed)
            assert answers == [solo(1), solo(3), solo(4)]

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


# ---- Ends


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


# ---- Faults of our own


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


def test_an_idle_device_keeps_no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
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
