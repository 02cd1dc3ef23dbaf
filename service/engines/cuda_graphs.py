"""A step over static tensors on a CUDA device, captured as a graph once for each warmed size: a batch is one replay.

One launch instead of a thousand. Knows tensors, no networks and no rows. Everything runs on the device's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger(__name__)

UNCAPTURED_RUNS = 3  # before a capture: cuDNN tries its kernels, the allocator finds its sizes

Step = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class Captured:
    """A graph, what it reads and what it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: list[Tensor]


class Graphs:
    """A step over static tensors, captured at every size. `step` gets those of `statics(size)`, and gives its outputs.

    Where a capture is not possible the step runs as it is, and `runtime` says so.
    """

    def __init__(self, step: Step, statics: Callable[[int], list[Tensor]], sizes: Sequence[int], device: str) -> None:
        self.sizes, self.device = tuple(sorted(sizes)), device
        self._step = step
        self._captured: dict[int, Captured] = {}
        self._statics = {size: statics(size) for size in reversed(self.sizes)}  # the largest first: others fit into it
        self.runtime = "cuda-graphs"
        torch.backends.cudnn.benchmark = True  # the shapes are few and fixed
        try:
            pool = torch.cuda.graph_pool_handle()
            for size, inputs in self._statics.items():
                self._captured[size] = self._capture(inputs, pool)
        except RuntimeError as error:
            log.warning("no CUDA graphs: %r", error)
            self.runtime = "torch"
            self._captured = {}

    def _capture(self, inputs: list[Tensor], pool: Any) -> Captured:
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(UNCAPTURED_RUNS):
                self._step(*inputs)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Other threads may ask for the device's memory meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                outputs = list(self._step(*inputs))
        return Captured(graph, inputs, outputs)

    def replay(self, size: int) -> Callable[[], object]:
        """The step of that size alone, its inputs as they are: for measurements."""
        return self._captured[size].graph.replay if self._captured else lambda: self._step(*self._statics[size])

    def size_for(self, count: int) -> int:
        return next(size for size in self.sizes if size >= count)

    def run(self, count: int, given: Sequence[Tensor], wanted: int) -> list[NDArray[Any]]:
        """Copies `given` into the beginnings of the inputs, runs, and returns the first `count` of `wanted` outputs."""
        size = self.size_for(count)
        inputs = self._statics[size]
        with torch.no_grad(), torch.cuda.device(self.device):
            for target, source in zip(inputs, given, strict=True):
                target[: len(source)].copy_(source, non_blocking=True)
            if self._captured:
                self._captured[size].graph.replay()
                outputs = self._captured[size].outputs
            else:
                outputs = list(self._step(*inputs))
            answers = [_pinned(output[:count]) for output in outputs[:wanted]]
            torch.cuda.current_stream().synchronize()
        return [answer.numpy() for answer in answers]


def _pinned(output: Tensor) -> Tensor:
    """On its way to pinned memory of its own, which torch keeps for the next of that size."""
    target = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
    return target.copy_(output, non_blocking=True)
