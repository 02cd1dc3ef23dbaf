"""Ray Serve: a proxy process and a replica process, its defaults; batches by `serve.batch` if asked for."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import orjson
from ray import init, serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.servers.peer_network import BATCHING, MAX_BATCH, MAX_WAIT_S, PORT, Network, window


@serve.deployment(num_replicas=1, **({"max_ongoing_requests": 2 * MAX_BATCH} if BATCHING else {}))
class Lift:
    def __init__(self) -> None:
        self.network = Network()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=MAX_WAIT_S)  # type: ignore[untyped-decorator]
    async def batched(self, windows: list[Any]) -> list[Any]:
        return list(self.network(np.stack(windows)))

    async def __call__(self, request: Request) -> Response:
        one = window(orjson.loads(await request.body()))
        pose = await self.batched(one) if BATCHING else self.network(one[None])[0]
        answer = orjson.dumps({"joints3d": pose}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(answer, media_type="application/json")


if __name__ == "__main__":
    init(include_dashboard=False, configure_logging=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False})
    serve.run(Lift.bind(), route_prefix="/predict")  # type: ignore[attr-defined]  # the decorator gives it
    signal.pause()
