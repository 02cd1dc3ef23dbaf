"""What the doctor finds: nothing where nothing is, and each fault by name with a way to mend it."""

from __future__ import annotations

import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service import doctor
from service.doctor import Finding, examine
from service.settings import Settings
from service.store.store import embedded_store


def of(name: str, **settings: Any) -> Finding:
    """The finding of that name."""
    values: dict[str, Any] = {"device": "cpu", "port": 0} | settings
    (found,) = [finding for finding in examine(Settings(**values)) if finding.name == name]
    return found


@pytest.fixture(autouse=True)
def no_store(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The store is read by the tests that are about it alone."""
    if "store" not in request.node.name:
        monkeypatch.setattr(doctor, "LOOKS", tuple(look for look in doctor.LOOKS if look.__name__ != "_store"))


def test_whatever_is_not_ok_says_how_to_mend_it() -> None:
    findings = examine(Settings(device="cpu", port=0, host="0.0.0.0", threads=1000))
    assert {finding.grade for finding in findings} >= {"ok", "slow", "broken"}
    assert all(finding.mend for finding in findings if finding.grade != "ok")


def test_the_embedded_store_is_whole_and_serves_every_role() -> None:
    findings = {finding.name: finding for finding in examine(Settings(device="cpu", port=0))}
    for role in ("person", "pose", "lift"):
        assert findings[f"model {role}"].grade == "ok"
    assert findings["model lift"].told.startswith("lift-1@")
    moving = findings["model lift, for what moves"]
    assert moving.grade == "ok" and moving.told.startswith("lift-27@")


def test_of_a_store_with_one_lifter_no_other_is_named(tmp_path: Path) -> None:
    shutil.copytree(embedded_store(), tmp_path / "store", ignore=shutil.ignore_patterns("lift-27"))
    names = {finding.name for finding in examine(Settings(device="cpu", port=0, store=tmp_path / "store"))}
    assert "model lift" in names and "model lift, for what moves" not in names


def test_a_changed_weight_in_the_store_is_found(tmp_path: Path) -> None:
    shutil.copytree(embedded_store() / "rtmdet-nano", tmp_path / "rtmdet-nano")
    weights = next(tmp_path.rglob("weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    found = of("store", store=tmp_path)
    assert found.grade == "broken" and "weights.safetensors" in found.told


def test_a_store_without_a_named_model_is_found() -> None:
    assert of("model pose", pose="nobody").grade == "broken"


def test_a_port_that_is_taken_is_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = of("port", port=taken.getsockname()[1])
    assert found.grade == "broken" and "cannot be opened" in found.told


def test_more_threads_than_cpus_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cpu_limit", lambda: 2)
    assert of("threads", threads=3).grade == "slow"
    assert of("threads", threads=2).grade == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert of("OMP_NUM_THREADS").grade == "slow"


@pytest.mark.parametrize(
    ("flags", "grade", "told"),
    [("sse2", "slow", "without AVX2"), ("avx2", "slow", "AVX-512"), ("avx2 avx512f amx_bf16", "ok", "amx_bf16")],
)
def test_instruction_sets_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, grade: str, told: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: Test CPU\nflags\t\t: {flags}\n")
    monkeypatch.setattr(doctor, "CPU_FLAGS", cpuinfo)
    found = of("processor")
    assert found.grade == grade and told in found.told and "Test CPU" in found.told


@pytest.mark.parametrize(("megabytes", "grade"), [(1000, "broken"), (1800, "degraded")])
def test_a_small_memory_limit_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, megabytes: int, grade: str
) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(f"{megabytes * 2**20}\n")
    monkeypatch.setattr(doctor, "MEMORY_LIMITS", (limit,))
    assert of("memory").grade == grade
    limit.write_text("max\n")
    assert of("memory", max_uploads_mb=1, max_image_mpx=1, queue_mb=1).grade == "ok"


def test_a_throttled_container_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "cpu.stat"
    stat.write_text("usage_usec 5\nnr_periods 1000\nnr_throttled 400\n")
    monkeypatch.setattr(doctor, "THROTTLING", stat)
    assert of("cpu limit").grade == "slow"


def test_keys_that_are_missing_or_unreadable_are_found(tmp_path: Path) -> None:
    assert of("keys").grade == "ok"
    assert of("keys", host="0.0.0.0").grade == "broken"
    assert of("keys", host="0.0.0.0", allow_keyless=True).grade == "degraded"
    assert of("keys", key_file=tmp_path / "gone").grade == "broken"


def test_a_full_disk_and_a_folder_that_cannot_be_written_to_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of("uploads", max_clip_mb=1).grade == "ok"
    monkeypatch.setattr("service.doctor.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    assert of("uploads").grade == "degraded"
    monkeypatch.setattr("service.doctor.tempfile.gettempdir", lambda: "/proc")
    assert of("uploads").grade == "broken"


def test_a_file_limit_below_the_sockets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    found = of("ulimit -n", max_sockets=2048)
    assert found.grade == "degraded" and "4096 is allowed" in found.mend
    assert of("ulimit -n", max_sockets=512).grade == "ok"


def test_a_device_that_is_not_there_is_found_and_openvino_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of("device", device="cuda:99").grade == "broken"
    monkeypatch.setattr(doctor, "openvino_available", lambda: False)
    assert of("openvino").grade == "slow"


def test_a_look_that_breaks_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cpu_limit", lambda: 1 / 0)
    findings = {finding.name: finding for finding in examine(Settings(device="cpu", port=0))}
    assert findings["threads"].grade == "degraded" and "ulimit -n" in findings


def test_the_command_prints_a_line_each_and_fails_where_a_start_would() -> None:
    command = [sys.executable, "-m", "service", "doctor", "--device", "cpu", "--port", "0", "--lift", "nobody"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1 and run.stderr == ""
    assert any(line.startswith("broken") and "model lift" in line for line in run.stdout.splitlines())
