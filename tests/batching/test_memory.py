"""What was asked is let go of at its answer: pictures must not wait for a collection, of which a service has few."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest

from service.batching.policy import Class
from service.errors import DeadlinePassed, EngineFailed

from .fake import Number, Queues, queues, until


@pytest.fixture(autouse=True)
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def ask(here: Queues, value: float, seconds: float = 10.0) -> weakref.ref[Number]:
    """Submits a number that nobody else holds, waits for what becomes of it, and tells whether it is still there."""
    row = Number(value)
    watched = weakref.ref(row)
    deadline = asyncio.get_running_loop().time() + seconds
    asked = here.batchers["lift"].submit([row, Number(1)], caller="a", klass=Class.PHOTO, deadline=deadline)
    del row
    with suppress(DeadlinePassed, EngineFailed):
        await asked
    return watched


def test_an_answered_row_is_gone_without_a_collection() -> None:
    async def run() -> None:
        async with queues() as (here, _):
            watched = [await ask(here, n) for n in range(5)]
            await until(lambda: all(each() is None for each in watched[:-1]))
            await ask(here, 99)  # a worker may keep its last batch until the next
            await until(lambda: all(each() is None for each in watched))

    asyncio.run(run())


def test_a_row_whose_deadline_passed_is_gone_without_a_collection() -> None:
    async def run() -> None:
        async with queues() as (here, network):
            occupier = await here.occupy()
            watched = await ask(here, 7, seconds=0.05)
            network.gate.set()
            await occupier
            await ask(here, 99)
            await until(lambda: watched() is None)

    asyncio.run(run())
