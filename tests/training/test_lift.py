"""The lifter's losses and its run on a tiny network."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.networks import create
from training.data.motion import read_motion
from training.data.windows import WindowMaker, WindowRecipe
from training.lift import LiftLoss, WindowBatches, distance, lift_losses, score, train, validation_windows

CPU = torch.device("cpu")
NETWORK: dict[str, Any] = {
    "frames": 3, "channels": 6, "width": 8, "depth": 1, "heads": 2, "form": "depthwise", "spatial": True,
    "temporal": True, "head": "sequence", "spatial_head": True, "unknown_token": True, "drop_path": 0.0,
}  # fmt: skip


def batch(motion_file: Path, count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    make = WindowBatches(WindowMaker(read_motion(motion_file), WindowRecipe(frames=3)), count, 0)
    channels, targets = make(0)
    return torch.from_numpy(channels), torch.from_numpy(targets)


def test_the_distance_is_the_mean_over_everything_of_the_norms() -> None:
    poses, targets = torch.zeros(2, 3, 17, 3), torch.zeros(2, 3, 17, 3)
    targets[0, 0, 0] = torch.tensor([3.0, 4.0, 0.0])
    assert float(distance(poses, targets)) == pytest.approx(5 / (2 * 3 * 17))


def test_the_loss_falls_on_one_batch(motion_file: Path) -> None:
    torch.manual_seed(0)
    network, drawn = create("lifter", **NETWORK), batch(motion_file)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    values = []
    for _ in range(25):
        losses = lift_losses(network, drawn, LiftLoss(), bf16=False)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
        values.append({name: float(value.detach()) for name, value in losses.items()})
    assert set(values[0]) == {"loss", "mm", "n_mm", "s_mm"}
    assert values[-1]["loss"] < 0.6 * values[0]["loss"]
    assert values[-1]["s_mm"] < values[0]["s_mm"]


def test_the_right_answer_has_no_loss() -> None:
    class Right(torch.nn.Module):
        spatial_head = None

        def features(self, channels: torch.Tensor) -> torch.Tensor:
            return channels

        def poses(self, features: torch.Tensor) -> torch.Tensor:
            return features[..., :3]

    targets = torch.randn(2, 3, 17, 3)
    assert float(lift_losses(Right(), (targets, targets), LiftLoss(), bf16=False)["loss"]) == pytest.approx(0, abs=1e-5)


def test_a_batch_follows_from_its_number_alone(motion_file: Path) -> None:
    make = WindowBatches(WindowMaker(read_motion(motion_file), WindowRecipe(frames=3)), 4, 7)
    assert all(np.array_equal(a, b) for a, b in zip(make(3), make(3), strict=True))
    assert not np.array_equal(make(3)[1], make(4)[1])


def test_figures_are_millimetres_and_the_scale_is_forgiven_in_n(motion_file: Path) -> None:
    windows = validation_windows(read_motion(motion_file), WindowRecipe(frames=3), 6, noisy=False)
    assert windows.given.all() and np.isfinite(windows.points).mean() > 0.95

    class Larger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.done = 0

        def forward(self, channels: torch.Tensor) -> torch.Tensor:
            self.done += len(channels)
            return torch.from_numpy(1.1 * windows.targets[self.done - len(channels) : self.done])

    figures = score(Larger(), windows, CPU, batch=4)
    assert figures["n"] == pytest.approx(0, abs=0.01)
    assert figures["p1"] == pytest.approx(100 * np.linalg.norm(windows.targets, axis=-1).mean(), rel=1e-3)


def test_a_lifter_trains_from_its_recipe(motion_file: Path, tmp_path: Path) -> None:
    recipe = {"kind": "lift", "network": {"name": "lifter", **NETWORK}, "loop": {"batch": 4, "warmup_steps": 1}}
    told = {"run": tmp_path, "motion": motion_file, "validation": motion_file, "device": "cpu", "bf16": True}
    figures = train(recipe, Namespace(**told, workers=0, start_from=None, hours=1.0, decay_steps=2))
    assert set(figures) == {"p1", "n", "noisy_p1", "noisy_n"}
    assert torch.load(tmp_path / "latest.pt", weights_only=True)["step"] == 2
