"""The loop every training shares: steps, averaged weights, checkpoints, resuming, progress. Knows no task.

A run's folder holds `latest.pt` (everything needed to go on), `log.jsonl` (a line a report) and a copy of its recipe.
The rate is warmed up and then stays; a leg with `decay_steps` takes it to zero and is what gets released, so that the
long run need not know when it ends (warmup-stable-decay). A step's batch and its random numbers follow from the seed
and the step's number alone: a run that was killed and goes on is the run that was never killed.
"""

from __future__ import annotations

import copy
import json
import math
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from .recorded import Recorded

Losses = dict[str, Tensor]  # "loss" is the one that is minimised; the others are printed beside it
Leg = tuple[int, int]  # the first and the last step of a decay leg

MOST_BAD_BATCHES = 50  # in a row; after so many it is the network that is no number, and training on is a waste


@dataclass(frozen=True)
class LoopRecipe:
    """Rates are per step; `average` is the decay of the exponential average of the weights."""

    rate: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    warmup_steps: int = 300
    drops: tuple[int, ...] = ()  # steps at which the rate falls to a tenth, for published schedules
    clip: float = 1.0  # largest norm of the gradient
    average: float = 0.999
    batch: int = 32
    seed: int = 0
    module_rates: tuple[tuple[str, float], ...] = ()  # (part of a parameter's name, factor on its rate; no decay there)


def rate_at(recipe: LoopRecipe, step: int, leg: Leg | None = None) -> float:
    """The rate of a step: warm-up, drops, and within a decay leg a straight line that is 0 at the leg's last step."""
    warm = min(1.0, (step + 1) / max(recipe.warmup_steps, 1))
    dropped = 0.1 ** sum(step >= drop for drop in recipe.drops)
    left = 1.0 if leg is None else min(1.0, max(0.0, (leg[1] - step) / (leg[1] - leg[0])))
    return recipe.rate * warm * dropped * left


class Run:
    """One training run in one folder; resumes by itself where the folder holds a checkpoint.

    step counts batches, items what was in them; skipped counts the batches whose gradient was not finite.
    """

    def __init__(self, folder: Path, module: nn.Module, recipe: LoopRecipe, device: torch.device) -> None:
        self.folder, self.recipe, self.device = folder, recipe, device
        folder.mkdir(parents=True, exist_ok=True)
        self.module = module.to(device)
        self.average = copy.deepcopy(self.module).requires_grad_(False).eval()
        self.optimiser = torch.optim.AdamW(self._groups(), recipe.rate, recipe.betas, fused=True)
        self.step = self.items = self.skipped = 0
        self.seconds = 0.0
        self.leg: Leg | None = None
        self._bad = self._bad_in_a_row = torch.zeros((), device=device)
        self._follows = torch.zeros((), device=device)  # the averaged weights' share of the way, a step
        self._graph: Recorded | None = None
        self._stop = False
        if (folder / "latest.pt").exists():
            self._resume(folder / "latest.pt")

    def _groups(self) -> list[dict[str, Any]]:
        """Weight decay on matrices only; a rate of its own where the recipe names one."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in self.module.named_parameters():
            factor = next((f for part, f in self.recipe.module_rates if part in name), None)
            plain = parameter.ndim > 1 and "embed" not in name and factor is None
            decay = self.recipe.weight_decay if plain else 0.0
            if parameter.requires_grad:
                groups[(1.0 if factor is None else factor, decay)].append(parameter)
        return [{"params": p, "weight_decay": decay, "factor": factor} for (factor, decay), p in groups.items()]

    def start_from(self, checkpoint: Path) -> None:
        """Goes on from another run's checkpoint, in this run's folder (a decay leg). A folder in use is left alone."""
        if self.step == 0:
            self._resume(checkpoint)
            self.leg = None

    def fit(
        self,
        draw: Callable[[int], Any],
        loss: Callable[[nn.Module, Any], Losses],
        validate: Callable[[nn.Module], dict[str, float]],
        *,
        hours: float,
        decay_steps: int = 0,
        decay_hours: float = 0.0,
        recorded: bool = False,
        checkpoint_s: float = 180.0,
        validate_s: float = 900.0,
        report_s: float = 30.0,
    ) -> dict[str, float]:
        """Trains until the hours, the decay leg's end or a signal; returns the average's validation figures.

        Args:
            draw: the batch of a step, by the step's number; the same number gives the same batch.
            loss: the losses of a batch, with gradients.
            validate: figures of a network in evaluation mode.
            hours: of this call; 0 only validates.
            decay_steps: length of a decay leg. One that was begun in this folder goes on, whatever is given here.
            decay_hours: the last part of `hours`, in which the rate falls to 0: for a machine that is lent by the hour.
            recorded: the whole step becomes one CUDA graph: small networks' kernels take longer to start than to run.
                Every batch must be a tuple of tensors of the first one's shapes, on the device.
        """
        before = self._listen()
        started = time.monotonic()  # a graph's making counts: on a lent machine the hours are all there is
        if recorded:
            weights = [each for module in (self.module, self.average) for each in module.state_dict().values()]
            self.module.train()
            self._graph = Recorded(partial(self._device_step, loss), draw(self.step), weights, self.optimiser)
        self._decay(decay_steps)
        saved = validated = reported = time.monotonic()
        reported_step = self.step
        sums: dict[str, Tensor] = {}
        self.module.train()
        while not self._stop and time.monotonic() - started < 3600 * hours and self._left() > 0:
            left = hours - (time.monotonic() - started) / 3600
            for name, value in self._take_step(draw(self.step), loss, min(1.0, left / max(decay_hours, 1e-9))).items():
                sums[name] = sums[name] + value if name in sums else value
            now = time.monotonic()
            if self.step % MOST_BAD_BATCHES == 0:
                self._count_skipped()
            if now - reported > report_s:
                self._count_skipped()
                now = time.monotonic()  # the device has answered: what was queued is done
                per_step = (now - reported) / (self.step - reported_step)
                hours_left = min(hours - (now - started) / 3600, self._left() * per_step / 3600)
                means = {name: float(total / sums["good"].clamp(min=1)) for name, total in sums.items()}
                del means["good"]
                self._report({"items_per_s": self.recipe.batch / per_step, "hours_left": hours_left, **means})
                sums, reported, reported_step = {}, now, self.step
            if now - saved > checkpoint_s:
                self._save(now - started)
                saved = now
            if now - validated > validate_s:
                self._report({f"val_{k}": v for k, v in validate(self.average).items()})
                sums, reported_step = {}, self.step
                validated = reported = time.monotonic()
        self.seconds += time.monotonic() - started
        self._save(0.0)
        figures = validate(self.average)
        self._report({f"val_{k}": v for k, v in figures.items()})
        for number, handler in before.items():
            signal.signal(number, handler)
        return figures

    def _listen(self) -> dict[signal.Signals, Any]:
        """The first signal ends the run after its step, checkpoint saved; a second one ends it at once."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def stop(number: int, frame: FrameType | None) -> None:
            self._stop = True
            for each, handler in before.items():
                signal.signal(each, handler)

        for number in before:
            signal.signal(number, stop)
        return before

    def _decay(self, decay_steps: int) -> None:
        if decay_steps and self.leg is None:
            self.leg = (self.step, self.step + decay_steps)

    def _left(self) -> float:
        return math.inf if self.leg is None else self.leg[1] - self.step

    def _take_step(self, batch: Any, loss: Callable[[nn.Module, Any], Losses], share: float = 1.0) -> dict[str, Tensor]:
        """One step at a share of its rate; returns the losses and `good`, all 0 where the batch was skipped.

        Nothing here waits for the device: whether a batch is bad is decided there.
        """
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        for group in self.optimiser.param_groups:
            rate = rate_at(self.recipe, self.step, self.leg) * group["factor"] * share
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self.step += 1
        self.items += self.recipe.batch
        # Early on the average follows faster, so that it forgets the start.
        self._follows.fill_(1 - min(self.recipe.average, (1 + self.step) / (10 + self.step)))
        sums = self._graph(batch) if self._graph else self._device_step(loss, batch)
        self._bad = self._bad + 1 - sums["good"]
        self._bad_in_a_row = (self._bad_in_a_row + 1) * (1 - sums["good"])
        return sums

    def _device_step(self, loss: Callable[[nn.Module, Any], Losses], batch: Any) -> dict[str, Tensor]:
        """What of a step the device does; it reads its rates and `_follows` from tensors or numbers set before."""
        self.optimiser.zero_grad(set_to_none=True)
        losses = loss(self.module, batch)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.clip)
        good = (torch.isfinite(norm) & torch.isfinite(losses["loss"].detach())).float()
        # One bad batch must not cost the run: the fused optimiser leaves out a step whose `found_inf` is 1.
        self.optimiser.found_inf = 1 - good  # type: ignore[attr-defined]
        self.optimiser.step()
        self._follow()
        # No number of the host's may be copied while a graph is made: masks instead of `where`.
        return {**{name: value.detach().masked_fill(good == 0, 0.0) for name, value in losses.items()}, "good": good}

    def _count_skipped(self) -> None:
        """Asks the device how many batches it left out."""
        self.skipped += int(self._bad)
        self._bad = torch.zeros_like(self._bad)
        if int(self._bad_in_a_row) >= MOST_BAD_BATCHES:
            raise FloatingPointError(f"{MOST_BAD_BATCHES} batches in a row up to step {self.step} had no finite loss")

    @torch.no_grad()
    def _follow(self) -> None:
        """The averaged weights and statistics follow by `_follows` of the way.

        The forward pass of a bad batch has spoilt running statistics: those take their average.
        """
        averages: list[Tensor] = list(self.average.parameters())
        ways = torch._foreach_sub(list(self.module.parameters()), averages)
        torch._foreach_mul_(ways, self._follows)
        torch._foreach_add_(averages, ways)
        for mean, value in zip(self.average.buffers(), self.module.buffers(), strict=True):
            if mean.is_floating_point():
                value.copy_(torch.where(torch.isfinite(value), value, mean))
                mean.lerp_(value, self._follows.to(mean.dtype))
            else:
                mean.copy_(value)

    def _report(self, figures: dict[str, float]) -> None:
        line = {"step": self.step, "items": self.items, **{k: float(f"{v:.5g}") for k, v in figures.items()}}
        if self.skipped:
            line["skipped"] = self.skipped
        print("  ".join(f"{k} {v:g}" for k, v in line.items()), flush=True)
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _save(self, running_s: float) -> None:
        self._count_skipped()
        state = {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "items": self.items,
            "skipped": self.skipped,
            "leg": self.leg,
            "seconds": self.seconds + running_s,
        }
        torch.save(state, self.folder / "latest.pt.new")
        (self.folder / "latest.pt.new").replace(self.folder / "latest.pt")

    def _resume(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint, map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.items, self.seconds = state["step"], state["items"], state["seconds"]
        self.skipped, self.leg = state.get("skipped", 0), state.get("leg")
        print(f"resumed {checkpoint} at step {self.step}, {self.items} items", flush=True)
