"""Trains a lifter: `python -m training lift RECIPE --motion PACK --validation PACK --run FOLDER`.

The losses are the paper's eqs. 13-15, read as means of joint distances (metres), with two of our own beside them.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from service.engines.framing import window_channels
from service.geometry.alignment import mpjpe, n_mpjpe
from service.networks import create

from .data.ahead import Ahead
from .data.motion import Motion, read_motion
from .data.windows import WindowMaker, WindowRecipe, Windows
from .loop import LoopRecipe, Run
from .recipe import section


@dataclass(frozen=True)
class LiftLoss:
    """Weights beside L_t = 1. scaled: distance after the best scale a window; spatial: L_s."""

    scaled: float = 0.5
    velocity: float = 0.5
    spatial: float = 0.25


def distance(poses: Tensor, targets: Tensor) -> Tensor:
    """Mean over everything of the joints' distances: eqs. 13 and 14 as means of norms. (..., 17, 3) metres."""
    mean: Tensor = torch.linalg.vector_norm(poses - targets, dim=-1).mean()
    return mean


def lift_losses(module: nn.Module, batch: tuple[Tensor, Tensor], weights: LiftLoss, bf16: bool) -> dict[str, Tensor]:
    """L = L_t + spatial L_s (eq. 15), and what `LiftLoss` adds. batch: channels (n, F, 17, 6), targets (n, F, 17, 3).

    Spatial blocks stay in 32 bits: their tiny heads (four numbers) are slower in bfloat16 on a CPU, no faster on CUDA.
    """
    channels, targets = batch
    features = module.features(channels)  # type: ignore[operator]
    with torch.autocast(channels.device.type, torch.bfloat16, enabled=bf16):
        poses = module.poses(features)  # type: ignore[operator]
    poses = poses.float()
    l_t = distance(poses, targets)
    scale = ((poses * targets).sum((1, 2, 3)) / (poses * poses).sum((1, 2, 3)).clamp(min=1e-6)).detach()
    scaled = distance(poses * scale[:, None, None, None], targets)
    loss = l_t + weights.scaled * scaled
    losses = {"mm": 1000 * l_t, "n_mm": 1000 * scaled}
    if poses.shape[1] > 1:
        loss = loss + weights.velocity * distance(poses.diff(dim=1), targets.diff(dim=1))
    if module.spatial_head is not None:
        l_s = distance(module.spatial_head(features), targets)  # type: ignore[operator]
        loss = loss + weights.spatial * l_s
        losses["s_mm"] = 1000 * l_s
    return {"loss": loss, **losses}


class WindowBatches:
    """Makes the batch of a number: channels (n, frames, 17, 6) and targets (n, frames, 17, 3)."""

    def __init__(self, maker: WindowMaker, batch: int, seed: int) -> None:
        self.maker, self.batch, self.seed = maker, batch, seed

    def __call__(self, number: int) -> tuple[Any, Any]:
        drawn = self.maker.draw(self.batch, np.random.default_rng([self.seed, number]))
        return channels_of(drawn), drawn.targets


def channels_of(windows: Windows) -> np.ndarray[Any, np.dtype[np.float32]]:
    return window_channels(windows.points, windows.sizes, windows.given)


def validation_windows(motion: Motion, recipe: WindowRecipe, count: int, noisy: bool) -> Windows:
    """Windows at the pack's own rate, bodies as they were filmed, whole people; with or without a detector's errors."""
    exact = replace(
        recipe,
        rates=(motion.rate, motion.rate),
        still=0.0,
        exchanged=0.0,
        field_of_view=(30.0, 90.0),
        distance=(2.0, 8.0),
        cut=0.0,
        made=0.5 if noisy else 0.0,
        noisy=1.0 if noisy else 0.0,
        hidden=0.0,
        tilted=0.0,
    )
    return WindowMaker(motion, exact).draw(count, np.random.default_rng(1))


@torch.no_grad()
def score(module: nn.Module, windows: Windows, device: torch.device, batch: int = 32) -> dict[str, float]:
    """MPJPE and N-MPJPE in millimetres over all frames of the windows."""
    poses = []
    for first in range(0, len(windows.points), batch):
        part = Windows(*(getattr(windows, f)[first : first + batch] for f in ("points", "sizes", "given", "targets")))
        poses.append(module(torch.from_numpy(channels_of(part)).to(device)).float().cpu().numpy())
    answer = np.concatenate(poses)
    return {"p1": 1000 * float(mpjpe(answer, windows.targets)), "n": 1000 * float(n_mpjpe(answer, windows.targets))}


def train(recipe: dict[str, Any], arguments: Namespace) -> dict[str, float]:
    """Runs a `lift` recipe in `arguments.run` until the time or the decay leg is over; returns validation figures."""
    device = torch.device(arguments.device)
    loop, weights = section(recipe, "loop", LoopRecipe), section(recipe, "loss", LiftLoss)
    torch.manual_seed(loop.seed)
    network = dict(recipe["network"])
    module = create(network.pop("name"), **network)
    windows = replace(section(recipe, "windows", WindowRecipe), frames=recipe["network"]["frames"])
    maker = WindowMaker(read_motion(arguments.motion), windows)
    motion = read_motion(arguments.validation)
    checks = {noisy: validation_windows(motion, windows, 320, noisy) for noisy in (False, True)}

    ahead = Ahead(WindowBatches(maker, loop.batch, loop.seed), arguments.workers, pinned=device.type == "cuda")

    def draw(number: int) -> tuple[Tensor, Tensor]:
        channels, targets = ahead(number)
        return channels.to(device, non_blocking=True), targets.to(device, non_blocking=True)

    def validate(average: nn.Module) -> dict[str, float]:
        exact, noisy = (score(average, checks[n], device) for n in (False, True))
        return {**exact, **{f"noisy_{k}": v for k, v in noisy.items()}}

    run = Run(arguments.run, module, loop, device)
    if arguments.start_from:
        run.start_from(arguments.start_from)
    return run.fit(
        draw,
        lambda m, batch: lift_losses(m, batch, weights, arguments.bf16),
        validate,
        hours=arguments.hours,
        decay_steps=arguments.decay_steps,
    )
