"""Thousands who leave, break or come together: no good one is lost, and nothing of the others is left."""

from __future__ import annotations

import asyncio
import gc

from service.errors import EngineFailed

from .fake import Number, queues, solo, until

MANY, GOOD = 2000, 400


class Watched(Number):
    """A row that can be told from others' when the objects of the process are counted."""


def left() -> int:
    gc.collect()
    return sum(type(each) is Watched for each in gc.get_objects())


def test_two_thousand_who_leave_cost_the_good_ones_nothing_and_leave_nothing_behind() -> None:
    async def story() -> None:
        async with queues(budget=16, rows=10_000, share=1.0) as (here, network):
            occupier = await here.occupy()
            leaving = [here.ask(Watched(-1.0 - n), caller=f"leaver{n % 50}") for n in range(MANY)]
            good = [here.ask(n, caller=f"good{n % 7}") for n in range(GOOD)]
            await until(lambda: here.batchers["lift"].line.rows >= MANY + GOOD - 16)
            for number, task in enumerate(leaving):
                task.cancel()
                if number == MANY // 2:
                    network.gate.set()  # the device runs again while they still go
                    await asyncio.sleep(0)
            assert await asyncio.gather(*good) == [solo(n) for n in range(GOOD)]
            await occupier
            ended = await asyncio.gather(*leaving, return_exceptions=True)
            gone = sum(isinstance(each, asyncio.CancelledError) for each in ended)
            assert gone >= MANY // 2
            assert here.sample("abandoned_total") == gone
            assert here.sample("queue_rows", network="lift") == 0
            computed = [value for value in network.computed if value < 0]
            assert len(computed) <= 32  # the batch that ran, and the one that was framed
            del task  # the test's own hold on the last of them
            leaving.clear()
            ended.clear()
            assert await here.ask(5) == solo(5)
            assert left() == 0

    asyncio.run(story())


def test_two_thousand_poisoned_ones_among_good_ones_fail_alone_and_leave_nothing_behind() -> None:
    async def story() -> None:
        async with queues(budget=16, rows=10_000, share=1.0) as (here, network):
            network.poison = {-1.0 - n for n in range(MANY)}
            poisoned = [here.ask(Watched(-1.0 - n), caller=f"a{n % 50}") for n in range(MANY)]
            good = [here.ask(n, caller=f"good{n % 7}") for n in range(GOOD)]
            assert await asyncio.gather(*good) == [solo(n) for n in range(GOOD)]
            failed = await asyncio.gather(*poisoned, return_exceptions=True)
            assert {type(each) for each in failed} == {EngineFailed}
            assert here.sample("failed_rows_total", network="lift", reason="EngineFailed") == MANY
            assert here.sample("rows_total", network="lift") == GOOD
            assert here.sample("queue_rows", network="lift") == 0
            assert here.lost == []
            poisoned.clear()
            failed.clear()
            assert await here.ask(5) == solo(5)
            assert left() == 0

    asyncio.run(story())


def test_a_thousand_callers_of_all_kinds_at_once_each_get_their_own() -> None:
    async def story() -> None:
        async with queues(budget=16, rows=10_000, share=1.0) as (here, network):
            network.poison = {float(n) for n in range(0, 1000, 13)}
            network.hollow = {float(n) for n in range(1, 1000, 17)}
            asked = {n: here.ask(n, caller=str(n % 20)) for n in range(1000)}
            for n in range(2, 1000, 11):
                asked[n].cancel()
            answers = await asyncio.gather(*asked.values(), return_exceptions=True)
            for n, answer in zip(asked, answers, strict=True):
                if n in network.poison or n in network.hollow or n % 11 == 2:
                    assert isinstance(answer, BaseException)
                else:
                    assert answer == solo(n)

    asyncio.run(story())
