"""Some hundred mutated bodies at the doors, in this process: none is our fault. `make fuzz` sends thousands."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.api.conftest import client_of
from tests.api.open_inference.fake import TinyService

from .corpus import Body, corpus
from .mutations import mutated

pytestmark = pytest.mark.anyio
WHOLE = corpus()
EACH = 15


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def door() -> AsyncIterator[httpx.AsyncClient]:
    service = TinyService()
    await service.start()
    async with client_of(service) as made:
        yield made
    await service.close()


async def sent(door: httpx.AsyncClient, body: Body) -> httpx.Response:
    headers = {name.encode(): value.encode("latin-1") for name, value in body.headers.items()}
    return await door.post(f"{body.path}?{body.query}", content=body.content, headers=headers)


@pytest.mark.parametrize("body", WHOLE, ids=lambda body: body.name)
async def test_the_body_that_is_mutated_is_in_order(door: httpx.AsyncClient, body: Body) -> None:
    assert (await sent(door, body)).status_code == 200


@pytest.mark.parametrize("body", WHOLE, ids=lambda body: body.name)
async def test_no_mutated_body_is_our_fault(door: httpx.AsyncClient, body: Body) -> None:
    for number in range(EACH):
        answer = await sent(door, mutated(body, random.Random(f"test {number}"), WHOLE))
        assert answer.status_code < 500 or answer.status_code in (503, 504), number
        assert b'"status":500' not in answer.content, number


def test_the_same_number_makes_the_same_body_and_another_one_another() -> None:
    made = [mutated(WHOLE[0], random.Random(f"{seed}"), WHOLE).content for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2] != WHOLE[0].content
