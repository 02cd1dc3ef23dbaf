"""Two hundred live sockets, a fifth of which misbehave: the others get every answer.

The lifter answers at once here, so that what is tested is the server; `python -m benchmarks.live --crowd 200` measures
the same with the models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
import pytest

from benchmarks.live import crowd

from .conftest import Served, wait_until
from .fake import FakeService


@pytest.mark.slow
def test_good_streams_do_not_notice_bad_ones(served: Callable[[FakeService], AbstractContextManager[Served]]) -> None:
    service = FakeService(live_streams=300)
    with served(service) as here:
        told = asyncio.run(crowd(here.url.replace("http", "ws", 1), sockets=200, seconds=20))
        print(told)
        assert told["misbehaving"] == 40 and all(count > 10 for count in told["misdeeds"].values()), told
        assert told["closed"] == {"1000": 160} and (told["errors"], told["dropped"]) == (0, 0), told
        assert told["answered"] == told["sent"] == 160 * 20, told
        wait_until(lambda: service.streams == 0, within_s=15)
        assert httpx.get(f"{here.url}/livez").status_code == 200
