"""A device: threads of its own, through which everything that touches it goes; a GPU's is one. Knows no network."""

from __future__ import annotations

import asyncio
import importlib.metadata
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from service.errors import EngineFailed, SettingWrong

T = TypeVar("T")

# What torch says where memory ran out under a library's own hands.
_NO_MEMORY = ("out of memory", "ALLOC_FAILED")
# What it says where kernels failed: the device's context is gone, and each later call fails likewise.
_STICKY = (
    "CUDA error",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
)


class OutOfMemory(EngineFailed):
    """The device's memory did not suffice for a batch; it may for a smaller one."""


class DeviceLost(EngineFailed):
    """The device answers nothing any more, whatever is asked: only a new process gets it back."""


def fault_of(error: BaseException) -> type[EngineFailed]:
    """What a runtime's error means: OutOfMemory, DeviceLost, or an EngineFailed of the batch alone."""
    if isinstance(error, OutOfMemory | DeviceLost):
        return type(error)
    text = str(error)
    torch = _torch()
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return OutOfMemory
    if isinstance(error, RuntimeError):
        if any(sign in text for sign in _NO_MEMORY):
            return OutOfMemory
        if (torch and isinstance(error, torch.AcceleratorError)) or any(sign in text for sign in _STICKY):
            return DeviceLost
    return EngineFailed


def free_memory() -> None:
    """Gives back what torch keeps of a CUDA device's memory for later."""
    torch = _torch()
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _torch() -> Any:
    """torch if an engine has brought it: what never met it, a queue's test say, need not wait for it."""
    return sys.modules.get("torch")


class Lanes:
    """How many batches run at once, each on its share of a CPU's cores; whoever is alone may take them all.

    Threads that work on one batch wait for each other, and the event loop, which needs a core now and then, makes all
    of them wait. Batches that run side by side do not: with the loop busy a quarter of the time, two cores do a fifth
    more (docs/performance.md).
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._running, self._lock = 0, threading.Lock()

    @contextmanager
    def taken(self) -> Iterator[bool]:
        """One lane, for the time of a run; whether no other was taken then."""
        with self._lock:
            self._running += 1
            alone = self._running == 1
        try:
            yield alone
        finally:
            with self._lock:
                self._running -= 1


class Device:
    """name: cpu or cuda:N. As many threads as lanes; nothing else may run on the device.

    lost: whether a batch has found that nothing can be run any more.
    """

    def __init__(self, name: str, lanes: Lanes | None = None) -> None:
        self.name, self.lanes, self.lost = name, lanes or Lanes(), False
        self._thread = ThreadPoolExecutor(self.lanes.count, thread_name_prefix=f"device-{name}")

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Runs `call` on a thread of the device. A cancelled caller goes at once; the call itself runs to its end."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def close(self, *, wait: bool = True) -> None:
        """wait: for a running call, which on a lost device may never end."""
        self._thread.shutdown(wait=wait, cancel_futures=True)

    def memory_bytes(self) -> int:
        """What torch has allocated on a CUDA device; 0 on a CPU."""
        torch = _torch()
        return int(torch.cuda.memory_allocated(self.name)) if torch and self.name.startswith("cuda") else 0


def choose_device(setting: str) -> str:
    """auto, cpu, cuda or cuda:N to the device that is used. `auto` takes CUDA where there is one.

    Raises:
        SettingWrong: a CUDA device was asked for and is not there. It is never replaced by the CPU in silence.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if setting == "cpu" or (setting == "auto" and not count):
        return "cpu"
    index = 0 if setting in ("auto", "cuda") else int(setting.removeprefix("cuda:"))
    if index >= count:
        message = f"`device` is {setting}, but torch {torch.__version__} sees {count} CUDA devices here"
        raise SettingWrong(message, field="device", limit="auto, cpu, or a CUDA device that is there")
    return f"cuda:{index}"


def check_torch() -> None:
    """torch and torchvision must come from one build; a mixed pair fails at import with a riddle."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchvision"))
        message = f"torch and torchvision do not come from one build ({versions}): {error}. Install both from one index"
        raise SettingWrong(message) from error
