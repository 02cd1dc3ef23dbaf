"""A mixed load of 80 % of what the CPU can do, a fifth of whose callers vanish, for minutes: what it leaves behind.

Windows, photos and clips come by chance, each at its share of the rate that a closed loop of it alone had reached; live
streams are held beside them. Every share is one of the same CPU's time, so their sum is the load. Memory in MB (2^20
bytes), and how it grows once the first part has warmed all pools.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import websockets

from service.metrics import NETWORKS
from service.settings import cpu_limit

from . import live
from .bodies import JPEG, JSON, MP4, rendered_clip, rendered_photos, windows
from .overload import capacity
from .poisson import LEFT, VANISH_S, Heard, open_loop
from .served import Served, since
from .wrk import closed_loop

SHARES = {"lift": 0.2, "photo": 0.25, "clip": 0.15, "live": 0.2}
VANISH = 0.2
LIVE_STREAMS, LIVE_S = 6, 10.0  # at once, and how long one lasts
LIVE_FPS = (1.0, 60.0)  # the least and the most of a stream
WARM_UP = 0.2  # of the time, in which memory is not looked at
SETTLE_S = 10.0  # for what vanished callers had begun
MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Kind:
    """What one kind of request posts: any of `bodies`, each as often as the others."""

    path: str
    bodies: Sequence[bytes]
    content_type: str


def kinds() -> dict[str, Kind]:
    return {
        "lift": Kind("/v1/lift", [windows(1)], JSON),
        "photo": Kind("/v1/images", rendered_photos(), JPEG),
        "clip": Kind("/v1/clips", [rendered_clip()], MP4),
    }


def full_rates(served: Served, asked: Mapping[str, Kind]) -> dict[str, float]:
    """Of each kind, requests a second where the service does nothing else; of live streams, frames.

    Two callers of photos and clips keep a decoder and the networks busy. A live frame is reckoned as a window of
    /v1/lift, which the same network lifts.
    """
    full = {"lift": capacity(served, 4)}
    for name, seconds in (("photo", 4.0), ("clip", 20.0)):
        kind = asked[name]
        loops = [closed_loop(served.url + kind.path, body, kind.content_type, 2, seconds) for body in kind.bodies]
        if any(loop.errors or not loop.requests for loop in loops):
            raise SystemExit(f"{kind.path} did not answer all requests of a closed loop")
        full[name] = statistics.harmonic_mean(loop.requests_a_second for loop in loops)
    return full | {"live": full["lift"]}


def soak(served: Served, minutes: float) -> list[dict[str, Any]]:
    """One line: of each kind what became of its requests, then memory's slope, and what is left behind at the end."""
    asked = kinds()
    return [{"minutes": minutes} | mixed(served, asked, full_rates(served, asked), 60 * minutes)]


def mixed(
    served: Served, asked: Mapping[str, Kind], full: Mapping[str, float], seconds: float, live_s: float = LIVE_S
) -> dict[str, Any]:
    """The mix for so long. full: see `full_rates`; live_s: how long a stream lasts."""
    rates = {name: share * full[name] for name, share in SHARES.items()}
    before, cpu_s, files = served.metrics(), served.cpu_seconds(), served.open_files()
    ended, memory_mb = threading.Event(), list[float]()

    def watch() -> None:
        while not ended.wait(min(1.0, seconds / 60)):
            memory_mb.append(served.memory_bytes() / MEGABYTE)

    def post(name: str) -> Heard:
        kind = asked[name]
        within = max(VANISH_S, 0.5 / full[name])  # half of what one alone takes: before its answer
        return open_loop(served.port, kind.path, kind.bodies, kind.content_type, rates[name], seconds, VANISH, within)

    with ThreadPoolExecutor(len(SHARES) + 1) as pool:
        watching = pool.submit(watch)
        try:
            posting = {name: pool.submit(post, name) for name in asked}
            streams = asyncio.run(hold_streams(served.url.replace("http", "ws", 1), rates["live"], seconds, live_s))
            heard = {name: future.result() for name, future in posting.items()}
        finally:
            ended.set()
        watching.result()
    cpu_s = served.cpu_seconds() - cpu_s
    after = settled(served)
    line: dict[str, Any] = {}
    for name, each in heard.items():
        line |= {f"{name}_{what}": value for what, value in told(each, rates[name], seconds).items()}
    return (
        line
        | {f"live_{what}": value for what, value in streams.items()}
        | {"cpu_share": round(cpu_s / seconds / cpu_limit(), 2)}
        | slopes(memory_mb, seconds)
        | {
            "abandoned_total": since(before, after, "abandoned_total"),
            **{f"queue_rows_after_{name}": after[f'queue_rows{{network="{name}"}}'] for name in NETWORKS},
            "live_streams_after": after["live_streams"],
            "temporary_files_after": served.temporary_files(),
            "open_files_first": files,
            "open_files_after": served.open_files(),
        }
    )


def told(heard: Heard, rate: float, seconds: float) -> dict[str, Any]:
    """What became of one kind's requests, and the 99th percentile of the first and of the last third of the time."""
    answered, third = heard.status == 200, seconds / 3
    parts = {"first": heard.due < third, "last": heard.due >= 2 * third}
    p99 = {
        f"p99_ms_{name}_third": round(1000 * float(np.quantile(heard.took[answered & part], 0.99)), 1)
        for name, part in parts.items()
        if (answered & part).any()
    }
    return {
        "rate": round(rate, 2),
        "asked": len(heard.status),
        "answered": heard.count(200),
        "vanished": heard.count(LEFT),
        "shed": heard.count(503) + heard.count(429),
        "expired": heard.count(504),
        "failed": heard.failed - heard.count(504),
    } | p99


def slopes(memory_mb: Sequence[float], seconds: float) -> dict[str, Any]:
    """How memory grew after the first part, and of that in the second half of the time.

    Args:
        memory_mb: samples at equal steps over the whole time.
    """

    def a_minute(part: Sequence[float]) -> float:
        minutes = np.arange(len(part)) * seconds / 60 / len(memory_mb)
        return round(float(np.polyfit(minutes, part, 1)[0]), 3)

    warm, half = memory_mb[int(WARM_UP * len(memory_mb)) :], memory_mb[len(memory_mb) // 2 :]
    tenths = np.linspace(0, len(memory_mb) - 1, 11).round().astype(int)
    return {
        "memory_mb_first": round(warm[0], 1),
        "memory_mb_last": round(warm[-1], 1),
        "memory_mb_a_minute": a_minute(warm),
        "memory_mb_a_minute_in_the_second_half": a_minute(half),
        "memory_mb_by_tenths": [round(memory_mb[n], 1) for n in tenths],
    }


def settled(served: Served) -> dict[str, float]:
    """The metrics once nothing is queued and no stream is open, or as they are after SETTLE_S."""
    until = time.monotonic() + SETTLE_S
    while True:
        now = served.metrics()
        idle = not any(value for name, value in now.items() if name.startswith("queue_rows{") or name == "live_streams")
        if idle or time.monotonic() > until:
            return now
        time.sleep(0.1)


async def hold_streams(url: str, frames_a_second: float, seconds: float, live_s: float) -> dict[str, Any]:
    """LIVE_STREAMS at once that share these frames, each followed by another, and what became of them."""
    fps = min(max(frames_a_second / LIVE_STREAMS, LIVE_FPS[0]), LIVE_FPS[1])
    counts = dict.fromkeys(("asked", "answered", "vanished", "shed", "failed"), 0)
    heard, until = live.Heard(), time.perf_counter() + seconds

    async def hold(chance: random.Random) -> None:
        left = seconds
        while left > live_s / 2:  # what is left then is too short for another
            leaves = chance.uniform(0, live_s) if chance.random() < VANISH else None
            counts["asked"] += 1
            became = await _held(url, fps, min(live_s, left), heard, leaves)
            counts[became] += 1
            if became in ("shed", "failed"):
                await asyncio.sleep(min(1.0, live_s))  # as its client would before it tries again
            left = until - time.perf_counter()

    await asyncio.gather(*(hold(random.Random(seed)) for seed in range(LIVE_STREAMS)))
    frames = {"frames": heard.sent, "frames_answered": heard.answered, "frames_dropped": heard.dropped}
    return {"streams": LIVE_STREAMS, "fps": round(fps, 2)} | counts | frames | {"frame_errors": heard.errors}


async def _held(url: str, fps: float, seconds: float, heard: live.Heard, leaves: float | None) -> str:
    """One stream, and what became of it. leaves: seconds after which its caller vanishes, if it is still there."""
    try:
        await live.stream(url, fps, seconds, "low", heard, 0.0, leaves)
        code = heard.codes[-1]
    except websockets.ConnectionClosed as closed:  # before it had begun
        code = closed.rcvd.code if closed.rcvd else None
    except (OSError, websockets.WebSocketException):
        return "failed"
    if code == 1013:
        return "shed"
    return "answered" if code == 1000 else "vanished" if leaves is not None else "failed"
