"""`python -m benchmarks.peers.servers.ours serve ...`: the service whose lifter computes nothing.

Everything around the network is real: door, keys, limits, request ids, metrics, queue, batches, framing, scale, place.
Every window gets the same standing person: people of zeros could not be placed.
"""

from __future__ import annotations

import runpy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.sleeping_replica import sleeping_loader
from service import loading
from service.engines.engine import Engine

from .peer_network import STANDING

_without = sleeping_loader(0.0, 0.0)


def without_network(*arguments: Any) -> Engine:
    """What takes the place of `loading.load_engine`: engines that load nothing and answer at once."""
    engine: Engine = _without(*arguments)
    if engine.role == "lift":
        frames = engine.framing.example().shape[1]

        def infer(inputs: Any) -> list[NDArray[Any]]:
            return [np.broadcast_to(STANDING, (len(inputs), frames, *STANDING.shape))]

        engine.infer = infer
    return engine


if __name__ == "__main__":
    loading.load_engine = without_network  # type: ignore[assignment]  # the same call, its arguments passed on
    runpy.run_module("service", run_name="__main__")
