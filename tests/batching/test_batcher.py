"""The queue before one engine: how rows share batches, how requests are split, and what is counted."""

from __future__ import annotations

import asyncio

import pytest

from service.batching.batcher import Ticket
from service.batching.policy import Class, Waiting
from service.metrics import exemplar, exemplar_of

from .fake import Network, Number, Queues, play, solo, until

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


def test_rows_behind_those_of_their_own_request_do_not_count_as_waiting() -> None:
    async def story(here: Queues, network: Network) -> None:
        network.gate.clear()
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        rows, batcher = [Number(n) for n in range(6)], here.batchers["lift"]
        asked = asyncio.create_task(batcher.submit(rows, caller="a", klass=Class.PHOTO, deadline=asked_at + 10))
        await until(lambda: bool(network.runs))
        began_at = loop.time()
        await asyncio.sleep(0.02)
        network.gate.set()
        answers, waited_s = await asked
        assert answers == solo(*range(6)) and len(network.runs) == 3
        assert waited_s <= began_at - asked_at

    play(story, budget=2)


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


def test_no_wait_is_negative_where_the_loops_clock_is_coarser_than_a_batch_is_short() -> None:
    async def story(here: Queues, network: Network) -> None:
        batcher = here.batchers["lift"]
        ticket = Ticket(1, asyncio.get_running_loop().create_future())
        row = Waiting(Number(1), 1, Class.PHOTO, "a", 9.0, arrived=5.001, owner=(ticket, 0))
        batcher.begin([row], 5.0)
        assert ticket.queued_s == 0.0
        assert here.sample("queue_wait_seconds_sum", network="lift") == 0.0
        batcher.begin([row], 5.003)
        assert here.sample("queue_wait_seconds_sum", network="lift") == pytest.approx(0.002)

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
