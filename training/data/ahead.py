"""Batches made ahead of their step, by processes of their own. Knows no task: a batch is a tuple of arrays.

Batches travel through anonymous shared memory, which no limit on /dev/shm touches, and which a CUDA device can read
while it computes.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import default_convert

PREPARED_PER_WORKER = 3
STEPS_IN_FLIGHT = 2  # batches whose memory a device may still be reading, before it is written again
ALIGNED = 64  # bytes at which arrays begin
FORK = multiprocessing.get_context("fork")  # children see what the parent has read, and pictures that it has decoded


class Ahead:
    """Batches by number. `make` must depend on nothing but the number, so that a run can go on from any step.

    make: the batch of a number, as a (named) tuple of arrays; it comes out as one of tensors.
    workers: processes that prepare; 0 makes each batch when it is asked for.
    pinned: batches lie in memory that a CUDA device copies from while it computes; such a batch is good until the
    next one is asked for (work that is queued on the current stream by then included).
    """

    def __init__(self, make: Callable[[int], Any], workers: int, pinned: bool = False) -> None:
        self._make, self._workers, self._pinned = make, workers, pinned
        self._others: list[_Worker] = []
        self._first = 0
        self._next = -1
        self._reading: deque[tuple[_Worker, torch.cuda.Event | None]] = deque()

    def __call__(self, number: int) -> Any:
        if not self._workers:
            return default_convert(self._make(number))  # type: ignore[no-untyped-call]
        if number != self._next:
            self._next = number + 1
            return self._begin(number)
        self._next = number + 1
        if self._pinned:
            self._let_go()
        worker = self._others[(number - self._first) % self._workers]
        batch = worker.take()
        if self._pinned:
            self._reading.append((worker, None))
            return batch
        batch = _rebuilt(batch, [each.clone() for each in batch])
        worker.let_go()
        return batch

    def _begin(self, number: int) -> Any:
        """Starts the processes from the next number on; this one is made here, and tells how large batches are."""
        self.close()
        batch = self._make(number)
        most = _room([np.asarray(each) for each in batch])
        self._first = number + 1
        for worker in range(self._workers):
            numbers = range(self._first + worker, 2**62, self._workers)
            self._others.append(_Worker(self._make, numbers, most, self._pinned))
        return default_convert(batch)  # type: ignore[no-untyped-call]

    def _let_go(self) -> None:
        """What was queued since the last batch is marked, and memory that was read by then is given back."""
        if self._reading:
            worker, _ = self._reading.pop()
            read = torch.cuda.Event()  # type: ignore[no-untyped-call]
            read.record()
            self._reading.append((worker, read))
        while len(self._reading) >= STEPS_IN_FLIGHT:
            worker, done = self._reading.popleft()
            if done is not None:
                done.synchronize()
            worker.let_go()

    def close(self) -> None:
        """Ends the processes."""
        if self._reading:
            torch.cuda.synchronize()
            self._reading.clear()
        for worker in self._others:
            worker.close()
        self._others = []


class _Worker:
    """A process that makes the batches of some numbers, in turn, into a ring of slots that both sides see."""

    def __init__(self, make: Callable[[int], Any], numbers: range, slot_bytes: int, pinned: bool) -> None:
        self._memory = np.frombuffer(mmap.mmap(-1, PREPARED_PER_WORKER * slot_bytes), np.uint8)
        self._slots = self._memory.reshape(PREPARED_PER_WORKER, slot_bytes)
        self._free = FORK.Semaphore(PREPARED_PER_WORKER)
        self._told, tells = FORK.Pipe(duplex=False)
        told = (make, numbers, self._slots, self._free, tells)
        self._process = FORK.Process(target=_work, args=told, daemon=True)
        self._process.start()
        tells.close()
        self._taken = 0
        self._pinned = pinned and _page_locked(self._memory)

    def take(self) -> Any:
        """The next batch, as views of its slot. Raises what was raised in the process."""
        try:
            told = self._told.recv()
        except EOFError as gone:
            raise RuntimeError(f"a process that prepares batches ended with {self._process.exitcode}") from gone
        if isinstance(told, BaseException):
            raise told
        kind, forms = told
        slot = self._slots[self._taken % PREPARED_PER_WORKER]
        self._taken += 1
        if forms is None:
            return default_convert(kind)  # type: ignore[no-untyped-call]
        return _rebuilt(kind, [torch.from_numpy(view) for view in _views(slot, forms)])

    def let_go(self) -> None:
        """Gives the oldest slot that was taken back to the process."""
        self._free.release()

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._told.close()
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._memory.ctypes.data)  # type: ignore[no-untyped-call]


def _work(make: Callable[[int], Any], numbers: range, slots: NDArray[np.uint8], free: Any, tells: Any) -> None:
    """What a process does until its parent is gone."""
    # The parent's handlers came along, and a shell sends its signals to the whole group: the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Threads of their own would fight over the cores that the processes already fill, and do not survive a fork.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    parent = os.getppid()
    with contextlib.suppress(BrokenPipeError):
        for turn, number in enumerate(numbers):
            while not free.acquire(timeout=5):
                if os.getppid() != parent:
                    return
            try:
                batch = make(number)
                arrays = [np.ascontiguousarray(each) for each in batch]
            except Exception as error:
                tells.send(error)
                return
            if _room(arrays) > slots.shape[1]:
                tells.send((_rebuilt(batch, arrays), None))
                continue
            forms = [(array.dtype.str, array.shape) for array in arrays]
            for view, array in zip(_views(slots[turn % len(slots)], forms), arrays, strict=True):
                view[...] = array
            tells.send((_rebuilt(batch, [None] * len(arrays)), forms))


def _views(slot: NDArray[np.uint8], forms: Sequence[tuple[str, tuple[int, ...]]]) -> list[NDArray[Any]]:
    """A slot as arrays of those forms, one behind the other."""
    views, first = [], 0
    for kind, shape in forms:
        last = first + int(np.dtype(kind).itemsize * np.prod(shape, dtype=int))
        views.append(slot[first:last].view(kind).reshape(shape))
        first = _aligned(last)
    return views


def _room(arrays: Sequence[NDArray[Any]]) -> int:
    """Bytes that a slot needs for those arrays."""
    return sum(_aligned(array.nbytes) for array in arrays)


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _rebuilt(batch: Any, values: Sequence[Any]) -> Any:
    """A tuple of the batch's kind with other values."""
    return batch._make(values) if hasattr(batch, "_make") else tuple(values)


def _page_locked(memory: NDArray[np.uint8]) -> bool:
    """Whether CUDA agreed to read this memory by itself; where it does not, copies take their time but are right."""
    done = torch.cuda.cudart().cudaHostRegister(memory.ctypes.data, memory.nbytes, 0)  # type: ignore[no-untyped-call]
    return int(done) == 0
