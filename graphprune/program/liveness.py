"""Finds nodes whose result nobody uses, and nodes that do more than return a result."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import fx, nn

from graphprune.program.tensors import Layers

_IN_PLACE_OPERATORS = frozenset({"setitem", "delitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imatmul"})
_LIBRARIES = ("torch", "_operator", "operator", "math", "builtins")


def dead_nodes(module: fx.GraphModule) -> list[fx.Node]:
    """Nodes whose result is not used, not even through other nodes; each comes before the nodes that it reads."""
    layers, dead = Layers(module), dict[fx.Node, None]()
    for node in reversed(module.graph.nodes):
        if all(user in dead for user in node.users) and not has_effects(layers, node):
            dead[node] = None
    return list(dead)


def has_effects(layers: Layers, node: fx.Node) -> bool:
    """Whether a node does, or may do, more than return its result: write in place, say, or check something."""
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
    """Whether a layer may do more than return a result: a layer of torch only if it works in place or has hooks."""
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
    """Whether the arguments of a function say that it works in place."""
    try:
        bound = inspect.signature(function).bind_partial(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # built-in functions have another name for their in-place form
        return False
    return bool(bound.arguments.get("inplace", False))
