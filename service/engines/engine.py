"""The promise of an engine: one network on one device, warmed, that turns rows into answers. Knows no queue.

How rows become arrays is the framing's business, how arrays become outputs the runtime's (torch, OpenVINO).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import EngineFailed, NotFinite

Infer = Callable[[NDArray[Any]], list[NDArray[Any]]]  # (n, ...) input to outputs that each have n entries


class Row(Protocol):
    """What a network works on. `cost` is how many of its inputs the row takes."""

    @property
    def cost(self) -> int: ...


class Framing(Protocol):
    """Rows to input array, outputs to answers."""

    def inputs(self, rows: Sequence[Any]) -> NDArray[Any]:
        """(sum of the rows' costs, ...), in the rows' order."""
        ...

    def answers(self, outputs: Sequence[NDArray[Any]], rows: Sequence[Any]) -> list[Any]:
        """One answer a row, in order; outputs are finite."""
        ...

    def example(self) -> NDArray[Any]:
        """One input, (1, ...), to convert and warm the network with."""
        ...


@dataclass(frozen=True)
class Prepared:
    """A batch ready for the device: its rows and their inputs."""

    rows: tuple[Any, ...]
    inputs: NDArray[Any]


class Engine:
    """One network on one device.

    label: name@version; role: person, pose or lift; runtime: openvino or torch; precision: f32 or bf16.
    sizes: the batch sizes that are warmed, rising; no other ever runs.
    budget: the most inputs that a batch of this engine should hold.
    pads: a rest is padded up to the next size (a GPU's time hardly grows with it), else made up of smaller ones (a
    CPU's does).
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
    ) -> None:
        self.label, self.role = label, role
        self.framing, self.infer = framing, infer
        self.sizes = tuple(sorted(sizes))
        if not pads and self.sizes[0] != 1:
            raise ValueError(f"without padding, `sizes` must begin with 1, got {self.sizes}")
        self.budget, self._pads = budget, pads
        self.runtime, self.precision = runtime, precision

    def warm(self) -> None:
        """Runs every size twice, largest first, so that no caller meets a first time."""
        example = self.framing.example()
        for size in reversed(self.sizes):
            for _ in range(2):
                self.infer(np.repeat(example, size, axis=0))

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

    def _in_parts(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Outputs for any number of inputs, from runs of warmed sizes."""
        parts, first = [], 0
        while first < len(inputs):
            left = len(inputs) - first
            if self._pads:
                size = next((size for size in self.sizes if size >= left), self.sizes[-1])
            else:
                size = max(size for size in self.sizes if size <= left)
            part = inputs[first : first + size]
            first += len(part)
            padded = part
            if len(part) < size:
                padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            outputs = self.infer(padded)
            for output in outputs:
                if len(output) != size:
                    raise EngineFailed(f"{self.label} answered {len(output)} rows to {size}")
            parts.append([output[: len(part)] for output in outputs])
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
