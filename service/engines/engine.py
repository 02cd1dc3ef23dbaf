"""The promise of an engine: one network on one device, warmed, that turns rows into answers. Knows no queue.

How rows become arrays is the framing's business, how arrays become outputs the runtime's (torch, OpenVINO).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import EngineFailed, NotFinite

TIMED_RUNS = 2  # of each size
QUICKER = 0.9  # of the time that is known: what is less by so much is heard

# n inputs, an array (n, ...) or what the framing makes, to outputs that each have n entries
Infer = Callable[[Any], list[NDArray[Any]]]


class Held(Protocol):
    """What a row keeps in memory: an array, or a picture in planes."""

    @property
    def nbytes(self) -> int: ...


class Row(Protocol):
    """What a network works on.

    cost: how many of its inputs the row takes. holds: what it keeps in memory, which rows may share.
    """

    @property
    def cost(self) -> int: ...

    @property
    def holds(self) -> Held: ...


class Framing(Protocol):
    """Rows to inputs, outputs to answers."""

    def inputs(self, rows: Sequence[Any]) -> Any:
        """(sum of the rows' costs, ...), in the rows' order: an array, or what has a length and can be sliced."""
        ...

    def answers(self, outputs: Sequence[NDArray[Any]], rows: Sequence[Any]) -> list[Any]:
        """One answer a row, in order; outputs are finite."""
        ...

    def example(self) -> NDArray[Any]:
        """One input of the network, (1, ...), to convert and warm it with."""
        ...


@dataclass(frozen=True)
class Prepared:
    """A batch ready for the device: its rows and their inputs."""

    rows: tuple[Any, ...]
    inputs: Any


class Engine:
    """One network on one device.

    label: name@version; role: person, pose or lift; runtime: openvino, torch or cuda-graphs; precision: f32, bf16, f16
    or mixed (see `openvino_infer`).
    sizes: the batch sizes that are warmed, rising; no other ever runs.
    budget: the most inputs that a batch of this engine should hold, for the time that it takes; see `warm`. It follows
    the times of the runs that serve, for the machine may have been busy when it was measured.
    network: its name in the metrics, where two engines share a role.
    light: preparing a batch takes less than waking a thread for it; see `LiftFraming`.
    pads: the runtime itself pads a rest up to the next size (a GPU's time hardly grows with it), else it is made up of
    smaller ones (a CPU's does).
    """

    def __init__(
        self,
        label: str,
        role: str,
        framing: Framing,
        infer: Infer,
        *,
        sizes: Sequence[int],
        budget: int,
        pads: bool,
        runtime: str,
        precision: str,
        network: str | None = None,
    ) -> None:
        self.label, self.role, self.network = label, role, network or role
        self.framing, self.infer = framing, infer
        self.light = bool(getattr(framing, "light", False))
        self.sizes = tuple(sorted(sizes))
        if not pads and self.sizes[0] != 1:
            raise ValueError(f"without padding, `sizes` must begin with 1, got {self.sizes}")
        self.budget = self._most = budget
        self._pads = pads
        self.runtime, self.precision = runtime, precision
        self.seconds: dict[int, float] = {}  # of one run, by size: the least that is known
        self._warmed: dict[int, float] = {}  # the same, while warming
        self._seen: dict[int, float] = {}  # and of runs that served
        self._longest_s: float | None = None

    def warm(self, longest_s: float | None = None) -> None:
        """Runs every size, largest first, so that no caller meets a first time, and measures it.

        Args:
            longest_s: what a batch may take: the budget becomes the most inputs that took no longer, 1 at least.
        """
        for size in reversed(self.sizes):
            times = []
            for _ in range(1 + TIMED_RUNS):
                inputs = self.examples(size)
                started = time.perf_counter()
                self.infer(inputs)
                times.append(time.perf_counter() - started)
            # The least: a busy neighbour makes a run longer, nothing makes it shorter.
            self._warmed[size] = min(times[1:])
        self.seconds, self._seen, self._longest_s = dict(self._warmed), {}, longest_s
        if longest_s is not None:
            self.budget = self._most_within(longest_s)

    def examples(self, count: int) -> NDArray[Any]:
        """So many inputs; where they are numbers, no two alike: what an engine remembers of others must not help it."""
        inputs = np.repeat(self.framing.example(), count, axis=0)
        if np.issubdtype(inputs.dtype, np.floating):
            inputs += np.random.default_rng().standard_normal(inputs.shape, np.float32)
        return inputs

    def _learn(self, size: int, seconds: float) -> None:
        """Hears how long a run took. Who was warmed on a busy machine must not keep small batches for ever."""
        known = self._seen.get(size)
        if self._longest_s is None or (known is not None and seconds > QUICKER * known):
            return
        self._seen[size] = seconds
        self.seconds = {each: self._least(each) for each in self.sizes}
        self.budget = self._most_within(self._longest_s)

    def _least(self, size: int) -> float:
        """The least time that is known of a size; of one that has not served yet, what smaller ones in a row take."""
        if size in self._seen:
            return min(self._seen[size], self._warmed[size])
        smaller = [seconds * size / each for each, seconds in self._seen.items() if each < size]
        return min([self._warmed[size], *smaller])

    def rows_within(self, longest_s: float) -> int:
        """The most rows of a batch that takes no longer, the budget where nothing was measured; but in any case the
        least size that is warmed beyond one row: rows alone cost more each, and the device waits between them."""
        if not self.seconds:
            return self.budget
        return min(max(self._most_within(longest_s), *self.sizes[:2]), self.budget)

    def _most_within(self, longest_s: float) -> int:
        """The largest warmed size that is as quick as that, or as many of the largest in a row as the budget holds."""
        largest = self.sizes[-1]
        in_a_row = min(int(longest_s / self.seconds[largest]), self._most // largest) * largest
        quick = [size for size in self.sizes if self.seconds[size] <= longest_s and size <= self._most]
        return max([1, in_a_row, *quick])

    def prepare(self, rows: Sequence[Any]) -> Prepared:
        """Frames the rows; any thread."""
        return Prepared(tuple(rows), self.framing.inputs(rows))

    def run(self, prepared: Prepared) -> list[Any]:
        """The device's thread only. One entry a row, in order: its answer, or a NotFinite of its own.

        Raises:
            EngineFailed: the runtime broke, or answered with another number of rows.
        """
        rows, inputs = prepared.rows, prepared.inputs
        outputs = self._in_parts(inputs)
        finite = np.ones(len(inputs), bool)
        for output in outputs:
            finite &= np.isfinite(output.reshape(len(output), -1)).all(1)
        if finite.all():
            return self.framing.answers(outputs, rows)
        return self._without_the_bad(outputs, rows, finite)

    def _in_parts(self, inputs: Any) -> list[NDArray[Any]]:
        """Outputs for any number of inputs, from runs of warmed sizes."""
        parts, first = [], 0
        while first < len(inputs):
            left = len(inputs) - first
            size = self.sizes[-1] if self._pads else max(size for size in self.sizes if size <= left)
            part = inputs[first : first + size]
            first += len(part)
            started = time.perf_counter()
            outputs = self.infer(part)
            if len(part) == size and size in self.seconds:
                self._learn(size, time.perf_counter() - started)
            for output in outputs:
                if len(output) != len(part):
                    raise EngineFailed(f"{self.label} answered {len(output)} rows to {len(part)}")
            parts.append(outputs)
        return parts[0] if len(parts) == 1 else [np.concatenate(each) for each in zip(*parts, strict=True)]

    def _without_the_bad(
        self, outputs: Sequence[NDArray[Any]], rows: Sequence[Any], finite: NDArray[np.bool_]
    ) -> list[Any]:
        """Answers of the rows whose every output is finite; the others get an error each, their neighbours nothing."""
        of_row = np.repeat(np.arange(len(rows)), [row.cost for row in rows])
        good = np.ones(len(rows), bool)
        np.logical_and.at(good, of_row, finite)
        answers: list[Any] = [NotFinite(f"{self.label} answered with a value that is not finite") for _ in rows]
        kept = [int(index) for index in np.nonzero(good)[0]]
        if kept:
            clean = [output[good[of_row]] for output in outputs]
            for index, answer in zip(kept, self.framing.answers(clean, [rows[i] for i in kept]), strict=True):
                answers[index] = answer
        return answers
