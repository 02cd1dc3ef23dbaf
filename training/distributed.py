"""Several processes train one network: `torchrun --nproc-per-node 8 -m training table II ...`, one process a GPU.

Every process draws batches of its own by number, gradients are averaged (DistributedDataParallel), the first process
alone writes. Without batch norm and random depth, a step of n processes is a step of one with an n times larger batch;
batch norms see their own process's batch, and keep the first one's statistics. Knows no task.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .loop import LoopRecipe, Losses, Run

Loss = Callable[[nn.Module, Any], Losses]

# The first process validates while the others wait at their next step.
LONGEST_WAIT = datetime.timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """rank: of this process, from 0; count: of all; local: its number on this machine, which is its GPU's."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0


def started_by_torchrun() -> Processes:
    """What the environment says; one process where it says nothing."""
    told = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    return Processes(*told)


@contextlib.contextmanager
def joined(processes: Processes, device: torch.device, meeting: str = "env://") -> Iterator[None]:
    """The processes find each other, and part at the end: over NCCL on CUDA, over gloo on a CPU."""
    if processes.count == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, init_method=meeting, rank=processes.rank, world_size=processes.count, timeout=LONGEST_WAIT
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_batches(draw: Callable[[int], Any], processes: Processes) -> Callable[[int], Any]:
    """The batch of a step for this process: together they draw all numbers once, whichever step a run goes on from."""
    return lambda step: draw(step * processes.count + processes.rank)


class _WithLoss(nn.Module):
    """Network and loss in one forward pass, which is what DistributedDataParallel can listen to."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, batch: Any) -> Losses:
        return self.loss(self.module, batch)


def together(module: nn.Module, loss: Loss, processes: Processes, device: torch.device, parts: int = 1) -> Loss:
    """The same loss for `Run.fit`, its gradients averaged over processes and accumulated over parts of a batch.

    Args:
        module: the one that the run trains.
        parts: in how many a batch (a tuple of tensors, the first axis the rows) is computed, one after another, where
            it does not fit into memory at once. It must divide the batch.
    """
    inner: nn.Module = _WithLoss(module, loss)
    if processes.count > 1:
        # Random depth and frozen parts may leave weights without a gradient in one process and not in another.
        ids = [device.index or processes.local] if device.type == "cuda" else None
        inner = DistributedDataParallel(inner, device_ids=ids, find_unused_parameters=True)

    def accumulated(_: nn.Module, batch: Any) -> Losses:
        pieces = _pieces(batch, parts)
        sums: Losses = {}
        for piece in pieces[:-1]:
            quiet = inner.no_sync() if isinstance(inner, DistributedDataParallel) else contextlib.nullcontext()
            with quiet:
                losses = inner(piece)
                (losses["loss"] / parts).backward()
            sums = {name: sums.get(name, 0) + value.detach() / parts for name, value in losses.items()}
        return {name: value / parts + sums.get(name, 0) for name, value in inner(pieces[-1]).items()}

    return accumulated


def _pieces(batch: Any, parts: int) -> list[Any]:
    if parts == 1:
        return [batch]
    rows = len(batch[0])
    if rows % parts:
        raise ValueError(f"a batch of {rows} rows cannot be computed in {parts} equal parts")
    size = rows // parts
    kind = type(batch)
    pieces = [[values[first : first + size] for values in batch] for first in range(0, rows, size)]
    return [kind(*piece) if hasattr(batch, "_fields") else kind(piece) for piece in pieces]


@dataclass(frozen=True)
class Schedule:
    """When a run ends, and how its rate falls: to `fall` of itself every `every` steps."""

    steps: int
    fall: float = 1.0
    every: int = 1


class ScheduledRun(Run):
    """A run of so many steps, alone or among several processes, all of which stop after the same step."""

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        recipe: LoopRecipe,
        device: torch.device,
        schedule: Schedule,
        processes: Processes,
        hours: float,
    ) -> None:
        self.schedule, self.processes = schedule, processes
        self._asked = False
        self._over = False
        self._ends = time.monotonic() + 3600 * hours
        self._agreement: Any = None
        super().__init__(folder, module, recipe, device)
        if processes.count > 1:
            # On the CPU, so that asking costs the GPU nothing.
            self._agreement = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)

    # A signal or the clock may reach one process before another: what they say is looked at after each step, together.
    @property
    def _stop(self) -> bool:
        return self._over or (self._asked and self.processes.count == 1)

    @_stop.setter
    def _stop(self, asked: bool) -> None:
        self._asked = asked

    def _left(self) -> float:
        return 0.0 if self._over else min(super()._left(), self.schedule.steps - self.step)

    def _take_step(self, batch: Any, loss: Loss, share: float = 1.0) -> dict[str, Tensor]:
        fallen = self.schedule.fall ** (self.step // self.schedule.every)
        sums = super()._take_step(batch, loss, share * fallen)
        asked = torch.tensor(float(self._asked or time.monotonic() > self._ends))
        if self._agreement is not None:
            dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._agreement)
        self._over = bool(asked)
        return sums

    def _report(self, figures: dict[str, float]) -> None:
        if self.processes.first:
            super()._report(figures)

    def _save(self, running_s: float) -> None:
        if self.processes.first:
            super()._save(running_s)
        else:
            self._count_skipped()
