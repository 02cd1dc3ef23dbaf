"""The lifter's losses and its run on a tiny network."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.engines.framing import window_channels
from service.networks import create, load_weights
from service.networks.lifter import SelfAttention
from training.data.borrowed import Borrowed, Seen
from training.data.lone import LoneFrames
from training.data.motion import read_motion
from training.data.windows import WindowMaker, WindowRecipe
from training.lift import (
    LiftLoss,
    LoneRecipe,
    WindowBatches,
    channels_of,
    distance,
    lift_losses,
    other_frames,
    score,
    train,
    validation_windows,
)
from training.start import weights_of

NETWORK: dict[str, Any] = {
    "frames": 3, "channels": 6, "width": 8, "depth": 1, "heads": 2, "form": "depthwise", "spatial": True,
    "temporal": True, "head": "sequence", "spatial_head": True, "unknown_token": True, "drop_path": 0.0,
}  # fmt: skip


def batch(motion_file: Path, count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    make = WindowBatches([WindowMaker(read_motion(motion_file), WindowRecipe(frames=3))], count, 0)
    return make(0)


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
    make = WindowBatches([WindowMaker(read_motion(motion_file), WindowRecipe(frames=3))], 4, 7)
    assert all(torch.equal(a, b) for a, b in zip(make(3), make(3), strict=True))
    assert not torch.equal(make(3)[1], make(4)[1])


def test_windows_of_two_lengths_take_turns_with_as_many_frames_in_each_batch(motion_file: Path) -> None:
    pack = read_motion(motion_file)
    make = WindowBatches([WindowMaker(pack, WindowRecipe(frames=frames)) for frames in (9, 3)], 2, 0)
    assert [tuple(make(number)[1].shape[:2]) for number in range(3)] == [(2, 9), (6, 3), (2, 9)]


def test_batches_that_are_drawn_together_follow_from_their_number_alone(motion_file: Path) -> None:
    pack = read_motion(motion_file)
    makers = [WindowMaker(pack, WindowRecipe(frames=frames)) for frames in (9, 3)]
    forwards, backwards = (WindowBatches(makers, 2, 0, together=3) for _ in range(2))
    drawn = [forwards(number) for number in range(9)]
    again = [backwards(number) for number in reversed(range(9))][::-1]
    assert all(
        torch.equal(a, b) for one, other in zip(drawn, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert [tuple(targets.shape[:2]) for _, targets in drawn[:2]] == [(2, 9), (6, 3)]
    assert len({float(targets.sum()) for _, targets in drawn}) == 9


def test_a_share_of_every_batch_are_frames_that_a_detector_saw(motion_file: Path) -> None:
    points = torch.full((4, 17, 3), 0.25)
    seen = LoneFrames(points, torch.full((4, 2), 100.0), torch.full((4,), 90.0), torch.full((4, 17, 3), 7.0))
    maker = WindowMaker(read_motion(motion_file), WindowRecipe(frames=3))
    batches = WindowBatches([maker], 8, 0, together=2, seen=seen, lone=LoneRecipe(share=0.25, turned=0.0))
    for number in range(4):
        channels, targets = batches(number)
        assert channels.shape == (8, 3, 17, 6)
        assert (targets.abs() == 7).all(-1).all(-1).all(-1).sum() == 2


def test_some_of_these_are_bodies_that_no_detector_saw(motion_file: Path) -> None:
    points = torch.rand(4, 17, 3, generator=torch.Generator().manual_seed(0))
    sizes, focals = torch.full((4, 2), 100.0), torch.full((4,), 90.0)
    seen = LoneFrames(points, sizes, focals, torch.full((4, 17, 3), 7.0))
    bodies = Borrowed(LoneFrames(points, sizes, focals, torch.full((4, 17, 3), 9.0)), Seen(seen, points[..., :2]))
    maker = WindowMaker(read_motion(motion_file), WindowRecipe(frames=1))
    lone = LoneRecipe(share=0.5, turned=0.0, borrowed=0.75)
    batches = WindowBatches([maker], 8, 0, seen=seen, lone=lone, borrowed=bodies)
    _, targets = batches(0)
    counted = [int((targets.abs() == value).flatten(1).all(1).sum()) for value in (7, 9)]
    assert (len(targets), counted) == (8, [1, 3])


def test_a_fitted_lifter_learns_by_its_fitted_poses_and_by_those_before(motion_file: Path) -> None:
    torch.manual_seed(0)
    network, drawn = create("lifter", **NETWORK, fitted=True), batch(motion_file)
    losses = lift_losses(network, drawn, LiftLoss(), bf16=False)
    assert set(losses) == {"loss", "mm", "n_mm", "s_mm", "raw_mm"}
    alone = lift_losses(network, drawn, LiftLoss(unfitted=0.0), bf16=False)
    assert float(losses["loss"].detach()) > float(alone["loss"].detach())
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    assert [name for name, each in network.named_parameters() if each.grad is None] == []


def test_channels_are_those_of_the_services_framing(motion_file: Path) -> None:
    windows = WindowMaker(read_motion(motion_file), WindowRecipe(frames=5, hidden=0.5, noisy=0.5)).draw(32, 1)
    expected = window_channels(windows.points.numpy(), windows.sizes.numpy(), windows.given.numpy())
    assert np.allclose(channels_of(windows).numpy(), expected, atol=1e-5)


def test_a_lifter_for_more_frames_starts_as_the_one_for_fewer_around_the_centre() -> None:
    few, many = create("lifter", **NETWORK), create("lifter", **{**NETWORK, "frames": 7})
    with torch.no_grad():
        few.get_parameter("Temporal_pos_embed").normal_()
    load_weights(many, other_frames(weights_of(few.state_dict()), 7), "few")
    places, more = (each.get_parameter("Temporal_pos_embed")[0] for each in (few, many))
    assert torch.equal(more[2:5], places)
    assert torch.equal(more[5:], places[2:].expand(2, -1))


def test_a_lifter_of_lone_frames_starts_as_what_the_one_for_windows_makes_of_a_frame_repeated() -> None:
    torch.manual_seed(0)
    # In one block the ends, where a convolution sees nothing beyond, are too far away to be heard of in the middle.
    many, one = (create("lifter", **{**NETWORK, "frames": frames}).eval() for frames in (7, 1))
    with torch.no_grad():
        for parameter in many.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        many.get_parameter("Temporal_pos_embed").copy_(torch.randn(1, 1, 17 * 8).expand(-1, 7, -1))
    load_weights(one, other_frames(weights_of(many.state_dict()), 1), "many")
    frame = torch.randn(3, 1, 17, 6)
    assert torch.allclose(one(frame)[:, 0], many(frame.expand(-1, 7, -1, -1))[:, 3], atol=1e-5)


def test_attention_written_out_is_attention() -> None:
    torch.manual_seed(0)
    attention, tokens = SelfAttention(16, 4), torch.randn(3, 17, 16)
    fused = attention(tokens)
    attention.written_out = True
    assert torch.allclose(attention(tokens), fused, atol=1e-6)


def test_figures_are_millimetres_and_the_scale_is_forgiven_in_n(motion_file: Path) -> None:
    windows = validation_windows(read_motion(motion_file), WindowRecipe(frames=3), 6, noisy=False)
    assert windows.given.all() and windows.points.isfinite().float().mean() > 0.95

    class Larger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.done = 0

        def forward(self, channels: torch.Tensor) -> torch.Tensor:
            self.done += len(channels)
            return 1.1 * windows.targets[self.done - len(channels) : self.done]

    figures = score(Larger(), windows, batch=4)
    assert figures["n"] == pytest.approx(0, abs=0.01)
    assert figures["p1"] == pytest.approx(100 * float(windows.targets.norm(dim=-1).mean()), rel=1e-3)


def test_a_lifter_trains_from_its_recipe(motion_file: Path, tmp_path: Path) -> None:
    recipe = {"kind": "lift", "network": {"name": "lifter", **NETWORK}, "loop": {"batch": 4, "warmup_steps": 1}}
    told = {"run": tmp_path, "motion": motion_file, "validation": motion_file, "device": "cpu", "bf16": True}
    more = {"workers": 0, "start_from": None, "start": None, "compile": False, "lone": None, "bodies": None}
    figures = train(recipe, Namespace(**told, **more, hours=1.0, decay_steps=2, decay_hours=0.0))
    assert set(figures) == {"p1", "n", "noisy_p1", "noisy_n"}
    assert torch.load(tmp_path / "latest.pt", weights_only=True)["step"] == 2


def test_a_fitted_lifter_starts_from_weights_that_were_never_fitted(motion_file: Path, tmp_path: Path) -> None:
    start = tmp_path / "plain.npz"
    np.savez(start, **weights_of(create("lifter", **NETWORK).state_dict()))  # type: ignore[arg-type]
    recipe = {"kind": "lift", "network": {"name": "lifter", **NETWORK, "fitted": True}, "loop": {"batch": 4}}
    told = {"run": tmp_path, "motion": motion_file, "validation": motion_file, "device": "cpu", "bf16": True}
    more = {
        "workers": 0,
        "start_from": None,
        "start": str(start),
        "store": tmp_path,
        "compile": False,
        "lone": None,
        "bodies": None,
    }
    train(recipe, Namespace(**told, **more, hours=1.0, decay_steps=1, decay_hours=0.0))
    state = torch.load(tmp_path / "latest.pt", weights_only=True)
    assert state["step"] == 1
    assert any(name.startswith("fitting.") for name in state["average"])
