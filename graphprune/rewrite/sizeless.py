"""Nodes that hold no size of a channel dim, so that they follow a prune by themselves.

A program of such nodes needs no trial prune. What is not listed here is tried out.
"""

from __future__ import annotations

from torch import fx, nn

from graphprune.program.nodes import op_name
from graphprune.program.tensors import Layers

_OPS = frozenset({
    "add", "add_", "iadd", "sub", "mul", "mul_", "imul", "truediv", "div", "cat", "concat", "relu", "relu_", "gelu",
        "silu",
    "sigmoid", "hardswish", "leaky_relu", "flatten", "mean", "adaptive_avg_pool2d", "avg_pool2d", "max_pool2d",
    "permute", "transpose", "contiguous", "dropout",
})  # fmt: skip
_MODULE_FILES = frozenset({"activation", "batchnorm", "conv", "dropout", "linear", "padding", "pooling"})


def is_sizeless(layers: Layers, node: fx.Node) -> bool:
    """Whether the node, which may call one of the layers, holds no size (or one that a layer's update covers)."""
    if node.op in ("placeholder", "get_attr", "output"):
        return True
    if node.op != "call_module":
        return op_name(node) in _OPS
    leaf = type(layers.called_by(node))
    if issubclass(leaf, nn.Flatten):
        return True
    return leaf.__module__.startswith("torch.nn.modules.") and leaf.__module__.rpartition(".")[2] in _MODULE_FILES
