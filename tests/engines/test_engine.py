"""The promise of an engine: any rows, in order, from runs of warmed sizes; a bad row fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines.engine import Engine
from service.errors import EngineFailed, NotFinite


@dataclass(frozen=True)
class Numbers:
    """A row: as many numbers as it costs."""

    values: tuple[float, ...]

    @property
    def cost(self) -> int:
        return len(self.values)

    @property
    def holds(self) -> NDArray[Any]:
        return np.array(self.values)


class Sums:
    """A row is answered with the sums of its outputs."""

    def inputs(self, rows: Sequence[Numbers]) -> NDArray[Any]:
        return np.array([[value, value] for row in rows for value in row.values])

    def answers(self, outputs: Sequence[NDArray[Any]], rows: Sequence[Numbers]) -> list[tuple[float, ...]]:
        ends = np.cumsum([row.cost for row in rows])[:-1]
        split = [np.split(output, ends) for output in outputs]
        return [tuple(float(part.sum()) for part in parts) for parts in zip(*split, strict=True)]

    def example(self) -> NDArray[Any]:
        return np.ones((1, 2))


class Network:
    """Two outputs: the inputs' first numbers doubled, and both negated. Remembers the sizes that it ran."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.surplus = 0

    def __call__(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        self.sizes.append(len(inputs))
        inputs.flags.writeable = False
        answered = np.concatenate([inputs, inputs])[: len(inputs) + self.surplus]
        return [2 * answered[:, 0], -answered]


def engine_of(network: Network, sizes: Sequence[int] = (4, 1, 16), pads: bool = False, budget: int = 16) -> Engine:
    return Engine(
        "adder@1", "lift", Sums(), network, sizes=sizes, budget=budget, pads=pads, runtime="fake", precision="f32"
    )


def rows_of(*values: float | tuple[float, ...]) -> list[Numbers]:
    return [Numbers(value if isinstance(value, tuple) else (value,)) for value in values]


def run(engine: Engine, rows: Sequence[Numbers]) -> list[Any]:
    return engine.run(engine.prepare(rows))


@pytest.mark.parametrize("pads", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 15, 16, 17, 35])
def test_batched_equals_single_at_any_size(count: int, pads: bool) -> None:
    network = Network()
    engine = engine_of(network, pads=pads)
    rows = rows_of(*np.arange(1.0, count + 1))
    assert run(engine, rows) == [run(engine, [row])[0] for row in rows]
    assert run(engine, rows)[-1] == (2 * count, -2 * count)
    assert set(network.sizes) <= set(engine.sizes) or (pads and max(network.sizes) <= 16)


@pytest.mark.parametrize(
    ("count", "runs"),
    [(1, [1]), (3, [1, 1, 1]), (4, [4]), (6, [4, 1, 1]), (16, [16]), (21, [16, 4, 1]), (33, [16, 16, 1])],
)
def test_without_padding_a_rest_is_made_up_of_smaller_sizes(count: int, runs: list[int]) -> None:
    network = Network()
    run(engine_of(network), rows_of(*range(count)))
    assert network.sizes == runs


@pytest.mark.parametrize(("count", "runs"), [(1, [1]), (2, [2]), (5, [5]), (16, [16]), (33, [16, 16, 1])])
def test_a_runtime_that_pads_by_itself_gets_all_that_its_largest_size_takes(count: int, runs: list[int]) -> None:
    network = Network()
    run(engine_of(network, pads=True), rows_of(*range(count)))
    assert network.sizes == runs


def test_padding_needs_no_size_of_one() -> None:
    network = Network()
    assert run(engine_of(network, sizes=(8,), pads=True), rows_of(3)) == [(6, -6)]
    assert network.sizes == [1]


def test_without_padding_sizes_begin_with_one() -> None:
    with pytest.raises(ValueError, match="must begin with 1"):
        engine_of(Network(), sizes=(2, 4))


@pytest.mark.parametrize("pads", [True, False])
def test_dear_rows_among_plain_ones_come_back_in_order(pads: bool) -> None:
    rows = rows_of(1, (2, 3), 4, (5, 6), (7, 8, 9), 10)
    assert run(engine_of(Network(), pads=pads), rows) == [(2 * s, -2 * s) for s in (1, 5, 4, 11, 24, 10)]


def test_warming_runs_every_size_and_no_other() -> None:
    network = Network()
    engine = engine_of(network)
    engine.warm()
    assert network.sizes == [16] * 3 + [4] * 3 + [1] * 3
    assert engine.sizes == (1, 4, 16)


@pytest.mark.parametrize("pads", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_fails_alone(bad: float, pads: bool) -> None:
    network = Network()
    answers = run(engine_of(network, pads=pads), rows_of(1, bad, 3, (4, bad), (5, 6)))
    failed = [answers[1], answers[3]]
    assert all(isinstance(answer, NotFinite) and "adder@1" in str(answer) for answer in failed)
    assert failed[0] is not failed[1]
    assert [answers[0], answers[2], answers[4]] == [(2, -2), (6, -6), (22, -22)]


@pytest.mark.parametrize("pads", [True, False])
def test_no_finite_row_at_all_is_an_error_each(pads: bool) -> None:
    answers = run(engine_of(Network(), pads=pads), rows_of(np.nan, np.nan))
    assert [type(answer) for answer in answers] == [NotFinite, NotFinite]


@pytest.mark.parametrize("pads", [True, False])
@pytest.mark.parametrize("surplus", [-1, 1])
@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_another_number_of_answers_is_a_failure_that_says_so(count: int, surplus: int, pads: bool) -> None:
    network = Network()
    network.surplus = surplus
    engine = engine_of(network, pads=pads)
    with pytest.raises(EngineFailed, match=r"adder@1 answered \d+ rows to \d+"):
        run(engine, rows_of(*range(count)))
    network.surplus = 0
    assert run(engine, rows_of(1)) == [(2, -2)]


class Slow(Network):
    """Takes so many seconds an input, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, first: float = 0.0) -> None:
        super().__init__()
        self._now, self.seconds, self._first = 0.0, seconds, first
        monkeypatch.setattr("service.engines.engine.time.perf_counter", lambda: self._now)

    def __call__(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        self._now += self._first + self.seconds * len(inputs)
        self._first = 0.0
        return super().__call__(inputs)


@pytest.mark.parametrize(
    ("longest", "budget"), [(0.001, 1), (0.01, 1), (0.03, 1), (0.05, 4), (0.159, 4), (0.17, 16), (0.33, 32), (9, 48)]
)
def test_the_budget_is_the_largest_batch_within_the_time(
    monkeypatch: pytest.MonkeyPatch, longest: float, budget: int
) -> None:
    # A first run, however slow, does not count.
    engine = engine_of(Slow(monkeypatch, 0.01, first=5.0), budget=48)
    engine.warm(longest)
    assert engine.budget == budget
    assert engine.seconds == pytest.approx({1: 0.01, 4: 0.04, 16: 0.16})


def test_rows_within_a_time_are_the_largest_size_that_took_no_longer_and_not_one_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engine_of(Slow(monkeypatch, 0.01), budget=16)
    assert engine.rows_within(0.001) == 16, "nothing was measured yet"
    engine.warm(9)
    assert [engine.rows_within(seconds) for seconds in (0.001, 0.05, 0.16, 9)] == [4, 4, 16, 16]
    engine.warm(0.02)
    assert engine.rows_within(9) == 1, "its batches have one row at most"


def test_rows_within_a_time_are_one_where_none_share_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(Slow(monkeypatch, 0.01), sizes=(1,), budget=4)
    engine.warm(9)
    assert [engine.rows_within(seconds) for seconds in (0.001, 0.025, 9)] == [1, 2, 4]


def test_an_engine_that_was_warmed_on_a_busy_machine_gets_its_budget_once_it_runs_quicker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Slow(monkeypatch, 0.06)
    engine = engine_of(network)
    engine.warm(0.05)
    assert engine.budget == 1
    network.seconds = 0.01
    run(engine, rows_of(1))
    assert engine.budget == 4, "four take no longer than one four times"
    network.seconds = 0.5  # busy again: that is no news of the network
    run(engine, rows_of(1))
    assert engine.budget == 4
    network.seconds = 0.001
    run(engine, rows_of(*range(5)))
    assert engine.budget == 16, "and never more than it was made with"


def test_a_size_that_was_thought_quicker_than_it_is_leaves_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Slow(monkeypatch, 0.02)
    engine = engine_of(network)
    engine.warm(0.05)
    assert engine.budget == 1
    network.seconds = 0.01  # of one alone: so four should take 0.04
    run(engine, rows_of(1))
    assert engine.budget == 4
    network.seconds = 0.015
    run(engine, rows_of(*range(4)))
    assert engine.budget == 1, "0.06 was seen"
    network.seconds = 0.01
    run(engine, rows_of(*range(4)))
    assert engine.budget == 4


def test_without_a_time_the_budget_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(Slow(monkeypatch, 10.0))
    engine.warm()
    assert engine.budget == 16
