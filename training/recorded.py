"""A training step as one CUDA graph: small networks' kernels take longer to start one by one than they do to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UPS = 3  # kernels choose their forms, and the optimiser makes its states, in the first runs


class Recorded:
    """Replays a step on batches of one shape; answers the losses of that replay, good until the next.

    The optimiser's rates become tensors that the graph reads. Random numbers follow the seed that is set before a
    replay, as they do without a graph.

    Args:
        step: does all of its work on the device, and reads nothing else that changes but tensors.
        batch: tensors on the device; those of every replay are copied over them.
        weights: whatever the step changes; nothing is trained while the graph is made.
        optimiser: a fused one, whose step is part of `step`.
    """

    def __init__(
        self,
        step: Callable[[tuple[Tensor, ...]], dict[str, Tensor]],
        batch: Sequence[Tensor],
        weights: Sequence[Tensor],
        optimiser: torch.optim.Optimizer,
    ) -> None:
        self._batch = tuple(each.clone() for each in batch)
        for group in optimiser.param_groups:
            group["lr"], group["capturable"] = torch.zeros((), device=self._batch[0].device), True
        before = [each.detach().clone() for each in weights]
        states = {key: {n: v.clone() for n, v in state.items()} for key, state in optimiser.state.items()}
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                step(self._batch)
        torch.cuda.current_stream().wait_stream(beside)
        with torch.no_grad():
            for each, value in zip(weights, before, strict=True):
                each.copy_(value)
            for key, state in optimiser.state.items():
                for name, value in state.items():
                    value.copy_(states[key][name]) if key in states else value.zero_()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._losses = step(self._batch)

    def __call__(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        for mine, each in zip(self._batch, batch, strict=True):
            mine.copy_(each)
        self._graph.replay()
        return self._losses
