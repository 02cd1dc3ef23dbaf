"""Live streams of a running service: how old frames are when they are answered, and whether bad company changes that.

`python -m benchmarks.live --streams 16 --seconds 20`, or `--crowd 200`. Ages in milliseconds: `age` as the server tells
it, `round_trip` from sending to hearing, which counts this process's own delays too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import websockets
from websockets.asyncio.client import ClientConnection, connect

from service.geometry.skeletons import SKELETONS

from .machine import machine
from .served import own_service

PROTOCOL = "poselift.v1.msgpack"
SIZE = [1280, 720]
JITTER_PX = 1.0
WARM_UP_S = 2.0  # of each stream, which are not counted: the windows are still filling
LEFT_OUT = 0.2  # of a crowd misbehaves


@dataclass
class Heard:
    """What the well-behaved streams heard. sent, answered: frames; codes: how the server closed."""

    sent: int = 0
    answered: int = 0
    dropped: int = 0
    ages: list[float] = field(default_factory=list)
    round_trips: list[float] = field(default_factory=list)
    errors: int = 0
    codes: list[int | None] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "answered": self.answered,
            "dropped": self.dropped,
            "errors": self.errors,
            "closed": {str(code): self.codes.count(code) for code in set(self.codes)},
            "age_ms": _quantiles(self.ages),
            "round_trip_ms": _quantiles(self.round_trips),
        }


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{q:g}": round(float(np.quantile(values, q / 100)), 1) for q in (50, 90, 99, 100)}


def walk(seq: int, fps: float, phase: float) -> list[list[float]]:
    """A person's 17 points (COCO's), legs and arms swinging, with a detector's jitter: no two frames are the same."""
    joints = SKELETONS["coco17"].joints
    across = {"hip": 20, "knee": 21, "ankle": 22, "shoulder": 32, "elbow": 40, "wrist": 44}
    down = {"shoulder": 150, "elbow": 205, "wrist": 255, "hip": 260, "knee": 340, "ankle": 420}
    points = []
    for joint in joints:
        side, _, part = joint.partition("_")
        sign = {"left": 1, "right": -1}.get(side, 0)
        swing = 18 * math.sin(2 * math.pi * seq / fps + phase) * sign if part in ("ankle", "wrist") else 0.0
        x = 640 + sign * across.get(part, 8) + (swing if part == "ankle" else -swing)
        y = down.get(part, 110)
        points.append([round(random.gauss(x, JITTER_PX), 2), round(random.gauss(y, JITTER_PX), 2), 0.9])
    return points


def _dial(url: str) -> connect:
    return connect(
        f"{url}/v1/live/keypoints",
        subprotocols=[websockets.Subprotocol(PROTOCOL)],
        open_timeout=30,
        ping_interval=None,
        compression=None,
        proxy=None,
    )


async def stream(
    url: str,
    fps: float,
    seconds: float,
    latency: str,
    heard: Heard,
    warm_up_s: float,
    leaves_after_s: float | None = None,
) -> None:
    """One stream: a frame every 1 / fps seconds whether or not the last one is answered.

    leaves_after_s: from when on nobody is there any more; without it, it ends as it should.
    """
    phase = random.random() * 2 * math.pi
    frames = round((warm_up_s + seconds) * fps)
    first_counted = round(warm_up_s * fps)
    sent_at: dict[int, float] = {}
    # Made before, so that what loads the service takes no more of its machine than it must.
    bodies = [
        msgpack.packb({"type": "frame", "seq": seq, "time": seq / fps, "keypoints": walk(seq, fps, phase)})
        for seq in range(frames)
    ]
    async with _dial(url) as socket:
        if leaves_after_s is not None:
            asyncio.get_running_loop().call_later(leaves_after_s, socket.transport.abort)
        start = {"type": "start", "skeleton": "coco17", "image_size": SIZE, "fps": fps, "latency": latency}
        await socket.send(msgpack.packb(start))

        async def send() -> None:
            began = time.perf_counter() + random.random() / fps
            for seq in range(frames):
                await asyncio.sleep(max(0.0, began + seq / fps - time.perf_counter()))
                sent_at[seq] = time.perf_counter()
                await socket.send(bodies[seq])
                heard.sent += seq >= first_counted
            await socket.send(msgpack.packb({"type": "end"}))

        sending = asyncio.create_task(send())
        dropped = {"before": 0, "now": 0}
        try:
            async for body in socket:
                message = msgpack.unpackb(body)
                if message["type"] == "pose":
                    counted = message["seq"] >= first_counted
                    dropped["now" if counted else "before"] = message["dropped"]
                    if counted:
                        heard.answered += 1
                        heard.ages.append(message["age_ms"])
                        heard.round_trips.append(1000 * (time.perf_counter() - sent_at[message["seq"]]))
                elif message["type"] == "error":
                    heard.errors += 1
        except websockets.ConnectionClosed:
            pass
        with contextlib.suppress(websockets.ConnectionClosed):
            await sending
        heard.dropped += max(0, dropped["now"] - dropped["before"])
        heard.codes.append(socket.close_code)


async def streams(url: str, count: int, fps: float, seconds: float, latency: str = "low") -> dict[str, Any]:
    """`count` streams at once, one person each."""
    heard = Heard()
    await asyncio.gather(*(stream(url, fps, seconds, latency, heard, WARM_UP_S) for _ in range(count)))
    return {"streams": count, "fps": fps, "latency": latency, "seconds": seconds} | heard.figures()


# ---- A crowd, a part of which misbehaves


async def _never_reads(socket: ClientConnection, seq: int) -> None:
    await socket.send(msgpack.packb({"type": "frame", "seq": seq, "keypoints": walk(seq, 1, 0)}))


async def _garbage(socket: ClientConnection, seq: int) -> None:
    junk: list[bytes | str] = [
        random.randbytes(200),
        "not msgpack at all",
        msgpack.packb({"type": "frame", "seq": -1, "keypoints": [[float("nan")] * 3] * 17}),
        msgpack.packb({"type": "start"}),
        msgpack.packb({"type": "frame", "seq": seq, "keypoints": [[1, 2]] * 5}),
        msgpack.packb([1, 2, 3]),
        b"x" * 2_000_000,
    ]
    await socket.send(random.choice(junk))


async def _vanishes(socket: ClientConnection, seq: int) -> None:
    await socket.send(msgpack.packb({"type": "frame", "seq": seq, "keypoints": walk(seq, 1, 0)}))
    if seq % 2:
        socket.transport.abort()


MISDEEDS = (_never_reads, _garbage, _vanishes)


async def _misbehave(url: str, number: int, until: float, counts: dict[str, int]) -> None:
    """Does one kind of harm, once a second, and comes back whenever it is thrown out."""
    misdeed = MISDEEDS[number % len(MISDEEDS)]
    seq = 0
    while time.perf_counter() < until:
        try:
            async with _dial(url) as socket:
                counts[misdeed.__name__.strip("_")] += 1
                start = {"type": "start", "skeleton": "coco17", "image_size": SIZE, "fps": 1}
                await socket.send(msgpack.packb(start))
                while time.perf_counter() < until:
                    await misdeed(socket, seq)
                    seq += 1
                    await asyncio.sleep(1.0)
                socket.transport.abort()
        except (OSError, websockets.WebSocketException, asyncio.IncompleteReadError):
            await asyncio.sleep(0.5)


async def crowd(url: str, sockets: int, seconds: float, bad: float = LEFT_OUT) -> dict[str, Any]:
    """So many sockets at one frame a second, a part of which never reads, sends garbage, or vanishes."""
    heard, counts = Heard(), {misdeed.__name__.strip("_"): 0 for misdeed in MISDEEDS}
    harmful = round(sockets * bad)
    until = time.perf_counter() + WARM_UP_S + seconds + 2
    mischief = [asyncio.create_task(_misbehave(url, n, until, counts)) for n in range(harmful)]
    try:
        await asyncio.gather(*(stream(url, 1, seconds, "low", heard, WARM_UP_S) for _ in range(sockets - harmful)))
    finally:
        for task in mischief:
            task.cancel()
        await asyncio.gather(*mischief, return_exceptions=True)
    return {"sockets": sockets, "misbehaving": harmful, "misdeeds": counts, "seconds": seconds} | heard.figures()


@contextlib.contextmanager
def _address(url: str | None, streams: int) -> Iterator[str]:
    if url:
        yield url.replace("http", "ws", 1)
        return
    with own_service("--live-streams", str(2 * streams + 64)) as (address, _):
        yield address.replace("http", "ws", 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live", description=__doc__)
    parser.add_argument("--url", help="a running service; by default one is started")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 4, 16], help="how many at once, one run each")
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--latency", choices=("low", "full"), default="low")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each run, after a warm-up")
    parser.add_argument("--crowd", type=int, default=0, help="instead: so many sockets at one frame a second")
    arguments = parser.parse_args()
    if len(set(arguments.streams)) < len(arguments.streams):
        parser.error("--streams takes each number once")
    figures: dict[str, Any] = {"machine": machine()}
    with _address(arguments.url, max([arguments.crowd, *arguments.streams])) as url:
        if arguments.crowd:
            figures["alone"] = asyncio.run(crowd(url, round(arguments.crowd * (1 - LEFT_OUT)), arguments.seconds, 0.0))
            figures["in_bad_company"] = asyncio.run(crowd(url, arguments.crowd, arguments.seconds))
        else:
            for count in arguments.streams:
                figures[f"{count}_streams"] = asyncio.run(
                    streams(url, count, arguments.fps, arguments.seconds, arguments.latency)
                )
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
