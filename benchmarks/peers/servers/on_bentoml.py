"""BentoML: one worker, a handler with its array type. Its batches want bodies with a batch axis, which ours lack."""

# No annotations from the future: the server reads them, and takes no texts.
import bentoml
import numpy as np

from benchmarks.peers.servers.peer_network import Network


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Lift:
    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    def predict(
        self,
        skeleton: str,
        image_size: list[int],
        keypoints: np.ndarray,
        frames: str = "all",
    ) -> np.ndarray:
        pose: np.ndarray = self.network(keypoints.astype(np.float32)[None])[0]
        return pose
