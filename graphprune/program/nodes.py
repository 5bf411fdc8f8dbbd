"""Nodes of the graph: the name of an op, its arguments, and where it comes from."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


def source_line(node: fx.Node) -> str:
    """``file:line`` of the user's code that made the node; empty where it is not known."""
    source: str = node.meta.get("source", "")
    return source


def op_name(node: fx.Node) -> str:
    """The name that rules are registered under."""
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
    """Sets a node's argument where it was given, or by name."""
    if position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)
