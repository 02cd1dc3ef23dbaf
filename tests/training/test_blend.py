"""Weights between a run and its start: the ends are the two, and a mixed attention stays near the function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from service.networks import create, load_weights
from service.networks.attention import ChannelAttention
from training.blend import between, read_between
from training.start import Arrays, weights_of

SEED = np.random.default_rng(3)


def drawn() -> Arrays:
    return {
        "a.weight": SEED.normal(size=(2, 3)).astype(np.float32),
        "a.running_var": SEED.uniform(1, 2, 3).astype(np.float32),
        "a.num_batches_tracked": np.array(SEED.integers(1, 99)),
    }


def attention(live: bool) -> Arrays:
    """Of 8 channels, put at a place; `live`: trained for a while."""
    module = ChannelAttention(8)
    if live:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            for name, buffer in module.named_buffers():
                if name.endswith(("mean", "var")):
                    buffer.add_(3.0)
    return {f"branch.cam.{name}": value for name, value in weights_of(module.state_dict()).items()}


def test_the_ends_are_the_two_and_the_middle_is_their_mean() -> None:
    start, trained = drawn(), drawn()
    for name in ("a.weight", "a.running_var"):
        np.testing.assert_array_equal(between(start, trained, 0.0)[name], start[name])
        np.testing.assert_array_equal(between(start, trained, 1.0)[name], trained[name])
        np.testing.assert_allclose(between(start, trained, 0.5)[name], (start[name] + trained[name]) / 2, rtol=1e-6)
        assert between(start, trained, 0.3)[name].dtype == np.float32
    assert between(start, trained, 0.3)["a.num_batches_tracked"] == trained["a.num_batches_tracked"]


def test_share_0_is_the_starts_function_though_a_silent_attentions_first_steps_are_the_runs() -> None:
    start, trained = attention(False), attention(True)
    mixed = between(start, trained, 0.0)
    np.testing.assert_array_equal(mixed["branch.cam.0.conv.weight"], trained["branch.cam.0.conv.weight"])
    np.testing.assert_array_equal(mixed["branch.cam.0.bn.running_mean"], trained["branch.cam.0.bn.running_mean"])
    module = ChannelAttention(8).eval()
    load_weights(module, {name.removeprefix("branch.cam."): value for name, value in mixed.items()}, "mixed")
    x = torch.randn(2, 8, 4, 3)
    torch.testing.assert_close(module(x), x)


def test_an_attention_that_was_live_at_the_start_is_mixed_like_all_else() -> None:
    start, trained = attention(True), attention(True)
    name = "branch.cam.0.conv.weight"
    np.testing.assert_allclose(between(start, trained, 0.5)[name], (start[name] + trained[name]) / 2, rtol=1e-6)


def test_shares_out_of_range_and_other_networks_are_refused() -> None:
    start = drawn()
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`share` must be 0 to 1"):
            between(start, start, share)
    with pytest.raises(ValueError, match=r"`a.weight` is \(2, 3\) at the start and missing"):
        between(start, {name: value for name, value in start.items() if name != "a.weight"}, 0.5)
    with pytest.raises(ValueError, match=r"one network; `a.running_var` is \(3,\)"):
        between(start, start | {"a.running_var": np.ones(4, np.float32)}, 0.5)


def test_runs_are_read_by_their_folder_or_their_checkpoint(tmp_path: Path) -> None:
    states = [create("lifter", frames=1, width=8, heads=2).state_dict() for _ in range(2)]
    for name, state in zip(("start", "run"), states, strict=True):
        (tmp_path / name).mkdir()
        torch.save({"average": state}, tmp_path / name / "latest.pt")
    run, start = tmp_path / "run", tmp_path / "start"
    mixed = read_between(run, start, 0.25)
    for name, value in between(weights_of(states[0]), weights_of(states[1]), 0.25).items():
        np.testing.assert_array_equal(mixed[name], value)
        np.testing.assert_array_equal(read_between(run / "latest.pt", start / "latest.pt", 0.25)[name], value)
