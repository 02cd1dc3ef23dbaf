"""A network that doubles numbers on a real engine, and stops, breaks or lies as a test says; and queues before it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from service.batching.policy import Class
from service.batching.scheduler import Scheduler
from service.engines.device import Device, Lanes
from service.engines.engine import Engine
from service.metrics import Metrics
from service.tracing import OFF, Tracing

PATIENCE_S = 10.0  # of a test for what should come at once
NOTHING = np.zeros(0, np.uint8)


@dataclass(frozen=True)
class Number:
    """A row: it is doubled. `holds` is what it keeps in memory meanwhile."""

    value: float
    cost: int = 1
    holds: NDArray[Any] = field(default_factory=lambda: NOTHING, compare=False)


class Numbers:
    """The framing: a number takes `cost` inputs, and is answered by the first."""

    def inputs(self, rows: Sequence[Number]) -> NDArray[Any]:
        return np.array([row.value for row in rows for _ in range(row.cost)])

    def answers(self, outputs: Sequence[NDArray[Any]], rows: Sequence[Number]) -> list[float]:
        first = np.cumsum([0, *(row.cost for row in rows)])[:-1]
        return [float(value) for value in outputs[0][first]]

    def example(self) -> NDArray[Any]:
        return np.zeros(1)


class Network:
    """Doubles numbers while `gate` is open; `runs` holds what it was given, run by run.

    poison: numbers that break the run they are in; hollow: numbers that are answered with NaN; forgets: how many of the
    last answers are left out; holds: how many inputs its memory suffices for; sticky: what a lost device says.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.runs: list[list[float]] = []
        self.poison: set[float] = set()
        self.hollow: set[float] = set()
        self.forgets = 0
        self.holds: int | None = None
        self.sticky: Exception | None = None

    def __call__(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        self.runs.append([float(value) for value in inputs])
        assert self.gate.wait(PATIENCE_S)
        if self.sticky is not None:
            raise self.sticky
        if self.holds is not None and len(inputs) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if self.poison & set(self.runs[-1]):
            raise ValueError("poison")
        doubled = np.where(np.isin(inputs, list(self.hollow)), np.nan, 2 * inputs)
        return [doubled[: len(doubled) - self.forgets]]

    @property
    def computed(self) -> list[float]:
        return [value for run in self.runs for value in run]


def engine_of(network: Network, role: str = "lift", budget: int = 8) -> Engine:
    """One run a batch: every size up to the budget is there."""
    return Engine(
        f"doubler-{role}@1",
        role,
        Numbers(),
        network,
        sizes=range(1, budget + 1),
        budget=budget,
        pads=False,
        runtime="fake",
        precision="f32",
    )


class Queues:
    """Queues on one device before engines, each over a network of its own."""

    def __init__(
        self, budgets: dict[str, int], rows: int, share: float, tracing: Tracing = OFF, lanes: int = 1
    ) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.lost: list[str] = []
        device = Device("cpu", Lanes(lanes))
        self.scheduler = Scheduler(device, self.metrics, rows, share, lost=self.lost.append, tracing=tracing)
        self.networks = {role: Network() for role in budgets}
        self.batchers = {
            role: self.scheduler.add(engine_of(self.networks[role], role, budget)) for role, budget in budgets.items()
        }

    def sample(self, name: str, **labels: str) -> float:
        """A metric's value, by its name without the prefix."""
        value = self.metrics.registry.get_sample_value(f"poselift_{name}", labels)
        assert value is not None, name
        return value

    def ask(
        self,
        *values: float | Number,
        role: str = "lift",
        caller: str = "a",
        klass: Class = Class.PHOTO,
        seconds: float = PATIENCE_S,
    ) -> asyncio.Task[list[float]]:
        """Submits numbers as one request; the task ends with its answer."""
        rows = [value if isinstance(value, Number) else Number(value) for value in values]
        deadline = asyncio.get_running_loop().time() + seconds

        async def answer() -> list[float]:
            answers, _ = await self.batchers[role].submit(rows, caller=caller, klass=klass, deadline=deadline)
            return answers

        return asyncio.create_task(answer())

    async def occupy(self, role: str = "lift") -> asyncio.Task[list[float]]:
        """Keeps the device busy with one number, 0, until the network's gate is opened."""
        network = self.networks[role]
        network.gate.clear()
        before = len(network.runs)
        task = self.ask(0, role=role, caller="occupier")
        await until(lambda: len(network.runs) > before)
        return task

    async def queued(self, rows: int, role: str = "lift") -> None:
        await until(lambda: self.batchers[role].line.rows == rows)


@asynccontextmanager
async def queues(
    budgets: dict[str, int] | None = None,
    *,
    budget: int = 100,
    rows: int = 64,
    share: float = 0.5,
    tracing: Tracing = OFF,
    lanes: int = 1,
) -> AsyncIterator[tuple[Queues, Network]]:
    """Running queues, `lift` with `budget` where no roles are named, and the first one's network.

    A batch that is full is taken out of its line while the device is busy; below the budget, all wait in line.
    """
    running = Queues(budgets or {"lift": budget}, rows, share, tracing, lanes)
    running.scheduler.start()
    try:
        yield running, next(iter(running.networks.values()))
    finally:
        for network in running.networks.values():
            network.gate.set()
        await asyncio.wait_for(running.scheduler.close(), PATIENCE_S)


Story = Callable[[Queues, Network], Awaitable[None]]


def play(story: Story, **options: Any) -> None:
    """Runs a story on fresh queues; whatever happened in it, nothing must still be counted as waiting."""

    async def run() -> None:
        async with queues(**options) as (here, network):
            await story(here, network)
            await until(lambda: here.sample("queue_rows", network="lift") == 0)
            assert here.batchers["lift"].line.rows == 0

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what must come by itself."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


def solo(*values: float) -> list[float]:
    return [2 * value for value in values]
