"""Rows that break the batch they are in: only the bad row fails, and its cause is told."""

from __future__ import annotations

import asyncio
import math

import pytest

from service.batching.batcher import run_batch
from service.errors import EngineFailed, NotFinite

from .fake import Network, Number, Queues, engine_of, play, solo


@pytest.mark.parametrize("poisoned", range(8))
def test_a_failing_batch_is_halved_until_only_the_bad_row_fails(poisoned: int) -> None:
    async def story(here: Queues, network: Network) -> None:
        await here.occupy()
        asked = [here.ask(10 + n, caller=f"caller{n}") for n in range(8)]
        await here.queued(8)
        network.poison = {10.0 + poisoned}
        network.gate.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        failed = answers.pop(poisoned)
        assert isinstance(failed, EngineFailed)
        assert "poison" in str(failed)
        assert answers == [solo(10 + n) for n in range(8) if n != poisoned]
        assert len(network.runs) - 1 <= 1 + 2 * math.log2(8)
        assert here.sample("failed_rows_total", network="lift", reason="EngineFailed") == 1
        assert here.sample("rows_total", network="lift") == 8  # the occupier's, and seven of eight
        assert await here.ask(1) == solo(1)

    play(story)


def test_a_row_that_is_not_finite_fails_alone_and_costs_no_second_run() -> None:
    async def story(here: Queues, network: Network) -> None:
        await here.occupy()
        asked = [here.ask(10 + n, caller=f"caller{n}") for n in range(5)]
        await here.queued(5)
        network.hollow = {13.0}
        network.gate.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(answers.pop(3), NotFinite)
        assert answers == [solo(10), solo(11), solo(12), solo(14)]
        assert len(network.runs) == 2
        assert here.sample("failed_rows_total", network="lift", reason="NotFinite") == 1

    play(story)


def test_a_failed_row_is_the_answer_to_its_whole_request_and_the_rest_of_it_is_dropped() -> None:
    async def story(here: Queues, network: Network) -> None:
        network.poison = {3.0}
        with pytest.raises(EngineFailed):
            await here.ask(*range(64), seconds=5)
        assert len(set(network.computed)) <= 16  # the batch that failed, and at most the one framed meanwhile
        assert await here.ask(1) == solo(1)

    play(story, budget=8)


def test_too_few_answers_are_a_failure_and_the_next_request_works() -> None:
    async def story(here: Queues, network: Network) -> None:
        network.forgets = 1
        asked = [here.ask(n, caller=f"caller{n}") for n in range(4)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in answers] == [EngineFailed] * 4
        network.forgets = 0
        assert await here.ask(*range(4)) == solo(*range(4))

    play(story)


def test_an_unframeable_row_fails_alone() -> None:
    class Pixelless:
        cost = 1

        @property
        def value(self) -> float:
            raise OSError("no pixels")

    answers = run_batch(engine_of(Network()), [Number(1), Pixelless(), Number(3)]).answers
    assert answers[::2] == solo(1, 3)
    assert isinstance(answers[1], EngineFailed)
    assert "no pixels" in str(answers[1])


def test_a_framing_that_loses_an_answer_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(Network())
    monkeypatch.setattr(engine.framing, "answers", lambda outputs, rows: [1.0] * (len(rows) - 1))
    answers = run_batch(engine, [Number(1), Number(2)]).answers
    assert [type(answer) for answer in answers] == [EngineFailed] * 2


def test_the_cause_of_a_failure_is_kept() -> None:
    network = Network()
    network.poison = {1.0}
    (answer,) = run_batch(engine_of(network), [Number(1)]).answers
    assert isinstance(answer.__cause__, ValueError)
