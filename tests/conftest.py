"""What tests of several files share: one service with the embedded models, started once; calls and settings."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from service.pipelines.call import Call, Class
from service.pipelines.lift import LiftOptions
from service.settings import Settings

if TYPE_CHECKING:  # it brings torch, which most tests do without
    from service.assembly import Service

T = TypeVar("T")
LIFT = LiftOptions("coco17", (640, 480))


@dataclass(frozen=True)
class Started:
    """A service that is ready, on a CPU, and the loop on which it lives: a thread of its own.

    before: what the service said of itself between `build` and `start`.
    """

    service: Service
    loop: asyncio.AbstractEventLoop
    before: dict[str, Any]

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = 60.0) -> T:
        """Waits for work on the service's loop, from the test's thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)


@pytest.fixture(scope="session")
def started() -> Iterator[Started]:
    """The embedded models, loaded and warmed: some seconds, once for all tests. Never drain or close it."""
    from service.assembly import build

    # What a batch holds must not depend on how busy the machine is that runs the tests.
    service = build(Settings(device="cpu", batch_ms=10_000))
    before = {
        "state": service.state,
        "reason": service.reason,
        "engines": service.engines_in_use(),
        "models": service.models(),
        "ready": service.metrics.registry.get_sample_value("poselift_ready"),
    }
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="started-service")
    thread.start()
    made = Started(service, loop, before)
    try:
        made.run(service.start(), timeout_s=300)
        yield made
    finally:
        made.run(service.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def on_cpu(**values: Any) -> Settings:
    return Settings(device="cpu", threads=1, decode_threads=1, **values)


def call(klass: Class = Class.PHOTO, caller: str = "someone") -> Call:
    return Call(caller, klass, asyncio.get_running_loop().time() + 60)
