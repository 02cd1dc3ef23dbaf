"""What a trained network's channel attention does: its gates on the people of a scoring, and holding them there.

Knows no data and no metric. Gates are 0..1; their spread is a standard deviation over crops.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from service.networks.attention import ChannelAttention


class Gates:
    """Collects the gates of every attention as crops pass; once fixed, each gate is its mean over those crops."""

    def __init__(self) -> None:
        self._seen: dict[nn.Module, list[Tensor]] = {}
        self._means: dict[nn.Module, Tensor] = {}

    def look(self, step: nn.Module, _: Any, before_sigmoid: Tensor) -> Tensor:
        """A hook on an attention's last step."""
        if step in self._means:
            return torch.logit(self._means[step]).to(before_sigmoid.dtype).expand_as(before_sigmoid)
        self._seen.setdefault(step, []).append(before_sigmoid.detach().float().sigmoid())
        return before_sigmoid

    def figures(self) -> dict[str, float]:
        """`gate`, the mean over attentions, channels and crops; `gate_spread`, the mean of each gate's own spread."""
        each = [torch.cat(gates) for gates in self._seen.values()]
        if not each:
            return {}
        spreads = torch.cat([gates.std(0, correction=0).flatten() for gates in each])
        return {
            "gate": float(torch.cat([gates.mean(0).flatten() for gates in each]).mean()),
            "gate_spread": float(spreads.mean()),
        }

    def fix(self) -> bool:
        """From here on every gate is its mean; False where none was seen."""
        self._means = {step: torch.cat(gates).mean(0, keepdim=True) for step, gates in self._seen.items()}
        return bool(self._means)


@contextmanager
def watched(module: nn.Module) -> Iterator[Gates]:
    """The network's gates for as long as it lasts; afterwards the network is as it was."""
    gates = Gates()
    attentions = [each for each in module.modules() if isinstance(each, ChannelAttention)]
    hooks = [each[-1].register_forward_hook(gates.look) for each in attentions]
    try:
        yield gates
    finally:
        for hook in hooks:
            hook.remove()
