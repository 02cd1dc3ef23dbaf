"""Two processes: one step of both is one step of the doubled batch, and what a run does among several."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.networks import create
from training.distributed import Processes, Schedule, ScheduledRun, own_batches, started_by_torchrun, together
from training.loop import LoopRecipe, Losses
from training.paper.lifters import TakeLoss, take_losses

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
RECIPE = LoopRecipe(rate=1e-3, weight_decay=0.0, warmup_steps=0, clip=1e9, average=0.0, batch=4, seed=1)
SIZES = {"frames": 3, "width": 8, "depth": 2, "head": "sequence", "spatial_head": True, "spatial": True}


def lifter() -> nn.Module:
    """Without random depth, whose draws would differ. In 64 bits: Adam's first steps are as long for a gradient that is
    nothing but rounding (that of a key's bias is nought) as for any other."""
    torch.manual_seed(0)
    return create("lifter", **SIZES, temporal=True, drop_path=0.0).double()


def rows(number: int, count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + number)
    inputs = torch.randn(count, 3, 17, 2, generator=generator, dtype=torch.float64)
    return inputs, torch.randn(count, 3, 17, 3, generator=generator, dtype=torch.float64)


def losses(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Losses:
    return take_losses(module, batch, TakeLoss())


def trained(folder: Path, draw: object, recipe: LoopRecipe, processes: Processes, parts: int = 1) -> dict[str, Tensor]:
    run = ScheduledRun(folder, lifter(), recipe, CPU, Schedule(2), processes, hours=1.0)
    loss = together(run.module, losses, processes, CPU, parts)
    run.fit(draw, loss, lambda _: {}, hours=float("inf"))  # type: ignore[arg-type]
    return {name: value.clone() for name, value in run.module.state_dict().items()}


def doubled(step: int) -> tuple[Tensor, Tensor]:
    pairs = [rows(2 * step), rows(2 * step + 1)]
    return torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def main(folder: Path) -> None:
    """What each process does under torchrun."""
    from training.distributed import joined

    processes = started_by_torchrun()
    with joined(processes, CPU):
        state = trained(folder, own_batches(rows, processes), RECIPE, processes)
    torch.save(state, folder / f"process_{processes.rank}.pt")


def test_two_processes_step_as_one_with_the_doubled_batch(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
               "--master-port", str(free_port()), str(Path(__file__)), str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"process_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert furthest(first, second) == 0
    alone = trained(tmp_path / "alone", doubled, RECIPE, Processes())
    start = lifter().state_dict()
    assert furthest(alone, start) > 1e-4, "it has learned"
    assert furthest(first, alone) < 1e-5
    log = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(log) == 1, "the first process alone writes"
    assert torch.load(tmp_path / "latest.pt", weights_only=True)["step"] == 2


def test_a_batch_in_parts_is_the_batch_at_once(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", doubled, RECIPE, Processes())
    in_parts = trained(tmp_path / "parts", doubled, RECIPE, Processes(), parts=4)
    assert furthest(whole, lifter().state_dict()) > 1e-4
    assert furthest(whole, in_parts) < 1e-5


def test_a_batch_that_does_not_divide_is_refused() -> None:
    module = lifter()
    with pytest.raises(ValueError, match="4 rows cannot be computed in 3 equal parts"):
        together(module, losses, Processes(), CPU, parts=3)(module, rows(0))


def test_processes_together_draw_every_batch_once() -> None:
    drawn = [own_batches(lambda number: number, Processes(rank, 3))(step) for step in range(4) for rank in range(3)]
    assert drawn == list(range(12))


def test_the_rate_falls_by_the_schedule(tmp_path: Path) -> None:
    rates = []

    class Noted(ScheduledRun):
        def _report(self, figures: dict[str, float]) -> None:
            pass

        def _save(self, running_s: float) -> None:
            pass

    run = Noted(tmp_path, nn.Linear(2, 1), RECIPE, CPU, Schedule(6, 0.5, 2), Processes(), hours=1.0)

    def loss(module: nn.Module, batch: Tensor) -> Losses:
        rates.append(run.optimiser.param_groups[0]["lr"])
        return {"loss": module(batch).square().mean()}

    run.fit(lambda _: torch.ones(3, 2), loss, lambda _: {}, hours=float("inf"))
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4])


def test_a_run_stops_at_its_time_and_goes_on(tmp_path: Path) -> None:
    def run(hours: float) -> int:
        made = ScheduledRun(tmp_path, lifter(), RECIPE, CPU, Schedule(3), Processes(), hours)
        made.fit(rows, together(made.module, losses, Processes(), CPU), lambda _: {}, hours=float("inf"))
        return made.step

    assert run(0.0) == 1, "a step is taken before the clock is asked"
    assert run(1.0) == 3
    assert run(1.0) == 3, "and no more"


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert started_by_torchrun() == Processes(0, 1, 0)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert started_by_torchrun() == Processes(3, 4, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
