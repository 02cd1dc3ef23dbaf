"""A convolutional network with fewer steps for a CUDA device: batch norms folded, and bias, sum and ReLU in one kernel.

Works on the exported graph, where it is seen who reads what: a batch norm is folded only into a convolution that
nobody else reads. The answers are the network's own but for rounding.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

aten: Any = torch.ops.aten


def fused(network: nn.Module, example: Tensor, finish: Any = None) -> nn.Module:
    """The network, its batch norms folded; with `finish`, what follows a convolution in one call.

    Args:
        network: in evaluation mode, on the CPU, 32 bits; takes one (n, ...) tensor, any n.
        example: (2 or more, ...) an input.
        finish: (y, bias, other or None, relu) to ReLU(y + bias + other), which may write into y.
    """
    batch = torch.export.Dim("batch", min=1, max=1024)
    exported = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    module = exported.module()
    assert isinstance(module, fx.GraphModule)
    for node in list(module.graph.nodes):
        if node.target in (aten._assert_tensor_metadata.default, aten.sym_constrain_range_for_size.default):
            module.graph.erase_node(node)  # it was asked of 32 bits
        elif node.op == "call_module" and node.target == "_guards_fn":
            module.graph.erase_node(node)
    for node in list(module.graph.nodes):
        if node.target is aten.batch_norm.default and _alone(node.args[0], aten.conv2d.default):
            _fold(module, node.args[0], node)
    if finish is not None:
        for node in list(module.graph.nodes):
            if node.target is aten.conv2d.default and len(node.args) > 2 and node.args[2] is not None:
                _finish(module, node, finish)
    module.graph.eliminate_dead_code()
    return fx.GraphModule(module, module.graph).eval()  # an exported module can be neither trained nor told not to be


def _alone(node: Any, target: Any) -> bool:
    """Whether a node is of that kind and read once."""
    return isinstance(node, fx.Node) and node.target is target and len(node.users) == 1


def _fold(module: fx.GraphModule, conv: fx.Node, norm: fx.Node) -> None:
    """Makes the norm part of the convolution's weight and bias."""
    weight, bias = (_values(module, conv.args[i]) if len(conv.args) > i else None for i in (1, 2))
    gain, shift, mean, variance = (_values(module, norm.args[i]) for i in range(1, 5))
    assert weight is not None and mean is not None and variance is not None
    scale = (variance + float(norm.args[7])).rsqrt()  # type: ignore[arg-type]
    scale = scale if gain is None else scale * gain
    moved = (0 if bias is None else bias) - mean
    folded = {"weight": weight * scale.reshape(-1, 1, 1, 1), "bias": moved * scale + (0 if shift is None else shift)}
    names = []
    for kind, values in folded.items():
        name = f"folded_{norm.name}_{kind}"
        module.register_parameter(name, nn.Parameter(values, requires_grad=False))
        with module.graph.inserting_before(conv):
            names.append(module.graph.get_attr(name))
    conv.args = (conv.args[0], *names, *conv.args[3:])
    norm.replace_all_uses_with(conv)
    module.graph.erase_node(norm)


def _finish(module: fx.GraphModule, conv: fx.Node, finish: Any) -> None:
    """Takes the bias out of a convolution and puts one call behind it that also adds and cuts off below 0."""
    bias, last, other, relu = conv.args[2], conv, None, False
    following = next(iter(conv.users))
    if len(conv.users) == 1 and following.target in (aten.add.Tensor, operator.add) and not following.kwargs:
        candidates = [arg for arg in following.args if arg is not conv]
        # What is added must have the result's own shape: a sum that spreads a smaller one is left alone.
        if len(candidates) == 1 and isinstance(candidates[0], fx.Node) and _shape(candidates[0]) == _shape(conv):
            other, last = candidates[0], following
    if len(last.users) == 1 and next(iter(last.users)).target is aten.relu.default:
        last, relu = next(iter(last.users)), True
    with module.graph.inserting_before(last):
        bare = module.graph.call_function(aten.conv2d.default, (conv.args[0], conv.args[1], None, *conv.args[3:]))
        bare.meta = dict(conv.meta)
        whole = module.graph.call_function(finish, (bare, bias, other, relu))
        whole.meta = dict(last.meta)
    last.replace_all_uses_with(whole)
    for node in dict.fromkeys((last, *([last.args[0]] if relu and other is not None else []), conv)):
        if isinstance(node, fx.Node) and not node.users:
            module.graph.erase_node(node)


def _shape(node: fx.Node) -> Any:
    value = node.meta.get("val")
    return None if value is None else tuple(map(str, value.shape))


def _values(module: fx.GraphModule, node: Any) -> Tensor | None:
    """What a `get_attr` node stands for."""
    if node is None:
        return None
    value: Any = module
    for name in str(node.target).split("."):
        value = getattr(value, name)
    assert isinstance(value, Tensor)
    return value.detach()
