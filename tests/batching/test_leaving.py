"""Callers who leave and deadlines that pass: whoever waits is answered, and nobody pays for another."""

from __future__ import annotations

import asyncio
import math

import pytest

from service.errors import DeadlinePassed, QueueFull

from .fake import Network, Queues, play, solo, until

# ---- Leaving


def test_a_caller_who_left_takes_no_room_in_the_batch() -> None:
    async def story(here: Queues, network: Network) -> None:
        occupier = await here.occupy()
        asked = [here.ask(n, caller=f"caller{n}") for n in range(1, 12)]
        await here.queued(11)
        leaving = asked[::2]
        for task in leaving:
            task.cancel()
        await here.queued(5)
        assert here.sample("queue_rows", network="lift") == 5
        network.gate.set()
        assert await asyncio.gather(*asked[1::2]) == [solo(n) for n in range(2, 12, 2)]
        assert network.runs == [[0], [2, 4, 6, 8, 10]]
        assert all(task.cancelled() for task in leaving)
        assert here.sample("abandoned_total") == len(leaving)
        await occupier

    play(story)


def test_the_room_of_a_caller_who_left_is_free_for_others() -> None:
    async def story(here: Queues, network: Network) -> None:
        await here.occupy()
        asked = here.ask(*range(1, 9))
        await here.queued(8)
        with pytest.raises(QueueFull):
            await here.ask(9, caller="b")
        asked.cancel()
        await here.queued(0)
        later = here.ask(*range(10, 18), caller="b")
        await here.queued(8)
        network.gate.set()
        assert await later == solo(*range(10, 18))
        assert not set(range(1, 9)) & set(network.computed)

    play(story, rows=8)


def test_one_who_leaves_during_the_run_does_not_cost_the_others() -> None:
    async def story(here: Queues, network: Network) -> None:
        await here.occupy()
        asked = [here.ask(n, caller=f"caller{n}") for n in range(1, 5)]
        await here.queued(4)
        network.gate.set()
        await until(lambda: len(network.runs) == 2 or all(task.done() for task in asked))
        asked[1].cancel()
        others = [task for n, task in enumerate(asked) if n != 1]
        assert await asyncio.gather(*others) == [solo(1), solo(3), solo(4)]
        for n in range(100):
            assert await here.ask(n) == solo(n)

    play(story)


def test_the_next_hundred_are_answered_after_one_left_mid_batch() -> None:
    async def story(here: Queues, network: Network) -> None:
        occupier = await here.occupy()  # it is in the batch that runs
        occupier.cancel()
        asked = [here.ask(n, caller=f"caller{n % 7}") for n in range(100)]
        await here.queued(100)
        network.gate.set()
        assert await asyncio.gather(*asked) == [solo(n) for n in range(100)]
        assert occupier.cancelled()

    play(story, budget=128, rows=128, share=1.0)


def test_a_split_request_whose_caller_left_runs_no_further() -> None:
    async def story(here: Queues, network: Network) -> None:
        network.gate.clear()
        asked = here.ask(*range(40))
        await until(lambda: len(network.runs) == 1)
        asked.cancel()
        await here.queued(0)
        network.gate.set()
        assert await here.ask(99) == solo(99)
        assert len(network.computed) == 8 + 1

    play(story, budget=8)


# ---- Deadlines


def test_a_deadline_is_answered_at_its_time_while_the_device_is_busy() -> None:
    async def story(here: Queues, network: Network) -> None:
        occupier = await here.occupy()
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(DeadlinePassed):
            await here.ask(1, 2, 3, seconds=0.05)
        assert 0.04 < loop.time() - began < 2
        assert not network.gate.is_set()
        network.gate.set()
        await occupier
        assert await here.ask(4) == solo(4)
        assert network.computed == [0, 4]
        assert here.sample("expired_total") == 1

    play(story)


def test_a_deadline_that_passes_during_the_run_is_answered_too() -> None:
    async def story(here: Queues, network: Network) -> None:
        network.gate.clear()
        with pytest.raises(DeadlinePassed):
            await here.ask(1, seconds=0.05)
        assert network.runs == [[1]]
        network.gate.set()
        assert await here.ask(2) == solo(2)

    play(story)


def test_a_deadline_of_the_past_is_refused_at_once() -> None:
    async def story(here: Queues, network: Network) -> None:
        with pytest.raises(DeadlinePassed):
            await here.ask(1, seconds=-1)
        assert network.runs == []
        assert here.sample("expired_total") == 1

    play(story)


def test_a_request_that_expires_costs_its_neighbours_nothing() -> None:
    async def story(here: Queues, network: Network) -> None:
        await here.occupy()
        late = here.ask(1, 2, caller="late", seconds=0.05)
        patient = here.ask(3, 4, caller="patient")
        with pytest.raises(DeadlinePassed):
            await late
        network.gate.set()
        assert await patient == solo(3, 4)
        assert network.runs == [[0], [3, 4]]

    play(story)


def test_a_deadline_without_end_is_allowed() -> None:
    async def story(here: Queues, network: Network) -> None:
        assert await here.ask(1, seconds=math.inf) == solo(1)

    play(story)
