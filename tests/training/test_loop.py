"""The loop on a line fitted to a line: resuming, the decay leg, signals, bad batches."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.loop import MOST_BAD_BATCHES, LoopRecipe, Losses, Run, rate_at

RECIPE = LoopRecipe(rate=1e-2, warmup_steps=3, average=0.9, batch=4, seed=5)
CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))


def draw(number: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([1, number]).normal(size=(4, 3)).astype(np.float32))


def loss(module: nn.Module, batch: Tensor) -> Losses:
    return {"loss": (module(batch)[:, 0] - batch.sum(1)).square().mean()}


def no_figures(module: nn.Module) -> dict[str, float]:
    assert not module.training
    return {"ap": 0.5}


def fit(run: Run, steps: int, draw=draw, **more: Any) -> Run:  # type: ignore[no-untyped-def]
    run.fit(draw, loss, no_figures, hours=1, decay_steps=steps, **more)
    return run


def test_a_killed_run_that_goes_on_is_the_run_that_was_never_killed(tmp_path: Path) -> None:
    whole = fit(Run(tmp_path / "whole", network(), RECIPE, CPU), 10)

    def killed_at_4(number: int) -> Tensor:
        if number == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(number)

    first = fit(Run(tmp_path / "killed", network(), RECIPE, CPU), 10, killed_at_4)
    assert first.step == 5
    second = fit(Run(tmp_path / "killed", network(), RECIPE, CPU), 10)
    assert (second.step, second.items) == (10, 40)
    for name in ("module", "average"):
        for ours, theirs in zip(*(getattr(r, name).state_dict().values() for r in (whole, second)), strict=True):
            assert torch.equal(ours, theirs)


def test_signals_mean_afterwards_what_they_meant_before(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    fit(Run(tmp_path, network(), RECIPE, CPU), 2)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_rate_warms_up_stays_and_ends_a_decay_leg_at_zero() -> None:
    assert rate_at(RECIPE, 0) == pytest.approx(1e-2 / 3)
    assert rate_at(RECIPE, 2) == rate_at(RECIPE, 10**6) == pytest.approx(1e-2)
    leg = (100, 200)
    assert rate_at(RECIPE, 100, leg) == pytest.approx(1e-2)
    assert rate_at(RECIPE, 150, leg) == pytest.approx(5e-3)
    assert rate_at(RECIPE, 200, leg) == 0


def test_published_schedules_drop_the_rate_to_a_tenth() -> None:
    recipe = LoopRecipe(rate=1.0, warmup_steps=0, drops=(10, 20))
    assert [rate_at(recipe, step) for step in (9, 10, 20)] == pytest.approx([1, 0.1, 0.01])


def test_a_resumed_decay_leg_keeps_its_end(tmp_path: Path) -> None:
    run = Run(tmp_path, network(), RECIPE, CPU)
    run.leg = (0, 6)
    run.step = 4
    run._save(0.0)
    assert fit(Run(tmp_path, network(), RECIPE, CPU), 100).step == 6


def test_a_decay_leg_starts_from_another_runs_checkpoint_and_leaves_that_alone(tmp_path: Path) -> None:
    long = fit(Run(tmp_path / "long", network(), RECIPE, CPU), 5)
    checkpoint = (tmp_path / "long" / "latest.pt").read_bytes()
    leg = Run(tmp_path / "leg", network(), RECIPE, CPU)
    leg.start_from(tmp_path / "long" / "latest.pt")
    assert leg.step == long.step
    fit(leg, 3)
    assert leg.step == 8 and leg.leg == (5, 8)
    assert (tmp_path / "long" / "latest.pt").read_bytes() == checkpoint


def test_a_batch_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    def one_bad(number: int) -> Tensor:
        return torch.full((4, 3), torch.nan) if number == 2 else draw(number)

    run = fit(Run(tmp_path, network(), RECIPE, CPU), 5, one_bad)
    assert (run.step, run.skipped) == (5, 1)
    assert all(torch.isfinite(value).all() for value in run.module.state_dict().values())
    assert all(torch.isfinite(value).all() for value in run.average.state_dict().values())
    assert Run(tmp_path, network(), RECIPE, CPU).skipped == 1


def test_nothing_but_bad_batches_ends_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, network(), RECIPE, CPU)
    with pytest.raises(FloatingPointError, match=str(MOST_BAD_BATCHES)):
        fit(run, 1000, lambda number: torch.full((4, 3), torch.inf))


def test_modules_with_a_rate_of_their_own_get_it_and_no_decay(tmp_path: Path) -> None:
    recipe = LoopRecipe(rate=1e-2, warmup_steps=0, module_rates=(("3.", 10.0),))
    run = fit(Run(tmp_path, network(), recipe, CPU), 1)
    rates = {
        name: (group["lr"], group["weight_decay"])
        for group in run.optimiser.param_groups
        for name, parameter in run.module.named_parameters()
        if any(parameter is each for each in group["params"])
    }
    assert rates["3.weight"] == pytest.approx((1e-1, 0))
    assert rates["0.weight"] == pytest.approx((1e-2, recipe.weight_decay))
    assert rates["0.bias"] == pytest.approx((1e-2, 0))


def test_modules_whose_factor_is_0_stay_as_they_are(tmp_path: Path) -> None:
    recipe = LoopRecipe(rate=1e-2, warmup_steps=0, module_rates=(("3.", 0.0),))
    run = Run(tmp_path, network(), recipe, CPU)
    before = {name: parameter.clone() for name, parameter in run.module.named_parameters()}
    fit(run, 3)
    same = {name for name, parameter in run.module.named_parameters() if torch.equal(parameter, before[name])}
    assert same == {name for name in before if name.startswith("3.")} != set()


def test_no_hours_only_validate_and_the_log_has_the_figures(tmp_path: Path) -> None:
    run = Run(tmp_path, network(), RECIPE, CPU)
    assert run.fit(draw, loss, no_figures, hours=0) == {"ap": 0.5}
    assert run.step == 0
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 0, "items": 0, "val_ap": 0.5}


def test_reports_say_the_rate_and_the_time_left(tmp_path: Path) -> None:
    fit(Run(tmp_path, network(), RECIPE, CPU), 3, report_s=0.0, checkpoint_s=0.0, validate_s=0.0)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"items_per_s", "hours_left", "loss"} <= set(lines[0])
    assert sum("val_ap" in line for line in lines) == 4


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_recorded_step_trains_as_one_that_is_not(tmp_path: Path) -> None:
    device = torch.device("cuda")

    def on_device(number: int) -> tuple[Tensor]:
        return (draw(number).to(device),)

    def loss_of(module: nn.Module, batch: tuple[Tensor]) -> Losses:
        return loss(module, batch[0])

    runs = []
    for recorded in (False, True):
        run = Run(tmp_path / str(recorded), network(), RECIPE, device)
        run.fit(on_device, loss_of, no_figures, hours=1, decay_steps=6, recorded=recorded)
        runs.append(run)
    assert [run.step for run in runs] == [6, 6]
    for name in ("module", "average"):
        for ours, theirs in zip(*(getattr(run, name).state_dict().values() for run in runs), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
