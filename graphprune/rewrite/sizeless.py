"""Nodes that hold no size of a channel dim, so that they follow a prune by themselves.

A program that consists of such nodes needs no trial prune; any other program is tried out.
"""

from __future__ import annotations

from torch import fx, nn

from graphprune.program.nodes import Kind, kind_of
from graphprune.program.tensors import Layers

_MODULE_FILES = frozenset({"activation", "batchnorm", "conv", "dropout", "linear", "padding", "pooling"})


def is_sizeless(layers: Layers, node: fx.Node) -> bool:
    """Whether a node holds no size, or only sizes that the update of its layer (one of ``layers``) covers."""
    if node.op in ("placeholder", "get_attr", "output"):
        return True
    if node.op != "call_module":
        return Kind.SIZELESS in kind_of(node)
    leaf = type(layers.called_by(node))
    if issubclass(leaf, nn.Flatten):
        return True
    return leaf.__module__.startswith("torch.nn.modules.") and leaf.__module__.rpartition(".")[2] in _MODULE_FILES
