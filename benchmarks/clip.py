"""A clip through the service: frames a second over HTTP, and what a frame costs beside the networks and the decoder.

`python -m benchmarks.clip CLIP`. What is above is CPU time of this process with the networks' answers remembered from
a first pass, less the decoder's own in the same pass: lines are made, but neither written as JSON nor sent, which
`over_http` alone has. Milliseconds of CPU a frame; frames a second and the networks' own times are of the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
from numpy.typing import NDArray

from service.assembly import Service, build
from service.engines.engine import Engine
from service.media.videos import Clip, ClipLimits, open_clip
from service.pipelines.call import Call, Class
from service.pipelines.clip import ClipFrame, ClipOptions
from service.settings import Settings

from .machine import load_average, machine
from .served import Served, served

LIMITS = ClipLimits(max_pixels=40_000_000, max_frames=100_000, max_seconds=3600.0)
PATIENCE_S = 1800.0


class Remembering:
    """An engine's forward pass that answers what it has seen before from memory.

    own_s: seconds of the clock in the network itself, by batch size; spent_s: CPU seconds that remembering took.
    """

    def __init__(self, engine: Engine) -> None:
        self._infer, self._known = engine.infer, dict[int, list[NDArray[Any]]]()
        self.own_s: defaultdict[int, list[float]] = defaultdict(list)
        self.spent_s = 0.0
        engine.infer = self

    def __call__(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        started = time.thread_time()
        keys = [hash(row.tobytes()) for row in inputs]
        if all(key in self._known for key in keys):
            rows = [self._known[key] for key in keys]
            answers = [np.stack(each) for each in zip(*rows, strict=True)]
            self.spent_s += time.thread_time() - started
            return answers
        begun = time.perf_counter()
        outputs = self._infer(inputs)
        self.own_s[len(inputs)].append(time.perf_counter() - begun)
        for n, key in enumerate(keys):
            self._known[key] = [output[n] for output in outputs]
        return outputs


class Decoding:
    """Has every clip sum up its decoder's own CPU seconds in `spent_s`, on whatever threads it runs."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        decode = Clip._decode

        def timed(clip: Clip) -> Iterator[av.VideoFrame]:
            frames = decode(clip)
            while True:
                started = time.thread_time()
                frame = next(frames, None)
                self.spent_s += time.thread_time() - started
                if frame is None:
                    return
                yield frame

        Clip._decode = timed  # type: ignore[assignment, method-assign]


def over_http(service: Served, path: Path) -> dict[str, float]:
    """The clip once: frames, seconds of the clock, and CPU seconds of the server."""
    cpu, started, frames, last = service.cpu_seconds(), time.perf_counter(), 0, ""
    with httpx.stream("POST", f"{service.url}/v1/clips", content=path.read_bytes(), timeout=PATIENCE_S) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():  # not parsed: this process must not take the server's cores
            frames += line.startswith('{"type":"frame"')
            last = line
    seconds, cpu = time.perf_counter() - started, service.cpu_seconds() - cpu
    if not last.startswith('{"type":"end"'):
        raise SystemExit(f"the clip did not end well: {last[:300]}")
    return {"frames": frames, "seconds": seconds, "cpu": cpu}


async def in_process(path: Path, passes: int) -> dict[str, Any]:
    """One pass through the networks, and some with their answers remembered."""
    service, decoding = build(Settings()), Decoding()
    try:
        await service.start()
        networks = {slot: Remembering(engine) for slot, engine in service.engines.items()}
        frames, people, _ = await _through(service, path)
        ran = {slot: sum(map(len, each.own_s.values())) for slot, each in networks.items()}
        spent, decoded = [], []
        for _ in range(passes):
            before, begun = sum(each.spent_s for each in networks.values()), decoding.spent_s
            _, _, cpu = await _through(service, path)
            spent.append(cpu - (sum(each.spent_s for each in networks.values()) - before))
            decoded.append(decoding.spent_s - begun)
        missed = sum(sum(map(len, each.own_s.values())) for each in networks.values()) - sum(ran.values())
    finally:
        await service.close()
    own = {slot: sum(map(sum, each.own_s.values())) for slot, each in networks.items()}
    rows = {slot: {size: len(times) for size, times in each.own_s.items()} for slot, each in networks.items()}
    told: dict[str, Any] = {"frames": frames, "people": people, "spent": spent, "decoded": decoded}
    return told | {"own": own, "rows": rows, "missed": missed}


async def _through(service: Service, path: Path) -> tuple[int, int, float]:
    """Frames, people in them, CPU seconds of this process."""
    call = Call("benchmark", Class.CLIP, asyncio.get_running_loop().time() + PATIENCE_S)
    frames, people, started = 0, 0, time.process_time()
    with await service.in_decode_pool(lambda: open_clip(path, LIMITS)) as clip:
        async for item in service.clip.run(clip, ClipOptions(), call):
            if isinstance(item, ClipFrame):
                frames, people = frames + 1, people + len(item.people)
    return frames, people, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clip", description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--repeats", type=int, default=3, help="measured passes of each kind; over HTTP after one more")
    arguments = parser.parse_args()
    path, repeats = arguments.clip, arguments.repeats
    figures: dict[str, Any] = {"machine": machine(), "clip": path.name}
    with served() as service:
        over_http(service, path)
        runs = [over_http(service, path) for _ in range(repeats)]
    inside = asyncio.run(in_process(path, repeats))
    frames = inside["frames"]
    above = [spent - decoded for spent, decoded in zip(inside["spent"], inside["decoded"], strict=True)]

    def ms(seconds: float) -> float:
        return round(1000 * seconds, 2)

    figures |= {
        "frames": frames,
        "people_a_frame": round(inside["people"] / frames, 2),
        "over_http": {
            "frames_a_second": [round(run["frames"] / run["seconds"], 1) for run in runs],
            "cpu_ms_a_frame": [ms(run["cpu"] / run["frames"]) for run in runs],
        },
        "networks_ms_a_frame": {slot: ms(seconds / frames) for slot, seconds in inside["own"].items()},
        "network_runs_by_size": inside["rows"],
        "cpu_ms_a_frame": {
            "without_networks": [ms(spent / frames) for spent in inside["spent"]],
            "decoder": [ms(decoded / frames) for decoded in inside["decoded"]],
            "above_networks_and_decoder": ms(statistics.median(above) / frames),
            "runs_not_remembered": inside["missed"],
        },
        "load_average_after": load_average(),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
