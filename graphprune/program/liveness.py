"""Nodes whose result is used, and nodes that do more than give one."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.program.tensors import Layers

_IN_PLACE_OPERATORS = frozenset({
    "setitem", "delitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior",
    "ixor", "ilshift", "irshift", "iconcat",
})  # fmt: skip
_LIBRARIES = ("torch", "_operator", "operator", "math", "builtins")


def dead_nodes(module: fx.GraphModule, wanted: Collection[int] = ()) -> list[fx.Node]:
    """Nodes on whose result nothing depends that is used, each before those that it reads.

    Args:
        module: The graph.
        wanted: Stored tensors, by identity; nodes that read one of them are not dead.
    """
    layers, dead = Layers(module), dict[fx.Node, None]()

    def is_wanted(node: fx.Node) -> bool:
        return bool(wanted) and any(id(tensor) in wanted for tensor in tensors_read_by(layers, node))

    for node in reversed(module.graph.nodes):
        if all(user in dead for user in node.users) and not has_effects(layers, node) and not is_wanted(node):
            dead[node] = None
    return list(dead)


def tensors_read_by(layers: Layers, node: fx.Node) -> list[Tensor]:
    """Parameters and buffers that a node reads: its own where it is one, else those of the layer that it calls."""
    if node.op == "get_attr":
        found = attrgetter(str(node.target))(layers.module)
        return [found] if isinstance(found, Tensor) else []
    if node.op != "call_module":
        return []
    layer = layers.called_by(node)
    return [*layer.parameters(), *layer.buffers()]


def has_effects(layers: Layers, node: fx.Node) -> bool:
    """Whether a node does, or may do, more than give its result: it writes in place, say, or checks something."""
    if node.op in ("placeholder", "output"):
        return True
    if node.op == "call_module":
        return _layer_has_effects(layers.called_by(node))
    if node.op == "call_method":
        return _is_in_place(str(node.target))
    return node.op == "call_function" and (node.is_impure() or _function_has_effects(node))


def _is_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _layer_has_effects(layer: nn.Module) -> bool:
    """A layer of torch gives a result and nothing else, unless it works in place or somebody is told of its calls."""
    if getattr(layer, "inplace", False) or layer._forward_hooks or layer._forward_pre_hooks:
        return True
    return not str(getattr(type(layer).forward, "__module__", "")).startswith("torch.nn.modules.")


def _function_has_effects(node: fx.Node) -> bool:
    function: Any = node.target
    if isinstance(function, torch._ops.OpOverload):
        return bool(function._schema.is_mutable)
    name, home = getattr(function, "__name__", ""), str(getattr(function, "__module__", None) or "torch")
    if home.partition(".")[0] not in _LIBRARIES or name in _IN_PLACE_OPERATORS or _is_in_place(name):
        return True
    return "out" in node.kwargs or _given_in_place(function, node)


def _given_in_place(function: Any, node: fx.Node) -> bool:
    """Whether a function that can work in place is told to."""
    try:
        bound = inspect.signature(function).bind_partial(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # built in: those have a name of their own for it
        return False
    return bool(bound.arguments.get("inplace", False))
