"""FastAPI as its tutorial has it: a typed body, a plain `def` handler in the thread pool, one window a call."""

from __future__ import annotations

from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.peers.servers.peer_network import PORT, Network, window

app = FastAPI()
network = Network()


class Body(BaseModel):
    skeleton: str
    image_size: list[int]
    keypoints: list[list[list[float]]]
    frames: str = "all"


@app.post("/predict")
def predict(body: Body) -> dict[str, Any]:
    return {"joints3d": network(window({"keypoints": body.keypoints})[None])[0].tolist()}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, access_log=False, log_level="warning")
