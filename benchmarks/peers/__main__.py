"""`python -m benchmarks.peers --environments FOLDER`: ours and the peers in turn, as tables and JSON. wrk is the load.

`--install` makes the peers' environments first (some GB in all). A server is started for its turn and ended after it:
an idle one takes time from others. Every round asks each server once, ours first in one and last in the next.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx
import psutil

from benchmarks.bodies import JSON, WINDOW_FRAMES, window_body
from benchmarks.machine import TREE, load_average, machine
from benchmarks.report import table
from benchmarks.wrk import Closed, closed_loop
from service.settings import Settings

from .comparison import OURS, compared
from .engine_file import write_lifter
from .environments import PEERS

BATCHED = "+batches"  # behind a peer's name: batches as its documents advise
START_S = 60.0
WARM_S = 2.0
END_S = 10.0


@contextmanager
def server(name: str, environments: Path, engine: Path | None, frames: str, key: str) -> Iterator[str]:
    """A server of its own on a free port, ready: its door's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(TREE)}
    if name == OURS:
        module = "service" if engine else "benchmarks.peers.servers.ours"
        flags = ["--port", str(port), "--keys", key, "--log-level", "warning", "--drain-delay-s", "0"]
        # What the peers' network has: all callers send one body, and each window is computed, in 32 bits.
        flags += ["--remembered-frames", "0", "--precision", "f32"]
        command, path = [sys.executable, "-m", module, "serve", *flags], "/v1/lift"
    else:
        peer = PEERS[name.removesuffix(BATCHED)]
        command, path = peer.command(environments.resolve(), port), peer.path
        environment |= {"PEER_PORT": str(port), "PEER_ENGINE": str(engine or ""), "PEER_FRAMES": frames}
        environment |= {
            "PEER_THREADS": str(Settings().network_threads),
            "PEER_BATCHING": "1" if name.endswith(BATCHED) else "0",
        }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=TREE, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield f"http://127.0.0.1:{port}{path}"
        except BaseException:
            log.seek(0)
            print(log.read().decode(errors="replace")[-4000:], file=sys.stderr)
            raise
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The server and whatever it has started."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=END_S)
    for left in alive:
        left.kill()
    process.wait()


def ready(url: str, body: bytes, key: str, frames: int) -> None:
    """Waits for the first right answer: that many frames of 17 joints in `joints3d`, or the answer itself."""
    until, told = time.monotonic() + START_S, "nothing"
    while time.monotonic() < until:
        try:
            answer = httpx.post(
                url,
                content=body,
                timeout=30,
                headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            )
            told = f"{answer.status_code} {answer.text[:300]}"
            if answer.status_code == 200:
                shown = answer.json()
                joints = shown["joints3d"] if isinstance(shown, dict) else shown
                if [len(joints), len(joints[0]), len(joints[0][0])] != [frames, 17, 3]:
                    raise SystemExit(f"{url} answers something else: {told}")
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise SystemExit(f"{url} was not ready in {START_S:g} s and told {told}")


def turn(name: str, arguments: argparse.Namespace, engine: Path | None, key: str) -> Closed:
    """One measurement of one server, which is started, warmed and ended for it."""
    body = json.dumps(window_body() | ({"frames": "centre"} if arguments.frames == "centre" else {})).encode()
    with server(name, arguments.environments, engine, arguments.frames, key) as url:
        ready(url, body, key, 1 if arguments.frames == "centre" else WINDOW_FRAMES)
        closed_loop(url, body, JSON, arguments.callers, WARM_S, key)
        seen = closed_loop(url, body, JSON, arguments.callers, arguments.seconds, key)
    print(f"{name}: {seen}, load average {load_average()}", file=sys.stderr, flush=True)
    return seen


def rounds_of(arguments: argparse.Namespace, engine: Path | None) -> list[Mapping[str, Closed]]:
    key, measured = secrets.token_hex(16), []
    names = [OURS, *arguments.servers]
    for number in range(arguments.rounds):
        found = {name: turn(name, arguments, engine, key) for name in (names if number % 2 == 0 else names[::-1])}
        measured.append({name: found[name] for name in names})
    return list(measured)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--environments", type=Path, required=True, help="folder of the peers' environments")
    parser.add_argument("--install", action="store_true", help="make them first")
    parser.add_argument("--backend", choices=("noop", "lifter"), default="noop", help="a network of nothing, or ours")
    parser.add_argument("--frames", choices=("all", "centre"), default="all", help="which frames are answered")
    parser.add_argument("--servers", nargs="+", default=list(PEERS), help=f"peers; NAME{BATCHED}: with batches")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    arguments = parser.parse_args()
    peers = {name.removesuffix(BATCHED): PEERS[name.removesuffix(BATCHED)] for name in arguments.servers}
    if arguments.install:
        for peer in peers.values():
            peer.install(arguments.environments)
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        engine = write_lifter(Path(folder)) if arguments.backend == "lifter" else None
        rounds = rounds_of(arguments, engine)
    lines = compared(rounds)
    figures = {
        "machine": before,
        "load_average_after": load_average(),
        "backend": arguments.backend,
        "frames": arguments.frames,
        "callers": arguments.callers,
        "seconds": arguments.seconds,
        "versions": {name: peer.versions(arguments.environments) for name, peer in peers.items()},
        "lines": lines,
        "rounds": [{name: asdict(each) for name, each in one.items()} for one in rounds],
    }
    print(json.dumps(figures, indent=1))
    print(table(lines))


if __name__ == "__main__":
    main()
