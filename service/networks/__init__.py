"""The networks in torch. `create` makes each by name, `load_weights` fills it from plain arrays, strictly.

Each network comes untrained, in training mode, on the CPU in 32 bits; what is done with it is the engines' and the
training's business. Input and output of each are described in its file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from service.errors import StoreBroken

ATTENTION = ".cam."  # in the name of every weight of the paper's channel attention


def _hrnet(width: int) -> Callable[..., nn.Module]:
    def build(**options: object) -> nn.Module:
        from .hrnet import create_hrnet

        return create_hrnet(width, **options)

    return build


def _lite_hrnet(**options: object) -> nn.Module:
    from .lite_hrnet import create_lite_hrnet

    return create_lite_hrnet(**options)


def _rtmdet_nano(**options: object) -> nn.Module:
    from .rtmdet import create_rtmdet_nano

    return create_rtmdet_nano(**options)


def _lifter(**options: object) -> nn.Module:
    from .lifter import create_lifter

    return create_lifter(**options)


def _videopose3d(**options: object) -> nn.Module:
    from .temporal_convolutions import create_temporal_convolutions

    return create_temporal_convolutions(**options)


def _torchvision(name: str) -> Callable[..., nn.Module]:
    def build(**options: object) -> nn.Module:
        from .torchvision_finders import create_torchvision_finder

        return create_torchvision_finder(name, **options)

    return build


# Foreign person finders; `torchvision_finders` says which is which.
TORCHVISION = (
    "ssdlite320-mobilenet",
    "fasterrcnn-mobilenet-320",
    "fasterrcnn-mobilenet",
    "fasterrcnn-resnet50-v2",
    "fcos-resnet50",
)

BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "hrnet-w16": _hrnet(16),  # for ablations
    "hrnet-w32": _hrnet(32),
    "hrnet-w48": _hrnet(48),
    "lite-hrnet": _lite_hrnet,
    "rtmdet-nano": _rtmdet_nano,
    "lifter": _lifter,
    "videopose3d": _videopose3d,
    **{name: _torchvision(name) for name in TORCHVISION},
}


def create(name: str, **options: object) -> nn.Module:
    """Makes a network, freshly initialised.

    Raises:
        ValueError: no network of that name, an option that it does not have, or a value out of its range.
    """
    if name not in BUILDERS:
        raise ValueError(f"there is no network {name!r}; there are {', '.join(BUILDERS)}")
    return BUILDERS[name](**options)


def load_weights(
    module: nn.Module, arrays: Mapping[str, np.ndarray], source: str, *, new_attention: bool = False
) -> None:
    """Copies arrays into a network's parameters and buffers, each to its own precision.

    Args:
        arrays: by the name of the weight; every one of the network's, and no other.
        source: what to call the file in an error.
        new_attention: weights of the channel attention that `arrays` lacks keep the values that they have: a plain
            network's weights then load into one with attention.

    Raises:
        StoreBroken: a weight is missing, is not the network's, or has another shape; nothing has been copied then.
    """
    targets = module.state_dict()
    missing = [key for key in targets if key not in arrays and not (new_attention and ATTENTION in key)]
    unexpected = [key for key in arrays if key not in targets]
    for what, keys in (("lacks", missing), ("has what the network does not have:", unexpected)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise StoreBroken(f"{source} {what} `{keys[0]}`{more}")
    for key, array in arrays.items():
        if tuple(array.shape) != tuple(targets[key].shape):
            raise StoreBroken(
                f"{source}: `{key}` is {tuple(array.shape)}, the network needs {tuple(targets[key].shape)}"
            )
    with torch.no_grad():
        for key, array in arrays.items():
            targets[key].copy_(torch.from_numpy(np.array(array)))
