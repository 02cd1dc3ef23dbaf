"""The lifter: published counts and keys, its forms, and what its switches leave alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from service.networks import create
from service.networks.lifter import CONFIDENCE, SelfAttention, create_lifter

OURS: dict[str, Any] = {
    "channels": 6,
    "spatial": True,
    "temporal": True,
    "head": "sequence",
    "spatial_head": True,
    "unknown_token": True,
}


def count(**options: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create("lifter", **options).parameters())


@pytest.mark.parametrize(
    ("frames", "plain", "depthwise"),
    [
        (9, 9_563_645, 9_587_197),
        (27, 9_573_455, 9_597_007),
        (81, 9_602_885, 9_626_437),
        (243, 9_691_175, 9_714_727),
    ],
)
def test_the_counts_are_poseformers_and_the_papers(frames: int, plain: int, depthwise: int) -> None:
    assert count(frames=frames) == plain
    assert count(frames=frames, spatial=True, temporal=True) == depthwise
    assert count(frames=frames, spatial=True, temporal=True, form="paper") == depthwise


def test_the_crossformer_form_has_its_own_count() -> None:
    assert count(frames=81, spatial=True, temporal=True, form="crossformer") == 9_863_925


def test_the_keys_are_poseformers() -> None:
    keys = list(create("lifter", frames=9).state_dict())
    assert len(keys) == 110
    assert {"Spatial_pos_embed", "Temporal_pos_embed", "weighted_mean.weight", "head.0.bias", "head.1.weight"} <= set(
        keys
    )
    assert {"Spatial_blocks.3.attn.qkv.weight", "blocks.0.mlp.fc2.bias", "Temporal_norm.weight"} <= set(keys)


def test_our_own_lifter_has_the_count_that_its_card_states() -> None:
    assert count(frames=27, fitted=True, **OURS) == 9_597_358
    assert count(frames=27, **OURS) == 9_597_302


@pytest.mark.parametrize("form", ["depthwise", "paper"])
def test_modules_whose_second_convolution_is_nought_leave_poseformer(form: str) -> None:
    torch.manual_seed(0)
    plain = create("lifter", frames=9).eval()
    attended = create("lifter", frames=9, spatial=True, temporal=True, form=form).eval()
    attended.load_state_dict(plain.state_dict(), strict=False)
    for name, parameter in attended.named_parameters():
        if "conv_b" in name:
            nn.init.zeros_(parameter)
    x = torch.randn(2, 9, 17, 2)
    torch.testing.assert_close(attended(x), plain(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["depthwise", "paper", "crossformer"])
def test_a_row_does_not_depend_on_who_shares_its_batch(form: str) -> None:
    torch.manual_seed(1)
    lifter = create("lifter", frames=9, form=form, **OURS).eval()
    x = torch.randn(3, 9, 17, 6)
    together = lifter(x)
    assert together.shape == (3, 9, 17, 3)
    for n in range(3):
        torch.testing.assert_close(lifter(x[n : n + 1])[0], together[n], rtol=0, atol=2e-5)


def test_the_weighted_mean_head_answers_one_frame() -> None:
    assert create("lifter", frames=9).eval()(torch.zeros(2, 9, 17, 2)).shape == (2, 1, 17, 3)


def test_what_stands_behind_an_unknown_joint_changes_nothing() -> None:
    lifter = create_lifter(frames=3, **OURS).eval()
    assert lifter.unknown is not None
    nn.init.normal_(lifter.unknown)
    x = torch.randn(1, 3, 17, 6)
    x[..., CONFIDENCE] = 0.9
    x[0, 1, 4, CONFIDENCE] = -1
    other = x.clone()
    other[0, 1, 4, :2] = 77.0
    torch.testing.assert_close(lifter(other), lifter(x), rtol=0, atol=0)
    seen = x.clone()
    seen[0, 1, 4, CONFIDENCE] = 0.9
    assert not torch.allclose(lifter(seen), lifter(x))


def test_every_weight_gets_a_gradient() -> None:
    lifter = create_lifter(frames=9, **OURS).train()
    assert lifter.spatial_head is not None
    x = torch.randn(2, 9, 17, 6)
    x[0, 0, 0, CONFIDENCE] = -1
    features = lifter.features(x)
    (lifter.poses(features).square().sum() + lifter.spatial_head(features).square().sum()).backward()
    assert [name for name, parameter in lifter.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frames": 8}, "odd"),
        ({"frames": 1, "temporal": True, "form": "paper"}, "at least 3"),
        ({"frames": 25, "temporal": True, "form": "crossformer"}, "multiple of 3"),
        ({"form": "dense"}, "depthwise"),
        ({"head": "tail"}, "sequence"),
        ({"unknown_token": True}, "channels"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        create("lifter", **options)


def test_a_window_of_another_shape_is_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"27, 17, 2.*9, 17, 2"):
        create("lifter", frames=27)(torch.zeros(1, 9, 17, 2))


def test_who_is_alone_attends_to_itself() -> None:
    torch.manual_seed(0)
    attention, token = SelfAttention(16, 4), torch.randn(3, 1, 16)
    assert torch.allclose(attention(token), attention(token.expand(-1, 2, -1))[:, :1], atol=1e-6)


def test_a_shorter_window_takes_the_places_in_the_middle() -> None:
    torch.manual_seed(0)
    options = {"frames": 9, "width": 8, "depth": 1, "heads": 2, "head": "sequence", "spatial": True, "temporal": True}
    long, short = create("lifter", **options).eval(), create("lifter", **{**options, "frames": 5}).eval()
    with torch.no_grad():
        long.get_parameter("Temporal_pos_embed").normal_()
    weights = long.state_dict()
    weights["Temporal_pos_embed"] = weights["Temporal_pos_embed"][:, 2:7]
    short.load_state_dict(weights)
    window = torch.randn(2, 5, 17, 2)
    assert torch.equal(long(window), short(window))
    for frames in (4, 11):
        with pytest.raises(ValueError, match="the lifter takes"):
            long(torch.randn(1, frames, 17, 2))
