"""From the open port to the exit code: loading, draining, and ends that are not wished for."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from service.api import lifecycle
from service.errors import StoreBroken

from .conftest import Served, wait_until
from .fake import FakeService

Serve = Callable[[FakeService], AbstractContextManager[Served]]


def test_the_port_opens_before_the_models_are_warm(served: Serve, photo: bytes) -> None:
    service = FakeService("starting")
    service.loading = threading.Event()
    with served(service) as here:
        assert httpx.get(f"{here.url}/readyz").status_code == 503
        assert httpx.get(f"{here.url}/livez").status_code == 200
        assert httpx.post(f"{here.url}/v1/images", content=photo).status_code == 503
        service.loading.set()
        wait_until(lambda: httpx.get(f"{here.url}/readyz").status_code == 200)
        assert httpx.post(f"{here.url}/v1/images", content=photo).status_code == 200


def test_during_the_delay_all_is_served_and_only_readiness_has_fallen(served: Serve, photo: bytes) -> None:
    service = FakeService(drain_delay_s=0.6)
    with served(service) as here, httpx.Client(base_url=here.url) as client:
        here.stop()
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            assert client.get("/readyz").status_code == 503
            assert client.post("/v1/images", content=photo).status_code == 200
        here.thread.join(5)
        assert here.server.exit_code == 0 and service.drained and service.closed


def test_who_was_let_in_is_answered_and_who_comes_after_is_refused(served: Serve, photo: bytes) -> None:
    service = FakeService()
    service.work.gate = threading.Event()
    with served(service) as here, ThreadPoolExecutor(8) as pool, httpx.Client(base_url=here.url) as kept:
        assert kept.get("/livez").status_code == 200  # its connection stays open
        waiting = [pool.submit(httpx.post, f"{here.url}/v1/images", content=photo) for _ in range(8)]
        wait_until(lambda: service.work.begun == 8)
        here.stop()
        wait_until(lambda: not accepts(here.port))
        refused = kept.post("/v1/images", content=photo)
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        service.work.gate.set()
        assert [one.result().status_code for one in waiting] == [200] * 8
        here.thread.join(5)
        assert here.server.exit_code == 0


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_who_is_not_done_when_the_time_is_up_gets_503_not_silence(served: Serve, photo: bytes, clip: bytes) -> None:
    service = FakeService(drain_grace_s=0.3)
    service.work.gate = threading.Event()
    with served(service) as here, ThreadPoolExecutor(2) as pool:
        picture = pool.submit(httpx.post, f"{here.url}/v1/images", content=photo)
        moving = pool.submit(httpx.post, f"{here.url}/v1/clips", content=clip)
        wait_until(lambda: service.work.begun == 2)
        started = time.monotonic()
        here.stop()
        answer = picture.result()
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/not-ready")
        last = json.loads(moving.result().text.splitlines()[-1])
        assert (last["type"], last["problem"]["status"]) == ("error", 503)
        here.thread.join(5)
        assert time.monotonic() - started < 3 and here.server.exit_code == 0


def test_a_start_that_fails_ends_with_2(served: Serve) -> None:
    service = FakeService("starting")
    service.start_error = StoreBroken("lift-27@3/weights.safetensors: wrong checksum")
    with served(service) as here:
        here.thread.join(5)
        assert here.server.exit_code == 2


def test_a_lost_device_ends_with_70_after_all_were_answered(served: Serve, photo: bytes) -> None:
    service = FakeService()
    service.work.gate = threading.Event()
    with served(service) as here, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.post, f"{here.url}/v1/images", content=photo)
        wait_until(lambda: service.work.begun == 1)
        service.state, service.reason = "failed", "the device is lost"
        assert waiting.result().status_code == 503
        here.thread.join(5)
        assert here.server.exit_code == 70


def test_a_device_lost_during_a_drain_ends_with_70_and_without_its_delay(served: Serve, photo: bytes) -> None:
    service = FakeService(drain_delay_s=30.0, drain_grace_s=30.0)
    service.work.gate = threading.Event()
    with served(service) as here, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.post, f"{here.url}/v1/images", content=photo)
        wait_until(lambda: service.work.begun == 1)
        here.stop()
        wait_until(lambda: service.state == "draining")
        started = time.monotonic()
        service.state, service.reason = "failed", "the device is lost"
        assert waiting.result().status_code == 503
        here.thread.join(10)
        assert time.monotonic() - started < 10 and here.server.exit_code == 70


def test_a_device_lost_in_the_grace_of_a_drain_ends_with_70(served: Serve, photo: bytes) -> None:
    service = FakeService(drain_grace_s=30.0)
    service.work.gate = threading.Event()
    with served(service) as here, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.post, f"{here.url}/v1/images", content=photo)
        wait_until(lambda: service.work.begun == 1)
        here.stop()
        wait_until(lambda: here.server._doors.closing.is_set())
        service.state, service.reason = "failed", "the device is lost"
        assert waiting.result().status_code == 503
        here.thread.join(10)
        assert here.server.exit_code == 70


def test_a_thread_that_waits_for_the_interpreter_waits_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Quick(lifecycle.Server):
        def run(self, sockets: list[socket.socket] | None = None) -> None:
            seen.append(sys.getswitchinterval())

    before = sys.getswitchinterval()
    monkeypatch.setattr(lifecycle, "Server", Quick)
    service = FakeService()
    try:
        assert lifecycle.run(service.as_service, service.settings) == 0
    finally:
        sys.setswitchinterval(before)
    assert seen == [pytest.approx(lifecycle.SWITCH_S)] and before > lifecycle.SWITCH_S


def test_loop_lag_is_measured(served: Serve) -> None:
    with served(FakeService()) as here:
        wait_until(lambda: "poselift_loop_lag_seconds_count 1" in httpx.get(f"{here.url}/metrics").text)


# ---- Signals, in a process of its own

SCRIPT = """
import sys, threading, logging
logging.basicConfig(level="INFO", stream=sys.stderr, format="%(message)s")
from api.fake import FakeService
from service.api.lifecycle import run
service = FakeService({state!r}, drain_delay_s={delay})
if service.state == "starting":
    service.loading = threading.Event()
sys.exit(run(service, service.settings))
"""


def spawn(state: str = "ready", delay: float = 0.0) -> subprocess.Popen[str]:
    """A process that serves; returns once its port is open."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    code = textwrap.dedent(SCRIPT).format(state=state, delay=delay)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if "running on" in line:
            break
    return process


def finish(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=10)
    return process.returncode


def test_the_first_signal_drains_and_the_exit_code_is_0() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        process = spawn()
        process.send_signal(number)
        assert finish(process) == 0


def test_the_second_signal_ends_at_once() -> None:
    process = spawn(delay=60)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert finish(process) == 128 + signal.SIGTERM


def test_a_signal_while_loading_ends_soon() -> None:
    process = spawn("starting", delay=60)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert finish(process) == 0 and time.monotonic() - started < 3
