"""The queue before one engine: whoever waits is answered, and nobody pays for another."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.batching.batcher import run_batch
from service.batching.policy import Class
from service.errors import DeadlinePassed, EngineFailed, NotFinite, NotReady, QueueFull, ShareUsedUp
from service.metrics import exemplar, exemplar_of

from .fake import Network, Number, Queues, engine_of, queues, solo, until

Story = Callable[[Queues, Network], Awaitable[None]]


def play(story: Story, **options: Any) -> None:
    """Runs a story on fresh queues; whatever happened in it, nothing must still be counted as waiting."""

    async def run() -> None:
        async with queues(**options) as (here, network):
            await story(here, network)
            await until(lambda: here.sample("queue_rows", network="lift") == 0)
            assert here.batchers["lift"].line.rows == 0

    asyncio.run(run())


# ---- Sharing a batch


def test_rows_of_different_callers_share_a_batch() -> None:
    async def story(here: Queues, network: Network) -> None:
        occupier = await here.occupy()
        asked = [here.ask(n, caller=f"caller{n}") for n in range(1, 7)]
        await here.queued(6)
        network.gate.set()
        assert await asyncio.gather(*asked) == [solo(n) for n in range(1, 7)]
        await occupier
        assert network.runs == [[0], [1, 2, 3, 4, 5, 6]]

    play(story)


def test_an_answer_does_not_depend_on_who_shared_the_batch() -> None:
    async def story(here: Queues, network: Network) -> None:
        alone = [await here.ask(n) for n in range(20)]
        together = await asyncio.gather(*(here.ask(n, caller=str(n % 3)) for n in range(20)))
        assert together == alone

    play(story)


def test_a_request_larger_than_the_budget_is_split_and_rejoined_in_order() -> None:
    async def story(here: Queues, network: Network) -> None:
        assert await here.ask(*range(30)) == solo(*range(30))
        assert [len(run) for run in network.runs] == [8, 8, 8, 6]

    play(story, budget=8)


def test_requests_that_are_split_are_not_mixed_up() -> None:
    async def story(here: Queues, network: Network) -> None:
        wanted = [list(range(100 * n, 100 * n + 3 + 5 * n)) for n in range(5)]
        asked = [here.ask(*values, caller=f"caller{n}", klass=Class(n % 3)) for n, values in enumerate(wanted)]
        assert await asyncio.gather(*asked) == [solo(*values) for values in wanted]
        assert max(len(run) for run in network.runs) <= 8
        assert len(network.computed) == sum(len(values) for values in wanted)

    play(story, budget=8, rows=256, share=1.0)


def test_dear_rows_count_by_their_inputs_and_come_back_in_order() -> None:
    async def story(here: Queues, network: Network) -> None:
        costs = [1, 2, 2, 1, 3, 1, 2, 9, 1]
        assert await here.ask(*(Number(n, cost) for n, cost in enumerate(costs))) == solo(*range(9))
        assert sorted(network.computed) == sorted(n for n, cost in enumerate(costs) for _ in range(cost))
        largest = [run for run in network.runs if len(set(run)) > 1]
        assert max(len(run) for run in largest) <= 8

    play(story, budget=8)


def test_no_rows_are_answered_with_nothing() -> None:
    async def story(here: Queues, network: Network) -> None:
        assert await here.ask() == []
        assert network.runs == []

    play(story)


def test_the_wait_is_told() -> None:
    async def story(here: Queues, network: Network) -> None:
        occupier = await here.occupy()
        deadline = asyncio.get_running_loop().time() + 5
        asked = asyncio.create_task(
            here.batchers["lift"].submit([Number(1)], caller="a", klass=Class.PHOTO, deadline=deadline)
        )
        await asyncio.sleep(0.05)
        network.gate.set()
        answers, waited_s = await asked
        assert answers == [2]
        assert 0.04 <= waited_s < 5
        await occupier

    play(story)


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


# ---- Refusing


def test_a_full_queue_refuses_at_once_and_says_when() -> None:
    async def story(here: Queues, network: Network) -> None:
        await here.occupy()
        asked = [here.ask(n, caller=f"caller{n}") for n in range(8)]
        await here.queued(8)
        with pytest.raises(QueueFull) as refused:
            await asyncio.wait_for(here.ask(9, caller="late"), 1.0)
        assert refused.value.retry_after_s >= 1
        assert refused.value.limit == 8
        assert here.sample("shed_total", reason="QueueFull") == 1
        assert here.sample("queue_rows", network="lift") == 8
        with pytest.raises(QueueFull):  # and who knocks is told so before there is a row
            here.batchers["lift"].knock("late")
        assert here.sample("shed_total", reason="QueueFull") == 2
        network.gate.set()
        await asyncio.gather(*asked)
        here.batchers["lift"].knock("late")
        assert await here.ask(9, caller="late") == solo(9)
        assert network.computed.count(9) == 1

    play(story, rows=8)


def test_pictures_that_wait_are_bounded_in_bytes_and_shared_ones_count_once() -> None:
    async def story(here: Queues, network: Network) -> None:
        line = here.batchers["lift"].line
        line.limits = replace(line.limits, bytes=100)
        await here.occupy()
        photo = np.zeros(60, np.uint8)
        group = here.ask(*(Number(n, holds=photo) for n in (1, 2, 3)), caller="a")
        await here.queued(3)
        assert line.bytes == 60
        with pytest.raises(QueueFull, match="60 of 100 bytes"):
            await here.ask(Number(4, holds=np.zeros(41, np.uint8)), caller="b")
        assert here.sample("shed_total", reason="QueueFull") == 1
        leaver = here.ask(Number(5, holds=np.zeros(40, np.uint8)), caller="c")
        await here.queued(4)
        leaver.cancel()
        await here.queued(3)
        assert line.bytes == 60
        network.gate.set()
        assert await group == solo(1, 2, 3)
        assert line.bytes == 0

    play(story)


def test_a_share_is_refused_only_while_others_wait() -> None:
    async def story(here: Queues, network: Network) -> None:
        await here.occupy()
        greedy = here.ask(*range(1, 7), caller="greedy")
        await here.queued(6)
        other = here.ask(7, caller="other")
        await here.queued(7)
        with pytest.raises(ShareUsedUp) as refused:
            await here.ask(8, caller="greedy")
        assert refused.value.limit == 4
        assert here.sample("shed_total", reason="ShareUsedUp") == 1
        network.gate.set()
        assert await greedy == solo(*range(1, 7))
        assert await other == solo(7)

    play(story, rows=8)


def test_the_time_to_come_back_follows_the_measured_rate() -> None:
    async def story(here: Queues, network: Network) -> None:
        batcher = here.batchers["lift"]
        await here.ask(*range(20))
        assert (batcher.rows_per_s or 0.0) > 0
        await here.occupy()
        batcher.rows_per_s = 0.5
        waiting = here.ask(*range(8), caller="b")
        await here.queued(8)
        with pytest.raises(QueueFull) as refused:
            await here.ask(1)
        assert refused.value.retry_after_s == 16
        network.gate.set()
        await waiting

    play(story, rows=8)


def test_a_closed_queue_takes_nobody_and_serves_who_is_in() -> None:
    async def story(here: Queues, network: Network) -> None:
        await here.occupy()
        inside = here.ask(1, 2)
        await here.queued(2)
        here.batchers["lift"].close()
        with pytest.raises(NotReady):
            await here.ask(3)
        assert here.sample("shed_total", reason="NotReady") == 1
        network.gate.set()
        assert await inside == solo(1, 2)
        assert 3 not in network.computed

    play(story)


# ---- Failing


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


# ---- Counting


def test_waits_and_batch_times_name_a_request() -> None:
    async def story(here: Queues, network: Network) -> None:
        token = exemplar.set(exemplar_of("the one"))
        asked = here.ask(1)
        exemplar.reset(token)
        await asked
        await here.ask(2)  # on behalf of no request
        lines = here.metrics.render("application/openmetrics-text")[0].decode().splitlines()
        named = [line.split("{")[0] for line in lines if '# {request_id="the one"} ' in line]
        assert sorted(named) == ["poselift_batch_duration_seconds_bucket", "poselift_queue_wait_seconds_bucket"]

    play(story)


def test_batches_rows_and_waits_are_counted() -> None:
    async def story(here: Queues, network: Network) -> None:
        assert here.sample("queue_limit_rows", network="lift") == 64
        assert here.sample("batch_cap_rows", network="lift") == 8
        await here.ask(*range(20))
        assert here.sample("batch_rows_count", network="lift") == 3
        assert here.sample("batch_rows_sum", network="lift") == 20
        assert here.sample("batch_duration_seconds_count", network="lift") == 3
        assert here.sample("queue_wait_seconds_count", network="lift") == 20
        assert here.sample("rows_total", network="lift") == 20
        assert here.sample("abandoned_total") == 0
        assert here.sample("expired_total") == 0

    play(story, budget=8)
