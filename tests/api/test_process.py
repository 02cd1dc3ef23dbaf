"""The whole process under load, from its port to its exit code; its networks are made, all else is what ships."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import httpx
import numpy as np
import pytest

from .conftest import wait_until

START_S = 240.0  # a busy machine loads torch in minutes
BODY = json.dumps(
    {"skeleton": "h36m17", "image_size": [640, 480], "keypoints": np.full((27, 17, 2), 100.5).tolist()}
).encode()


@dataclass
class Process:
    """A running service; `folder` is how its networks are told what to do."""

    url: str
    folder: Path
    running: subprocess.Popen[bytes]

    def tell(self, what: str, text: str = "") -> None:
        (self.folder / what).write_text(text)

    def metric(self, name: str) -> float:
        """A metric's value, by its name and labels without the prefix."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"poselift_{name} "))

    def process_bytes(self) -> float:
        """Resident memory."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith("process_resident_memory_bytes "))

    def lift(self, **headers: str) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/lift", content=BODY, headers=headers, timeout=30)


@contextmanager
def process(folder: Path, *flags: str) -> Iterator[Process]:
    """A service that is ready, on a free port, without a delay before it drains."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.api.made_service", str(folder), "--port", str(port), "--device", "cpu"]
    log = (folder / "log").open("wb")
    with log, subprocess.Popen([*command, "--drain-delay-s", "0", *flags], stdout=log, stderr=log) as running:
        here = Process(f"http://127.0.0.1:{port}", folder, running)

        def ready() -> bool:
            assert running.poll() is None, (folder / "log").read_text()
            with suppress(httpx.TransportError):
                return httpx.get(f"{here.url}/readyz").status_code == 200
            return False

        try:
            wait_until(ready, START_S)
            yield here
        finally:
            running.kill()


@dataclass
class Load:
    """Callers in a closed loop, until the service no longer takes their calls."""

    here: Process
    statuses: list[int] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)  # calls that were accepted and had no whole answer

    def call(self) -> None:
        with httpx.Client(timeout=30) as client:
            while True:
                try:
                    answer = client.post(f"{self.here.url}/v1/lift", content=BODY)
                except httpx.ConnectError:
                    return  # the port is closed: nobody accepted this one
                except httpx.TransportError as error:
                    self.cut.append(repr(error))
                    return
                self.statuses.append(answer.status_code)
                if answer.status_code == 503:
                    return


def long_clip() -> bytes:
    """An MP4 of 400 frames of 64 x 48 pixels: more than is done within the grace of a drain."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(400):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade % 250, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


@dataclass
class Clips:
    """A caller who posts one clip after another; the lines of each answer that began, and how many were cut off."""

    here: Process
    clip: bytes
    answers: list[list[dict[str, Any]]] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    def call(self) -> None:
        with httpx.Client(timeout=60) as client:
            while True:
                lines: list[dict[str, Any]] = []
                try:
                    with client.stream("POST", f"{self.here.url}/v1/clips?lift=false", content=self.clip) as answer:
                        if answer.status_code == 503:
                            return
                        self.answers.append(lines)
                        lines += map(json.loads, answer.iter_lines())
                except httpx.ConnectError:
                    return
                except httpx.TransportError as error:
                    self.cut.append(repr(error))
                    return


def test_deadlines_hold_while_the_device_is_busy_and_a_lost_device_answers_all_and_ends_with_70(tmp_path: Path) -> None:
    with process(tmp_path, "--threads", "1") as here, ThreadPoolExecutor(8) as pool:
        assert here.lift().status_code == 200
        here.tell("seconds", "4")
        waiting = [pool.submit(here.lift) for _ in range(8)]
        wait_until(lambda: here.metric('queue_rows{network="lift_long"}') == 7, 10)
        started = time.monotonic()
        late = here.lift(**{"Request-Timeout-Ms": "300"})
        assert (late.status_code, late.json()["type"]) == (504, "/problems/deadline-passed")
        assert time.monotonic() - started < 3
        assert here.metric("expired_total") == 1
        assert here.metric('rows_total{network="lift_long"}') == 1  # the late one was never computed

        here.tell("sticky")
        answers = [each.result() for each in waiting]
        # The first run had begun before; whoever was behind it is refused, and nobody waits for the end of time.
        assert sorted(answer.status_code for answer in answers) == [200] + 7 * [503]
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert refused.json()["type"] == "/problems/not-ready"
        assert here.running.wait(20) == 70
        log = (tmp_path / "log").read_text()
        assert "the device cpu is lost" in log
        assert "illegal memory access" in log


def drained_under_load(folder: Path) -> None:
    with process(folder, "--drain-grace-s", "1") as here:
        here.tell("seconds", "0.01")
        load, clips = Load(here), Clips(here, long_clip())
        callers = [threading.Thread(target=load.call) for _ in range(8)]
        callers += [threading.Thread(target=clips.call) for _ in range(2)]
        for caller in callers:
            caller.start()
        wait_until(lambda: len(load.statuses) > 20 and len(clips.answers) == 2, 60)
        here.running.send_signal(signal.SIGTERM)
        for caller in callers:
            caller.join(60)
        assert here.running.wait(30) == 0, (folder / "log").read_text()
        assert load.cut == clips.cut == []
        assert set(load.statuses) <= {200, 503}
        for lines in clips.answers:
            frames = [line["index"] for line in lines if line["type"] == "frame"]
            assert lines[-1]["type"] in ("end", "error")
            if lines[-1]["type"] == "error":
                assert lines[-1]["problem"]["status"] == 503
                assert lines[-1]["last_frame"] == (frames[-1] if frames else None)
        assert clips.answers[-1][-1]["type"] == "error"  # the drain did cut something short


def test_a_signal_under_load_loses_no_accepted_request(tmp_path: Path) -> None:
    drained_under_load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("time_of_twenty", range(20))
def test_twenty_signals_under_load_lose_no_accepted_request(tmp_path: Path, time_of_twenty: int) -> None:
    drained_under_load(tmp_path)


@pytest.mark.slow
def test_memory_is_flat_under_load(tmp_path: Path) -> None:
    """Callers of all kinds, a fifth of whom vanish: what the process holds must not grow with how many there were."""
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    picture = cv2.imencode(".jpg", noise)[1].tobytes()
    ended = threading.Event()

    def call(here: Process, number: int) -> None:
        with httpx.Client(timeout=30) as client:
            while not ended.is_set():
                number += 1
                with suppress(httpx.TransportError):
                    impatient = httpx.Timeout(30, read=0.001) if number % 5 == 0 else httpx.Timeout(30)
                    if number % 2:
                        client.post(f"{here.url}/v1/lift", content=BODY, timeout=impatient)
                    else:
                        client.post(f"{here.url}/v1/images?boxes=[[9,9,90,90]]", content=picture, timeout=impatient)

    with process(tmp_path) as here:
        callers = [threading.Thread(target=call, args=(here, n)) for n in range(8)]
        for caller in callers:
            caller.start()
        try:
            held = []
            for _ in range(2):
                before = here.metric('rows_total{network="lift_long"}')
                wait_until(lambda: here.metric('rows_total{network="lift_long"}') > before + 2000, 300)  # noqa: B023
                held.append(here.process_bytes())
        finally:
            ended.set()
            for caller in callers:
                caller.join(60)
        assert here.metric("abandoned_total") > 50
        assert held[1] - held[0] < 24 * 2**20
        queues = [f'queue_rows{{network="{network}"}}' for network in ("pose", "lift_long")]
        wait_until(lambda: all(here.metric(queue) == 0 for queue in queues))
