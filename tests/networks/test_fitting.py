"""Poses fitted to their rays and to bones of one length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from service.engines.framing import window_channels
from service.geometry.skeletons import MADE_JOINTS, SKELETONS, mirror_order
from service.networks import create
from service.networks.fitting import MADE, MIRRORED, MOST_M, PARENTS, ROUNDS, Fitting

FRAMES = 9
SIZE = (1280, 720)
# A standing body in the camera's axes (y down), metres.
STANDING = [
    (0, 0, 0), (-0.13, 0, 0), (-0.15, 0.43, 0.03), (-0.16, 0.85, 0), (0.13, 0, 0), (0.15, 0.43, 0.03), (0.16, 0.85, 0),
    (0, -0.25, 0), (0, -0.5, 0), (0, -0.58, -0.08), (0, -0.7, -0.02), (0.16, -0.45, 0), (0.3, -0.25, -0.1),
    (0.35, -0.05, -0.2), (-0.16, -0.45, 0), (-0.3, -0.25, -0.1), (-0.35, -0.05, -0.2),
]  # fmt: skip


def turning() -> Tensor:
    """(1, FRAMES, 17, 3) a stiff body that turns a quarter about the vertical, relative to joint 0."""
    body = torch.tensor(STANDING)
    frames = []
    for angle in torch.linspace(-0.8, 0.8, FRAMES):
        cos, sin = angle.cos(), angle.sin()
        turn = torch.tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        frames.append(body @ turn.T)
    return torch.stack(frames)[None]


def filmed(bodies: Tensor, score: float = 1.0, slope: float = 0.577, given: bool = True) -> Tensor:
    """The channels of a camera's view from 4 m away, half the longer side over the focal length being `slope`."""
    seen = bodies + torch.tensor([0.4, -0.1, 4.0])
    focal = max(SIZE) / 2 / slope
    places = focal * seen[..., :2] / seen[..., 2:] + torch.tensor(SIZE) / 2
    points = torch.cat([places, torch.full_like(places[..., :1], score)], -1).numpy()
    sizes = np.array([SIZE] * len(points), np.float32)
    return torch.from_numpy(window_channels(points, sizes, np.full(len(points), given)))


def disturbed(bodies: Tensor, metres: float = 0.03, seed: int = 0) -> Tensor:
    noise = torch.randn(bodies.shape, generator=torch.Generator().manual_seed(seed))
    moved = bodies + metres * noise
    return moved - moved[:, :, :1]


def error(bodies: Tensor, wanted: Tensor) -> float:
    return float((bodies - wanted).norm(dim=-1).mean())


@torch.no_grad()
def fitted(bodies: Tensor, channels: Tensor) -> Tensor:
    moved: Tensor = Fitting()(bodies, channels)
    return moved


def lengths(bodies: Tensor) -> Tensor:
    bones: Tensor = bodies[:, :, 1:] - bodies[:, :, list(PARENTS[1:])]
    return bones.square().sum(-1).sqrt()


@pytest.mark.parametrize("slope", [0.268, 0.577, 1.0])
def test_what_agrees_with_its_rays_and_lengths_stays(slope: float) -> None:
    true = turning()
    assert error(fitted(true, filmed(true, slope=slope)), true) < 0.004


def test_an_answer_beside_its_rays_comes_nearer_to_the_truth() -> None:
    true = turning()
    answer = disturbed(true)
    assert error(fitted(answer, filmed(true)), true) < 0.6 * error(answer, true)


def test_bones_keep_their_length_better_than_before() -> None:
    true = turning()
    answer = disturbed(true)
    assert lengths(fitted(answer, filmed(true))).std(1).mean() < 0.5 * lengths(answer).std(1).mean()


def test_joints_of_low_scores_are_left_where_the_network_has_them() -> None:
    true = turning()
    answer = disturbed(true)
    moved = fitted(answer, filmed(true, score=0.3))
    assert (moved - answer)[..., :2].abs().max() < 1e-3


def test_what_is_unknown_pulls_nothing() -> None:
    """Places of unknown joints are zeros: nothing may follow them, and what they say changes nothing."""
    true = turning()
    channels = filmed(true)
    channels[:, :, 3] = 0
    channels[:, :, 3, 2] = -1
    other = channels.clone()
    other[:, :, 3, 3:5] = 0.9
    answer = disturbed(true)
    torch.testing.assert_close(fitted(answer, channels), fitted(answer, other), rtol=0, atol=0)


def test_joints_that_were_made_from_others_pull_nothing() -> None:
    true = turning()
    channels = filmed(true, given=False)
    other = channels.clone()
    other[:, :, list(MADE), 3:5] += 0.1
    answer = disturbed(true)
    torch.testing.assert_close(fitted(answer, channels), fitted(answer, other), rtol=0, atol=0)


def test_a_window_of_which_nothing_is_known_is_answered() -> None:
    answer = disturbed(turning())
    channels = torch.zeros(1, FRAMES, 17, 6)
    channels[..., 2] = -1
    moved = fitted(answer, channels)
    assert moved.isfinite().all()
    assert (moved - answer)[..., :2].abs().max() < 1e-6


def test_a_place_far_away_moves_its_joint_by_a_foot_at_most() -> None:
    true = turning()
    channels = filmed(true)
    channels[0, 4, 16, 3] += 0.5
    moved = fitted(true, channels)
    least, most = ROUNDS * MOST_M * 0.5, ROUNDS * MOST_M + 0.1  # joint 0 follows a little, too
    assert least < float((moved[0, 4, 16, :2] - true[0, 4, 16, :2]).abs().max()) < most


def test_a_mirrored_window_gives_the_mirrored_poses() -> None:
    assert list(MIRRORED) == mirror_order(SKELETONS["h36m17"]).tolist()
    answer, order = disturbed(turning()), list(MIRRORED)
    channels = filmed(turning())
    in_mirror = channels[:, :, order] * torch.tensor([-1.0, 1, 1, -1, 1, 1])
    back = fitted(answer[:, :, order] * torch.tensor([-1.0, 1, 1]), in_mirror)[:, :, order] * torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(back, fitted(answer, channels), rtol=0, atol=1e-6)


def test_it_knows_the_joints_that_the_service_knows() -> None:
    assert MADE == MADE_JOINTS
    assert PARENTS[1:] == tuple(SKELETONS["h36m17"].parents)[1:]


def test_batched_equals_single() -> None:
    answers = torch.cat([disturbed(turning(), seed=n) for n in range(3)])
    channels = filmed(turning()).repeat(3, 1, 1, 1)
    together = fitted(answers, channels)
    for n in range(3):
        torch.testing.assert_close(fitted(answers[n : n + 1], channels[n : n + 1])[0], together[n], rtol=0, atol=1e-6)


def test_every_parameter_learns() -> None:
    fitting = Fitting()
    answers, channels = disturbed(turning()), torch.cat([filmed(turning(), 0.95), filmed(turning(), 0.9, given=False)])
    (fitting(answers.repeat(2, 1, 1, 1), channels) - turning()).square().sum().backward()
    grads = {name: each.grad for name, each in fitting.named_parameters()}
    assert [name for name, each in grads.items() if each is None or not each.any()] == []


def test_a_fitted_lifter_is_the_plain_one_with_its_poses_fitted() -> None:
    options = {"frames": FRAMES, "channels": 6, "head": "sequence"}
    torch.manual_seed(0)
    whole = create("lifter", fitted=True, **options).eval()
    plain = create("lifter", **options).eval()
    plain.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("fitting.")})
    channels = filmed(turning())
    with torch.no_grad():
        torch.testing.assert_close(whole(channels), whole.fitting(plain(channels), channels), rtol=0, atol=0)  # type: ignore[operator]


def test_only_a_lifter_that_reads_the_services_channels_can_be_fitted() -> None:
    with pytest.raises(ValueError, match="`fitted` needs head `sequence`"):
        create("lifter", fitted=True, frames=9)
