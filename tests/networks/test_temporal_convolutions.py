"""VideoPose3D: published sizes and names, and the laws of its forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from service.networks import create


def on_paper(**options: object) -> nn.Module:
    """Without memory: sizes and names only."""
    with torch.device("meta"):
        return create("videopose3d", **options)


def small(frames: int = 27, strided: bool = False) -> nn.Module:
    """Few channels, and norms that do something."""
    torch.manual_seed(0)
    network = create("videopose3d", frames=frames, channels=16, strided=strided)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(("frames", "weights"), [(9, 4_357_171), (27, 8_555_571), (81, 12_753_971), (243, 16_952_371)])
def test_it_has_the_published_number_of_weights(frames: int, weights: int) -> None:
    assert sum(p.numel() for p in on_paper(frames=frames).parameters()) == weights


def test_its_weights_bear_the_official_names() -> None:
    shapes = {key: tuple(value.shape) for key, value in on_paper(frames=27).state_dict().items()}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    convolutions = {f"layers_conv.{n}.weight": (1024, 1024, 1 if n % 2 else 3) for n in range(4)}
    norms = {
        f"{name}.{part}": (1024,) if part != "num_batches_tracked" else ()
        for name in ("expand_bn", *(f"layers_bn.{n}" for n in range(4)))
        for part in norm
    }
    rest = {"expand_conv.weight": (1024, 34, 3), "shrink.weight": (51, 1024, 1), "shrink.bias": (51,)}
    assert shapes == convolutions | norms | rest


@pytest.mark.parametrize("frames", [3, 9, 27, 81])
def test_dilated_and_strided_are_one_function_on_a_window(frames: int) -> None:
    dilated, strided = small(frames), small(frames, strided=True)
    strided.load_state_dict(dilated.state_dict())
    window = torch.randn(2, frames, 17, 2)
    assert dilated(window).shape == (2, 1, 17, 3)
    torch.testing.assert_close(strided(window), dilated(window))


def test_a_long_sequence_is_answered_as_its_windows_are() -> None:
    network = small(27)
    sequence = torch.randn(1, 31, 17, 2)
    windows: Tensor = sequence.unfold(1, 27, 1).permute(0, 1, 4, 2, 3)[0]  # (5, 27, 17, 2)
    torch.testing.assert_close(network(sequence)[0], network(windows)[:, 0])


def test_the_pose_depends_on_the_window_s_first_and_last_frame() -> None:
    network = small(9)
    window = torch.randn(1, 9, 17, 2, requires_grad=True)
    network(window).abs().sum().backward()
    assert window.grad is not None
    assert bool((window.grad.abs().sum((0, 2, 3)) > 0).all())


def test_a_batch_gives_what_each_gives_alone() -> None:
    network, windows = small(9), torch.randn(3, 9, 17, 2)
    torch.testing.assert_close(network(windows), torch.cat([network(window[None]) for window in windows]))


@pytest.mark.parametrize(("strided", "length"), [(False, 8), (True, 8), (True, 10)])
def test_a_length_that_does_not_fit_is_refused_with_what_came(strided: bool, length: int) -> None:
    with pytest.raises(ValueError, match=rf"\(batch, 9.*, 17, 2\), got \(1, {length}, 17, 2\)"):
        small(9, strided=strided)(torch.zeros(1, length, 17, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 10}, "`frames` must be a power of 3, got 10"),
        ({"frames": 1}, "`frames` must be a power of 3, got 1"),
        ({"channels": 0}, "`channels` must be 1 or more, got 0"),
        ({"causal": True}, "videopose3d has no option causal"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create("videopose3d", **options)
