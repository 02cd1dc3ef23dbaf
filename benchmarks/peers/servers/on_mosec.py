"""mosec: a front in Rust, a worker process; orjson both ways, where its default is the standard library's json."""

from __future__ import annotations

import sys
from typing import Any

import mosec
import numpy as np
import orjson

from benchmarks.peers.servers.peer_network import BATCHING, MAX_BATCH, MAX_WAIT_S, PORT, Network, window


class Lift(mosec.Worker):  # type: ignore[misc]  # the peer's packages are not here to be looked at
    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def deserialize(self, body: bytes) -> Any:
        return window(orjson.loads(body))

    def serialize(self, pose: Any) -> bytes:
        return orjson.dumps({"joints3d": pose}, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, windows: Any) -> Any:
        return list(self.network(np.stack(windows))) if BATCHING else self.network(windows[None])[0]


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", str(PORT), "--log-level", "warning", "--timeout", "60000"]
    server = mosec.Server()
    if BATCHING:
        server.append_worker(Lift, num=1, max_batch_size=MAX_BATCH, max_wait_time=int(1000 * MAX_WAIT_S))
    else:
        server.append_worker(Lift, num=1)
    server.run()
