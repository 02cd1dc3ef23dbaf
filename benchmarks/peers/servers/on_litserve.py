"""LitServe: an API process, a worker process, a queue between them. Batching is off unless asked for."""

# No annotations from the future: the server reads them, and takes no texts.
from typing import Any

import litserve
import numpy as np

from benchmarks.peers.servers.peer_network import BATCHING, MAX_BATCH, MAX_WAIT_S, PORT, Network, window


class Lift(litserve.LitAPI):  # type: ignore[misc]  # the peer's packages are not here to be looked at
    def setup(self, device: str) -> None:
        self.network = Network()

    def decode_request(self, request: dict[str, Any]) -> Any:
        return window(request)

    def predict(self, windows: Any) -> Any:
        return self.network(windows) if BATCHING else self.network(windows[None])[0]

    def batch(self, windows: list[Any]) -> Any:
        return np.stack(windows)

    def unbatch(self, poses: Any) -> list[Any]:
        return list(poses)

    def encode_response(self, pose: Any) -> dict[str, Any]:
        return {"joints3d": pose.tolist()}


if __name__ == "__main__":
    api = Lift(max_batch_size=MAX_BATCH, batch_timeout=MAX_WAIT_S) if BATCHING else Lift()
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=BATCHING)
    server.run(port=PORT, host="127.0.0.1", log_level="warning", generate_client_file=False)
