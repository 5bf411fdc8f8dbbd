"""Nodes of the graph: the name of their op, their arguments, and where they come from."""

from __future__ import annotations

import operator
from enum import Flag, auto
from typing import Any

import torch
from torch import fx

_AUGMENTED = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift", "xor")

IN_PLACE_OPERATORS: dict[Any, Any] = {
    **{getattr(operator, f"i{name}"): getattr(operator, name) for name in _AUGMENTED},
    operator.iand: operator.and_,
    operator.ior: operator.or_,
}
"""Each operator that writes to its first operand, as ``y += x`` does, with the one that does not."""


def source_line(node: fx.Node) -> str:
    """``file:line`` of the user's code that made the node; empty where it is not known."""
    source: str = node.meta.get("source", "")
    return source


def op_name(node: fx.Node) -> str:
    """The name of a node's op, under which rewriting rules are registered."""
    if node.op == "call_method":
        return str(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target.overloadpacket.__name__)
    return getattr(node.target, "__name__", str(node.target))


def argument(node: fx.Node, position: int, *names: str, default: Any = None) -> Any:
    """A node's argument by position or by one of its names."""
    if position < len(node.args):
        return node.args[position]
    return next((node.kwargs[name] for name in names if name in node.kwargs), default)


def set_argument(node: fx.Node, position: int, name: str, value: Any) -> None:
    """Sets a node's argument, by position if it was given so, otherwise by name."""
    if position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)


class Kind(Flag):
    """What is known of an op by its name."""

    UNKNOWN = 0
    SIZELESS = auto()
    """The op holds no size of a channel dim, so that it follows a prune by itself."""
    MOVES = auto()
    """The op moves or picks elements and does not change their values."""
    READS_SHAPE = auto()
    """Torch finds the result without values quickly, and correctly for any memory layout."""
    READS_SHAPE_IN_ORDER = auto()
    """As ``READS_SHAPE``, but right only for contiguous tensors."""


_SIZELESS, _MOVES, _READS, _IN_ORDER = Kind.SIZELESS, Kind.MOVES, Kind.READS_SHAPE, Kind.READS_SHAPE_IN_ORDER

KINDS: dict[str, Kind] = {
    "permute": _MOVES | _SIZELESS | _READS,
    "transpose": _MOVES | _SIZELESS | _READS,
    "flatten": _MOVES | _SIZELESS | _IN_ORDER,
    "contiguous": _MOVES | _SIZELESS,
    **dict.fromkeys(("chunk", "expand", "getitem", "split", "squeeze", "unbind", "unsqueeze"), _MOVES | _READS),
    **dict.fromkeys(("reshape", "unflatten", "view"), _MOVES | _IN_ORDER),
    **dict.fromkeys(
        ("clone", "movedim", "narrow", "select", "slice", "split_with_sizes", "squeeze_", "t", "t_", "tensor_split",
         "transpose_", "unsqueeze_"),
        _MOVES,
    ),
    **dict.fromkeys(("dim", "size"), _READS),
    **dict.fromkeys(
        ("adaptive_avg_pool2d", "add", "add_", "avg_pool2d", "cat", "concat", "div", "dropout", "gelu", "hardswish",
         "iadd", "imul", "leaky_relu", "max_pool2d", "mean", "mul", "mul_", "relu", "relu_", "sigmoid", "silu", "sub",
         "truediv"),
        _SIZELESS,
    ),
}  # fmt: skip
"""Kinds of functions, methods and ATen ops, by `op_name`."""


def kind_of(node: fx.Node) -> Kind:
    """What is known of the op that a node calls; unknown for layers, inputs, stored tensors and the output."""
    return KINDS.get(op_name(node), Kind.UNKNOWN) if node.op in ("call_function", "call_method") else Kind.UNKNOWN
