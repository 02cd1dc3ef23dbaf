"""Which device is chosen, and that all which touches one goes through one thread."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest
import torch

from service.engines.device import (
    Device,
    DeviceLost,
    OutOfMemory,
    check_torch,
    choose_device,
    fault_of,
    free_memory,
)
from service.errors import EngineFailed, SettingWrong


def with_cuda(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("setting", "count", "device"),
    [
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cuda", 1, "cuda:0"),
        ("cuda:0", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_the_device_is_the_one_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, setting: str, count: int, device: str
) -> None:
    with_cuda(monkeypatch, count)
    assert choose_device(setting) == device


@pytest.mark.parametrize(("setting", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:7", 2)])
def test_a_missing_cuda_device_is_never_replaced_in_silence(
    monkeypatch: pytest.MonkeyPatch, setting: str, count: int
) -> None:
    with_cuda(monkeypatch, count)
    with pytest.raises(SettingWrong, match=f"`device` is {setting}, .* sees {count} CUDA devices") as error:
        choose_device(setting)
    assert error.value.field == "device"


def test_everything_on_a_device_runs_on_its_one_thread_in_turn() -> None:
    device = Device("cpu")
    active, most, names = 0, 0, set()

    def work(number: int) -> int:
        nonlocal active, most
        active += 1
        most = max(most, active)
        names.add(threading.current_thread().name)
        active -= 1
        return number

    async def story() -> list[int]:
        return await asyncio.gather(*(device.run(work, n) for n in range(20)))

    assert asyncio.run(story()) == list(range(20))
    assert most == 1
    assert len(names) == 1
    assert next(iter(names)).startswith("device-cpu")
    device.close()


def test_the_loop_is_free_while_the_device_works() -> None:
    device = Device("cpu")
    release = threading.Event()

    async def story() -> bool:
        working = asyncio.create_task(device.run(release.wait, 10.0))
        await asyncio.sleep(0.01)
        assert not working.done()
        release.set()
        return await working

    assert asyncio.run(story())
    device.close()


def test_a_fault_on_the_device_reaches_its_caller_and_the_next_call_works() -> None:
    device = Device("cpu")

    async def story() -> float:
        with pytest.raises(ZeroDivisionError):
            await device.run(lambda: 1 / 0)
        return await device.run(lambda: 1.0)

    assert asyncio.run(story()) == 1
    device.close()


def test_a_cpu_holds_no_device_memory() -> None:
    device = Device("cpu")
    assert device.memory_bytes() == 0
    device.close()


def test_torch_and_torchvision_of_one_build_pass() -> None:
    pytest.importorskip("torchvision")
    check_torch()
    assert "torchvision" in sys.modules


def test_a_mixed_pair_of_torch_and_torchvision_is_told_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(SettingWrong, match=r"one build \(torch \d.*, torchvision \d.*Install both from one index"):
        check_torch()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("CUDA error: out of memory"), OutOfMemory),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfMemory),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), DeviceLost),
        (RuntimeError("CUDA error: device-side assert triggered"), DeviceLost),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceLost),
        (RuntimeError("shape '[3, 4]' is invalid for input of size 5"), EngineFailed),
        (ValueError("CUDA error"), EngineFailed),
    ],
)
def test_an_error_tells_whether_memory_the_device_or_the_batch_is_at_fault(
    error: Exception, kind: type[EngineFailed]
) -> None:
    assert fault_of(error) is kind


def test_freeing_memory_without_a_cuda_device_does_nothing() -> None:
    free_memory()
