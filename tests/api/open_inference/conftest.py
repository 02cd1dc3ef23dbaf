"""The doors of the protocol before a service with real queues: in process, or served on a port for foreign clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.api.conftest import client_of

from .fake import TinyService


@pytest.fixture
async def tiny() -> AsyncIterator[TinyService]:
    service = TinyService()
    await service.start()
    yield service
    await service.close()


@pytest.fixture
async def door(tiny: TinyService) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(tiny) as made:
        yield made
