"""Making a network by name, and filling it from arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from service.errors import StoreBroken
from service.networks import BUILDERS, create, load_weights


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {key: value.numpy().copy() for key, value in network.state_dict().items()}


@pytest.mark.parametrize("name", list(BUILDERS))
def test_every_name_makes_a_network(name: str) -> None:
    with torch.device("meta"):
        assert isinstance(create(name), nn.Module)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'resnet'.*hrnet-w32.*rtmdet-nano"):
        create("resnet")


@pytest.mark.parametrize("name", list(BUILDERS))
def test_an_unknown_option_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="no option colour"):
        create(name, colour="red")


def test_weights_go_in_and_come_out_the_same() -> None:
    source, target = create("rtmdet-nano"), create("rtmdet-nano")
    load_weights(target, arrays(source), "finder")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_arrays_of_16_bits_that_may_not_be_written_load_into_32() -> None:
    halves = {key: value.astype(np.float16) for key, value in arrays(create("rtmdet-nano")).items()}
    for value in halves.values():
        value.flags.writeable = False
    network = create("rtmdet-nano")
    load_weights(network, halves, "finder")
    weight = network.state_dict()["backbone.stem.0.conv.weight"]
    assert weight.dtype == torch.float32
    np.testing.assert_array_equal(weight.numpy(), halves["backbone.stem.0.conv.weight"].astype(np.float32))


def test_later_training_leaves_the_arrays_as_they_were() -> None:
    given = arrays(create("rtmdet-nano"))
    network = create("rtmdet-nano")
    load_weights(network, given, "finder")
    nn.init.zeros_(network.get_parameter("backbone.stem.0.conv.weight"))
    assert given["backbone.stem.0.conv.weight"].any()


KEY = "neck.reduce_layers.1.conv.weight"


def test_a_missing_weight_is_named_with_its_file() -> None:
    given = arrays(create("rtmdet-nano"))
    del given[KEY]
    with pytest.raises(StoreBroken, match=f"finder.safetensors lacks `{KEY}`"):
        load_weights(create("rtmdet-nano"), given, "finder.safetensors")


def test_a_weight_too_many_is_named_with_its_file() -> None:
    given = arrays(create("rtmdet-nano")) | {"neck.extra": np.zeros(3), "neck.more": np.zeros(3)}
    with pytest.raises(StoreBroken, match=r"finder.safetensors has what .*: `neck.extra` and 1 more"):
        load_weights(create("rtmdet-nano"), given, "finder.safetensors")


def test_a_misshapen_weight_is_named_with_both_shapes_and_nothing_is_copied() -> None:
    network = create("rtmdet-nano")
    before = arrays(network)
    given = {key: value + 1 for key, value in before.items()} | {KEY: np.zeros((64, 64, 1, 1))}
    with pytest.raises(StoreBroken, match=rf"finder: `{KEY}` is \(64, 64, 1, 1\), the network needs \(64, 128, 1, 1\)"):
        load_weights(network, given, "finder")
    assert all(np.array_equal(before[key], value) for key, value in arrays(network).items())


def test_plain_weights_load_into_a_network_with_attention_only_when_asked() -> None:
    plain = arrays(create("lite-hrnet"))
    network = create("lite-hrnet", attention=[(2, 0, 1, 0)])
    with pytest.raises(StoreBroken, match=r"lacks `stage2.0.branches.1.0.cam.0.conv.weight`"):
        load_weights(network, plain, "plain")
    load_weights(network, plain, "plain", new_attention=True)
    loaded = arrays(network)
    assert all(np.array_equal(loaded[key], value) for key, value in plain.items())
