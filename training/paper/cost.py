"""What the networks cost: parameters, and multiply-additions of one crop or window, as docs/paper.md lists them.

Counted on paper (no memory, no arithmetic): convolutions and matrix products, those of self-attention among them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from service.networks import create


class Costed(NamedTuple):
    """printed: the paper's parameters in millions, where it prints them."""

    label: str
    network: str
    options: dict[str, Any]
    shape: tuple[int, ...]
    printed: str = ""


SMALL, LARGE = (1, 3, 256, 192), (1, 3, 384, 288)
BOTH = {"spatial": True, "temporal": True}
OURS = {**BOTH, "head": "sequence", "spatial_head": True}
NETWORKS = (
    Costed("HRNet-W32, 256x192", "hrnet-w32", {}, SMALL, "28.5"),
    Costed("HRNet-W32, 384x288", "hrnet-w32", {}, LARGE),
    Costed("HRNet-W32, `all_blocks`", "hrnet-w32", {"attention": "all_blocks"}, SMALL, "29.3"),
    Costed("HRNet-W32, `six`", "hrnet-w32", {"attention": "six"}, SMALL),
    Costed("HRNet-W48, 256x192", "hrnet-w48", {}, SMALL, "63.6"),
    Costed("HRNet-W48, 384x288", "hrnet-w48", {}, LARGE),
    Costed("HRNet-W48, `all_blocks`", "hrnet-w48", {"attention": "all_blocks"}, SMALL, "65.9"),
    Costed("PoseFormer, 81 frames", "lifter", {"frames": 81}, (1, 81, 17, 2), "9.59"),
    Costed("PoseFormer, 27 frames", "lifter", {"frames": 27}, (1, 27, 17, 2), "9.60"),
    Costed("ours, `depthwise`, 81 frames", "lifter", {"frames": 81, **OURS}, (1, 81, 17, 2), "9.86"),
    Costed("ours, `depthwise`, 27 frames", "lifter", {"frames": 27, **OURS}, (1, 27, 17, 2), "9.86"),
    Costed("ours, `depthwise`, 9 frames", "lifter", {"frames": 9, **OURS}, (1, 9, 17, 2), "9.85"),
    Costed("`crossformer`, 81 frames", "lifter", {"frames": 81, "form": "crossformer", **BOTH}, (1, 81, 17, 2), "9.86"),
    Costed("VideoPose3D, 81 frames", "videopose3d", {"frames": 81, "strided": True}, (1, 81, 17, 2), "12.70"),
    Costed("VideoPose3D, 243 frames", "videopose3d", {"frames": 243, "strided": True}, (1, 243, 17, 2), "12.75"),
)


def cost(network: str, options: dict[str, Any], shape: tuple[int, ...]) -> tuple[int, int]:
    """(parameters, multiply-additions) of a network and one input of that shape."""
    with torch.device("meta"):
        module = create(network, **options).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            module(torch.zeros(shape))
    return sum(parameter.numel() for parameter in module.parameters()), counter.get_total_flops() // 2


def line(costed: Costed) -> str:
    """A line of the table."""
    parameters, operations = cost(costed.network, costed.options, costed.shape)
    printed = costed.printed or "-"
    return f"| {costed.label} | {parameters:,} | {parameters / 1e6:.2f} | {printed} | {operations / 1e9:.2f} |"


def main() -> None:
    print("| network | parameters | in millions | printed | G multiply-additions |\n| --- | --- | --- | --- | --- |")
    for costed in NETWORKS:
        print(line(costed), flush=True)


if __name__ == "__main__":
    main()
