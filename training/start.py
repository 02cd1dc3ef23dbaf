"""What a run starts from: a model of the store, the averaged weights of another run, or arrays in an npz file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.errors import Unreadable
from service.importing.checkpoints import read_checkpoint
from service.networks import ATTENTION, create, load_weights
from service.store.store import Store

Arrays = dict[str, NDArray[Any]]


def read_start(source: str, store: Path) -> Arrays:
    """The weights by name.

    Args:
        source: `name` or `name@version` of the store; a run's checkpoint (.pt); a file of arrays (.npz).
    """
    if source.endswith(".npz"):
        with np.load(source, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    if source.endswith(".pt"):
        state = torch.load(source, map_location="cpu", weights_only=True)
        return weights_of(state["average"])
    return Store(store).find(source).load()


def ended(file: Path) -> Arrays:
    """What a run ended with (its `latest.pt`), or what a public checkpoint holds.

    Raises:
        Unreadable: neither.
    """
    if file.name == "latest.pt":
        try:
            return weights_of(torch.load(file, map_location="cpu", weights_only=True)["module"])
        except Exception as error:  # the decoders' errors are of many kinds
            raise Unreadable(f"{file} is no checkpoint of a run here: {type(error).__name__}") from error
    return read_checkpoint(file).arrays


def started(network: dict[str, Any], arrays: Arrays, source: str) -> nn.Module:
    """The recipe's network with those weights; without its attention where the weights have none.

    Args:
        network: `name` and options, a recipe's [network].
    """
    attends = any(ATTENTION in name for name in arrays)
    options = {k: v for k, v in network.items() if k != "name" and (attends or k not in ("attention", "gate"))}
    module = create(network["name"], **options)
    load_weights(module, arrays, source)
    return module


def attended(network: dict[str, Any], plain: nn.Module, source: str) -> nn.Module:
    """The recipe's network, whole, with the weights of `started`; attention that these lack is at its start."""
    module = create(network["name"], **{k: v for k, v in network.items() if k != "name"})
    load_weights(module, weights_of(plain.state_dict()), source, new_attention=True)
    return module


def weights_of(state: dict[str, torch.Tensor]) -> Arrays:
    """A state dictionary as arrays."""
    return {name: value.detach().cpu().numpy() for name, value in state.items()}
