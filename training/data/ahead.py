"""Batches made ahead of their step, by processes of their own. Knows no task: a batch is a tuple of numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
from torch.utils.data import DataLoader, Dataset, default_convert

PREPARED_PER_WORKER = 3


class Ahead:
    """Batches by number. `make` must depend on nothing but the number, so that a run can go on from any step.

    make: the batch of a number, as a (named) tuple of arrays; it comes out as one of tensors.
    workers: processes that prepare; 0 makes each batch when it is asked for.
    pinned: batches lie in memory that a CUDA device copies from while it computes.
    """

    def __init__(self, make: Callable[[int], Any], workers: int, pinned: bool = False) -> None:
        self._make, self._workers, self._pinned = make, workers, pinned
        self._batches: Iterator[Any] = iter(())
        self._next = -1

    def __call__(self, number: int) -> Any:
        if not self._workers:
            return default_convert(self._make(number))  # type: ignore[no-untyped-call]
        if number != self._next:
            self._batches = iter(self._loader(number))
        self._next = number + 1
        return next(self._batches)

    def _loader(self, first: int) -> DataLoader[Any]:
        return DataLoader(
            _Numbered(self._make),
            batch_size=None,
            sampler=range(first, 2**62),
            num_workers=self._workers,
            prefetch_factor=PREPARED_PER_WORKER,
            pin_memory=self._pinned,
            worker_init_fn=_one_thread,
        )


class _Numbered(Dataset[Any]):
    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> Any:
        return self._make(number)


def _one_thread(_: int) -> None:
    """OpenCV's own threads would fight over the cores that the processes already fill."""
    cv2.setNumThreads(0)
