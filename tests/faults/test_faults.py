"""The fault list: what breaks under a service, and that whoever waits is answered and the next one is served.

Changed weights and manifests: tests/test_failed_starts.py. A device lost in a drain: tests/api/test_lifecycle.py.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api import images
from service.store.store import Store, embedded_store
from tests.api.conftest import Served, _served, client_of, wait_until
from tests.api.conftest import clip as clip
from tests.api.conftest import photo as photo
from tests.api.fake import FakeService
from tests.api.open_inference.fake import TinyService, crops
from tests.api.test_process import process

RAW = {"Inference-Header-Content-Length": "0"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def here() -> Iterator[Served]:
    with _served(FakeService()) as served:
        yield served


# ---- Disk and memory


def test_a_full_disk_is_503_and_the_next_clip_is_served(
    here: Served, clip: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = tmp_path / "spooled"
    name.touch()
    with monkeypatch.context() as patched:
        full = os.open("/dev/full", os.O_WRONLY)
        patched.setattr("service.api.uploads.tempfile.mkstemp", lambda **_: (full, str(name)))
        refused = httpx.post(f"{here.url}/v1/clips", content=clip)
    assert refused.status_code == 503 and refused.headers["retry-after"] == "10"
    assert "disk" in refused.json()["detail"] and not name.exists()
    assert httpx.post(f"{here.url}/v1/clips", content=clip).status_code == 200


def test_no_memory_for_a_decode_is_503_and_the_next_photo_is_served(
    here: Served, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> None:
        raise MemoryError("cannot allocate 9 GB")

    with monkeypatch.context() as patched:
        patched.setattr(images, "read_picture", too_large)
        refused = httpx.post(f"{here.url}/v1/images", content=photo)
    assert refused.status_code == 503 and "retry-after" in refused.headers and "9 GB" not in refused.text
    assert httpx.post(f"{here.url}/v1/images", content=photo).status_code == 200


# ---- Engines


@pytest.mark.anyio
async def test_an_engine_that_raises_fails_who_asked_and_nobody_after(monkeypatch: pytest.MonkeyPatch) -> None:
    service = TinyService()
    await service.start()
    works = service.pose.engine.infer

    def breaks(inputs: Any) -> Any:
        raise RuntimeError("the runtime's own words")

    async with client_of(service) as door:
        service.pose.engine.infer = breaks
        broken = await door.post("/v2/models/pose/infer", content=crops(1).tobytes(), headers=RAW)
        service.pose.engine.infer = works
        again = await door.post("/v2/models/pose/infer", content=crops(1).tobytes(), headers=RAW)
    await service.close()
    assert (broken.status_code, again.status_code) == (500, 200)
    assert "the runtime's own words" not in broken.text


def test_an_engine_that_hangs_holds_nobody_beyond_the_deadline_and_the_process_stays_alive() -> None:
    service = TinyService()
    with _served(service) as here, httpx.Client(base_url=here.url) as client:
        service.network.gate.clear()
        started = time.monotonic()
        headers = RAW | {"Request-Timeout-Ms": "300"}
        url, statuses = f"{here.url}/v2/models/pose/infer", []

        def ask() -> None:
            statuses.append(httpx.post(url, content=crops(1).tobytes(), headers=headers).status_code)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert client.get("/livez").status_code == 200
        assert statuses == [504] * 4 and time.monotonic() - started < 5
        service.network.gate.set()
        assert client.post("/v2/models/pose/infer", content=crops(1).tobytes(), headers=RAW).status_code == 200


@pytest.mark.slow
def test_a_lost_device_answers_all_who_wait_is_not_ready_and_ends_the_process_with_70(tmp_path: Path) -> None:
    """A whole process, whose runs fail as CUDA's do once its context is gone."""
    one = process(tmp_path, "--threads", "1")  # so that one batch runs at a time
    with one as here, ThreadPoolExecutor(8) as pool, httpx.Client(base_url=here.url) as kept:
        assert here.lift().status_code == 200 and kept.get("/readyz").status_code == 200
        here.tell("seconds", "2")
        waiting = [pool.submit(here.lift) for _ in range(8)]
        wait_until(lambda: here.metric('queue_rows{network="lift_long"}') == 7, 20)
        # Somebody is still sending: for whom the end waits a little, so that there is time to look.
        address = httpx.URL(here.url)
        with socket.create_connection((address.host, address.port or 0), timeout=20) as sending:
            sending.sendall(b"POST /v1/lift HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{")
            here.tell("sticky")
            states = []
            with suppress(httpx.TransportError):  # the end of the process
                while True:
                    states.append(kept.get("/readyz"))
                    time.sleep(0.01)
        # The run that had begun was answered; whoever was behind it is told, and nobody waits in vain.
        assert sorted(each.result(30).status_code for each in waiting) == [200] + 7 * [503]
        assert here.running.wait(30) == 70
    lost = [each.json() for each in states if each.status_code == 503]
    assert {each.status_code for each in states} == {200, 503}
    assert all(each["state"] == "failed" and "device" in each["reason"] for each in lost)
    log = (tmp_path / "log").read_text()
    assert "the device cpu is lost" in log and "illegal memory access" in log


# ---- Clocks


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0, 1e9])
def test_a_clock_that_jumps_ends_no_request_and_prolongs_none(
    here: Served, photo: bytes, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    service: FakeService = here.server.config.app.state.service  # type: ignore[union-attr]
    service.work.gate = threading.Event()
    real, answers = time.time, []
    url = f"{here.url}/v1/images"
    waiting = threading.Thread(target=lambda: answers.append(httpx.post(url, content=photo).status_code))
    waiting.start()
    wait_until(lambda: service.work.begun == 1)
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    late = httpx.post(url, content=photo, headers={"Request-Timeout-Ms": "200"})
    service.work.gate.set()
    waiting.join(10)
    assert answers == [200] and late.status_code == 504


# ---- Callers


@pytest.mark.slow
def test_a_thousand_slow_clients_take_nothing_from_a_quick_one(photo: bytes) -> None:
    service = FakeService(header_timeout_s=20, max_sockets=2000)
    with _served(service) as here, ExitStack() as stack:
        begun = time.monotonic()
        for number in range(1000):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", here.port), timeout=10))
            head = b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
            slow.sendall(head + b"\r\n" + photo[:50] if number % 2 else head)
        wait_until(lambda: len(here.server.server_state.connections) >= 1000, within_s=15)
        with httpx.Client(base_url=here.url) as quick:
            times = []
            for _ in range(50):
                started = time.monotonic()
                assert quick.post("/v1/images", content=photo).status_code == 200
                times.append(time.monotonic() - started)
            assert quick.get("/readyz").status_code == 200
        # Those without a head are let go; those who send a body have their time.
        wait_until(lambda: len(here.server.server_state.connections) <= 500, within_s=60)
        assert time.monotonic() - begun < 100
    assert sorted(times)[25] < 1


# ---- The store

GROW = """
import sys
from dataclasses import replace
from pathlib import Path
from service.store.store import Store, embedded_store
folder = Path(sys.argv[1])
entry = Store(embedded_store()).find("rtmdet-nano")
weights = entry.load()
print("begins", flush=True)
for version in range(1, 1000):
    Store(folder).add(replace(entry.manifest, version=version), weights, "card")
    print(version, flush=True)
"""


@pytest.mark.slow
def test_an_import_killed_at_any_moment_leaves_a_whole_store(tmp_path: Path) -> None:
    for moment in range(8):
        folder = tmp_path / str(moment)
        folder.mkdir()
        command = [sys.executable, "-c", GROW, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert process.stdout is not None and process.stdout.readline() == "begins\n"
        for _ in range(2):
            process.stdout.readline()
        time.sleep(0.007 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        process.stdout.close()
        store = Store(folder)
        assert store.check() == [] and len(store.entries()) >= 2
        # What it was writing lies hidden, and the next import of that version goes through.
        newest = store.entries()[-1].manifest
        source = Store(embedded_store()).find("rtmdet-nano")
        Store(folder).add(replace(newest, version=newest.version + 1), source.load(), "card")
        assert Store(folder).check() == []


@pytest.mark.parametrize("cut", ["manifest.toml", "weights.safetensors"])
def test_a_store_half_written_stops_the_start_and_names_the_file(tmp_path: Path, cut: str) -> None:
    shutil.copytree(embedded_store(), tmp_path / "store")
    file = next((tmp_path / "store" / "rtmdet-nano").rglob(cut))
    file.write_bytes(file.read_bytes()[:20])  # the middle of a manifest may be where a table ends
    command = [
        sys.executable,
        "-m",
        "service",
        "serve",
        "--port",
        "0",
        "--device",
        "cpu",
        "--store",
        f"{tmp_path}/store",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert run.returncode == 2 and cut in run.stderr and "Traceback" not in run.stderr


def test_what_is_still_being_written_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / ".rtmdet-nano@9.abc").mkdir()
    (tmp_path / "rtmdet-nano" / ".growing").mkdir(parents=True)
    assert Store(tmp_path).entries() == () and Store(tmp_path).check() == []


@pytest.mark.anyio
async def test_a_caller_who_leaves_while_a_model_is_loaded_stops_nothing() -> None:
    service = TinyService()
    await service.start()
    loading, load = asyncio.Event(), service.load_model

    async def slowly(label: str) -> str:
        loading.set()
        await asyncio.sleep(0.1)
        return await load(label)

    service.load_model = slowly  # type: ignore[method-assign]
    async with client_of(service) as door:
        asking = asyncio.create_task(door.post("/v2/repository/models/bright/load"))
        await loading.wait()
        asking.cancel()
        async with asyncio.timeout(5):
            while service.labels["pose"] != "bright@4":
                await asyncio.sleep(0.01)
    await service.close()
