"""A fleet as events: replicas with the service's own queue rules and measured batch times, and callers. No sockets.

Times are seconds of simulated time. `plan` says how many replicas a load needs; benchmarks/fleet.py holds `closed_loop`
against real processes, which share the cores of one machine: `Cores`. Replicas with nodes of their own have none.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from service.batching.policy import Class, Limits, Line, Waiting
from service.errors import Busy

FEW = 16
ROWS = Limits(rows=256, share=1.0, budget=32)


@dataclass(frozen=True)
class BatchTimes:
    """A batch of n rows takes `fixed_s` + n x `row_s`, as measured."""

    fixed_s: float
    row_s: float

    def seconds(self, rows: int) -> float:
        return self.fixed_s + rows * self.row_s


class Times(Protocol):
    """What a batch of so many rows takes, seconds."""

    def seconds(self, rows: int) -> float: ...


@dataclass(frozen=True)
class MeasuredTimes:
    """A batch is made up of runs of warmed sizes, as an engine that does not pad does it; each takes as measured."""

    by_size: Mapping[int, float]

    def seconds(self, rows: int) -> float:
        taken = 0.0
        while rows > 0:
            size = max(size for size in self.by_size if size <= rows)
            taken, rows = taken + self.by_size[size], rows - size
        return taken


class SampledTimes:
    """A batch takes what one of its size took when they were measured, drawn by chance; of the nearest size if none."""

    def __init__(self, by_rows: Mapping[int, Sequence[float]]) -> None:
        self._by_rows = {rows: list(took) for rows, took in by_rows.items() if took}
        self._chance = random.Random(0)
        if not self._by_rows:
            raise ValueError("no batch was measured")

    def seconds(self, rows: int) -> float:
        nearest = min(self._by_rows, key=lambda size: (abs(size - rows), size))
        return self._chance.choice(self._by_rows[nearest])


class Cores:
    """Processors that a whole fleet shares: work is done in the order in which it comes, each piece on one core.

    request_s: CPU time of one request outside its batch, in all processes together (caller, gateway, replica); half of
    it on the way in and half on the way out.
    """

    def __init__(self, count: int, request_s: float) -> None:
        self.request_s = request_s
        self._free_at = [0.0] * count

    def done_at(self, now: float, work_s: float) -> float:
        """When a piece of work that comes now is done."""
        began = max(now, heapq.heappop(self._free_at))
        heapq.heappush(self._free_at, began + work_s)
        return began + work_s


@dataclass
class _Replica:
    line: Line
    busy: int = 0  # lanes that run a batch
    held: int = 0  # requests sent to it and not answered: what a gateway counts


@dataclass
class _Request:
    began: float
    replica: _Replica | None = None
    tries: int = 0
    done: Callable[[], None] = field(default=lambda: None)


class Fleet:
    """Replicas behind a gateway that sends each request to whoever has the fewest, and again after a 503.

    Of more than FEW it looks at two by chance, as Envoy's least-request does.
    """

    def __init__(
        self,
        replicas: int,
        times: Times,
        limits: Limits = ROWS,
        retries: int = 3,
        cores: Cores | None = None,
        lanes: int = 1,
    ) -> None:
        """lanes: batches that a replica runs at once, each of which takes as long as `times` says."""
        self.now = 0.0
        self.answered: list[float] = []  # how long each answer took
        self.batches: list[int] = []
        self.refused = 0
        self.chance = random.Random(0)
        self._times, self._retries, self._cores, self._lanes = times, retries, cores, lanes
        self._replicas = [_Replica(Line(limits)) for _ in range(replicas)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), do))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, do = heapq.heappop(self._events)
            do()

    def ask(self, request: _Request) -> None:
        """One request of one row. Among equals chance decides, and a replica counts what it was sent at once."""
        looked_at = self._replicas if len(self._replicas) <= FEW else self.chance.sample(self._replicas, 2)
        fewest = min(replica.held for replica in looked_at)
        replica = self.chance.choice([one for one in looked_at if one.held == fewest])
        replica.held += 1
        self._after_half(lambda: self._arrive(replica, request))

    def _after_half(self, do: Callable[[], None]) -> None:
        """Does it once a request's CPU time of one way is spent; where nobody shares cores, at once."""
        if self._cores is None:
            do()
        else:
            self.at(self._cores.done_at(self.now, self._cores.request_s / 2), do)

    def _arrive(self, replica: _Replica, request: _Request) -> None:
        try:
            replica.line.admit(1, str(id(request)))
        except Busy:
            replica.held -= 1
            request.tries += 1
            if request.tries > self._retries:
                self.refused += 1
                request.done()
            else:
                self.ask(request)
            return
        request.replica = replica
        row: Any = request
        replica.line.add(Waiting(row, 1, Class.PHOTO, str(id(request)), float("inf"), self.now, request))
        if replica.busy < self._lanes:
            self._take(replica)

    def _take(self, replica: _Replica) -> None:
        batch, _ = replica.line.take(self.now)
        if batch:
            replica.busy += 1
            self.batches.append(len(batch))
            self.at(self.now + self._times.seconds(len(batch)), lambda: self._deliver(replica, batch))

    def _deliver(self, replica: _Replica, batch: list[Waiting]) -> None:
        for waiting in batch:
            self._after_half(functools.partial(self._answer, replica, waiting.owner))
        replica.busy -= 1
        self._take(replica)

    def _answer(self, replica: _Replica, request: _Request) -> None:
        replica.held -= 1
        self.answered.append(self.now - request.began)
        request.done()


def closed_loop(
    replicas: int,
    callers: int,
    think_s: float,
    times: Times,
    seconds: float,
    limits: Limits = ROWS,
    cores: Cores | None = None,
) -> dict[str, float]:
    """So many callers, each of whom asks again `think_s` after its answer: what a load test does."""
    fleet = Fleet(replicas, times, limits, cores=cores)

    def caller() -> None:
        request = _Request(fleet.now)
        request.done = lambda: fleet.at(fleet.now + think_s, caller)
        fleet.ask(request)

    for number in range(callers):
        fleet.at(think_s * number / callers, caller)
    fleet.run(seconds)
    return _told(fleet, seconds)


def open_loop(
    replicas: int, requests_a_second: float, times: Times, seconds: float, limits: Limits = ROWS, lanes: int = 1
) -> dict[str, float]:
    """Requests that come by chance for so long and wait for nobody, as the world's do; all are answered or refused."""
    fleet = Fleet(replicas, times, limits, lanes=lanes)

    def arrive() -> None:
        if fleet.now < seconds:
            fleet.at(fleet.now + fleet.chance.expovariate(requests_a_second), arrive)
        fleet.ask(_Request(fleet.now))

    fleet.at(0.0, arrive)
    fleet.run(float("inf"))
    return _told(fleet, seconds)


def _told(fleet: Fleet, seconds: float) -> dict[str, float]:
    ordered = sorted(fleet.answered) or [float("nan")]
    return {
        "answers_a_second": round(len(fleet.answered) / seconds, 1),
        "p50_ms": round(1000 * ordered[len(ordered) // 2], 2),
        "p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 2),
        "mean_batch_rows": round(sum(fleet.batches) / max(len(fleet.batches), 1), 2),
        "refused": fleet.refused,
    }


def plan(
    requests_a_second: float, p99_ms: float, times: Times, most: int = 1000, looked_at: int = 20_000
) -> dict[str, float]:
    """The fewest replicas, of 1 to `most`, at which no request is refused and the 99th percentile is kept.

    By halving: with more replicas no figure gets worse. looked_at: how many requests each number of them is tried with.

    Raises:
        ValueError: not even `most` replicas do.
    """
    # What they can do at all, with full batches: below it the queues grow for ever, however long one looks.
    bound = requests_a_second * times.seconds(ROWS.budget) / ROWS.budget
    seconds = max(2.0, looked_at / requests_a_second)

    def keeps(replicas: int) -> bool:
        if replicas <= bound:
            return False
        told = open_loop(replicas, requests_a_second, times, seconds)
        return not told["refused"] and told["p99_ms"] <= p99_ms

    if not keeps(most):
        raise ValueError(f"{most} replicas do not keep {p99_ms:g} ms at {requests_a_second:g} requests a second")
    low, high = int(bound), most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return {"replicas": high} | open_loop(high, requests_a_second, times, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=plan.__doc__)
    parser.add_argument("--requests-a-second", type=float, required=True, help="of one row each")
    parser.add_argument("--p99-ms", type=float, default=100.0)
    parser.add_argument("--fixed-ms", type=float, required=True, help="of a batch, whatever its size")
    parser.add_argument("--row-ms", type=float, required=True, help="of each row more; `make bench` measures both")
    given = parser.parse_args()
    times = BatchTimes(given.fixed_ms / 1000, given.row_ms / 1000)
    print(json.dumps(plan(given.requests_a_second, given.p99_ms, times), indent=1))


if __name__ == "__main__":
    main()
