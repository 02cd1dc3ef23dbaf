"""The benchmark's callers, against the served fake: what they send is accepted, and what they tell is consistent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks import callers

from .conftest import Served
from .fake import FakeService

Serve = Callable[[FakeService], AbstractContextManager[Served]]


def test_callers_of_lift_tell_rate_and_latency(served: Serve) -> None:
    with served(FakeService()) as here:
        told = asyncio.run(callers.lift(here.url, 4, 0.3))
    assert told["requests_a_second"] > 0
    assert 0 < told["p50_ms"] <= told["p99_ms"]


def test_a_photo_is_told_with_what_the_service_adds(served: Serve) -> None:
    with served(FakeService()) as here:
        told = asyncio.run(callers.photo(here.url, 3))
    assert 0 < told["above_networks_ms"] <= told["p50_ms"]
