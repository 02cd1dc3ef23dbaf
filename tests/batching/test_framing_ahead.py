"""The batch that is framed while another runs: which one, on which thread, and who is dropped from it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from service.batching.policy import Class
from service.errors import DeadlinePassed, EngineFailed

from .fake import Number, Queues, queues, solo, until


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


def light(here: Queues) -> Watched:
    """The lifter's framing, light and watched from now on."""
    engine = here.batchers["lift"].engine
    watched = engine.framing = Watched(engine.framing)
    engine.light = True
    return watched


def test_a_batch_that_is_light_to_frame_is_framed_by_who_forms_it() -> None:
    async def story() -> None:
        async with queues(budget=4) as (here, network):
            watched = light(here)
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


def test_a_batch_that_live_rows_lead_is_framed_when_the_device_begins_with_it() -> None:
    async def story() -> None:
        async with queues(budget=4) as (here, network):
            watched = light(here)
            await here.occupy()
            asked = here.ask(1, 2, 3, 4, klass=Class.LIVE)
            await here.queued(4)
            await asyncio.sleep(0.02)
            assert [values for values, _ in watched.framed] == [[0]]
            network.gate.set()
            assert await asked == solo(1, 2, 3, 4)
            assert [values for values, _ in watched.framed] == [[0], [1, 2, 3, 4]]

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
