"""What a device can suffer: memory that runs out, a context that is gone, a batch that never ends."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from service.batching import policy
from service.batching import scheduler as scheduler_file
from service.batching.batcher import run_batch
from service.errors import EngineFailed, NotReady

from .fake import Network, Number, engine_of, queues, solo, until

# ---- Memory


@pytest.mark.parametrize("holds", [1, 3, 4, 7])
def test_a_batch_that_memory_does_not_suffice_for_is_halved_until_it_does(holds: int) -> None:
    network = Network()
    network.holds = holds
    ran = run_batch(engine_of(network), [Number(n) for n in range(8)])
    assert ran.answers == solo(*range(8))
    assert max(len(run) for run in network.runs if len(run) <= holds) >= max(1, holds // 2)
    assert ran.out_of_memory
    assert min(ran.out_of_memory) > holds


def test_a_row_that_no_memory_suffices_for_fails_and_its_neighbours_do_not() -> None:
    network = Network()
    network.holds = 2
    ran = run_batch(engine_of(network), [Number(1), Number(2, cost=3), Number(3)])
    assert [ran.answers[0], ran.answers[2]] == solo(1, 3)
    assert isinstance(ran.answers[1], EngineFailed)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error: out of memory"), torch.OutOfMemoryError()])
def test_every_way_to_run_out_of_memory_is_known(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(Network())
    infer = engine.infer
    monkeypatch.setattr(engine, "infer", lambda inputs: _raise(error) if len(inputs) > 2 else infer(inputs))
    assert run_batch(engine, [Number(n) for n in range(4)]).out_of_memory == (4,)


def _raise(error: Exception) -> Any:
    raise error


def test_the_failed_batchs_arrays_are_gone_before_it_is_tried_again() -> None:
    class Arrays:
        """Keeps a weak look at what each run was given."""

        def __init__(self) -> None:
            self.alive: list[int] = []
            self._seen: list[weakref.ref[Any]] = []

        def __call__(self, inputs: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
            self.alive.append(sum(seen() is not None for seen in self._seen))
            held = np.array(inputs)
            self._seen.append(weakref.ref(held))
            if len(held) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return [2 * held]

    arrays = Arrays()
    gc.disable()
    try:
        engine = engine_of(Network())
        engine.infer = arrays
        assert run_batch(engine, [Number(n) for n in range(8)]).answers == solo(*range(8))
    finally:
        gc.enable()
    # An answer may still be a view of its own run; of those that failed, nothing is left.
    assert max(arrays.alive[:4]) == 0


def test_the_cap_is_halved_kept_and_regained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "REGAIN_S", 1e9)

    async def story() -> None:
        async with queues(budget=8) as (here, network):
            assert here.sample("batch_cap_rows", network="lift") == 8
            network.holds = 3
            assert await here.ask(*range(8)) == solo(*range(8))
            assert here.sample("batch_cap_rows", network="lift") == 2
            assert here.sample("oom_total") >= 2
            noted = here.sample("oom_total")
            assert await here.ask(*range(4)) == solo(*range(4))
            assert here.sample("oom_total") == noted  # what is learned is not tried again at once
            network.holds = None
            monkeypatch.setattr(policy, "REGAIN_S", 0.0)

            async def regained() -> bool:
                await here.ask(1)
                return here.sample("batch_cap_rows", network="lift") == 8

            async with asyncio.timeout(10):
                while not await regained():
                    await asyncio.sleep(0.01)
            network.runs.clear()
            assert await here.ask(*range(8)) == solo(*range(8))
            assert max(map(len, network.runs)) == 8

    asyncio.run(story())


# ---- The device


CUDA_IS_GONE = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]


@pytest.mark.parametrize("error", CUDA_IS_GONE, ids=["accelerator", "assert", "cudnn"])
def test_a_lost_device_answers_everybody_once_and_is_told_once(error: Exception) -> None:
    async def story() -> None:
        async with queues(budget=4) as (here, network):
            occupier = await here.occupy()
            waiting = [here.ask(n, caller=str(n)) for n in range(1, 12)]  # some framed ahead, some in line
            await here.queued(7)
            network.sticky = error
            network.gate.set()
            answers = await asyncio.gather(occupier, *waiting, return_exceptions=True)
            assert {type(answer) for answer in answers} == {NotReady}
            assert len(network.runs) == 1  # nothing was tried again, and no row was blamed
            with pytest.raises(NotReady):
                await here.ask(5)
            assert len(here.lost) == 1
            assert "the device cpu is lost" in here.lost[0]
            assert here.sample("queue_rows", network="lift") == 0

    asyncio.run(story())


def test_a_batch_that_never_ends_is_a_lost_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_file, "STUCK_S", 0.1)

    async def story() -> None:
        async with queues() as (here, network):
            stuck = await here.occupy()
            behind = here.ask(1)
            with pytest.raises(NotReady):
                await stuck
            with pytest.raises(NotReady):
                await behind
            await until(lambda: bool(here.lost))
            assert "had not ended after 0.1 s" in here.lost[0]
            network.gate.set()

    asyncio.run(story())


def test_a_fault_of_one_batch_does_not_lose_the_device() -> None:
    async def story() -> None:
        async with queues() as (here, network):
            network.poison = {3.0}
            with pytest.raises(EngineFailed):
                await here.ask(3)
            assert await here.ask(4) == solo(4)
            assert here.lost == []

    asyncio.run(story())
