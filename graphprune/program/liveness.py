"""Finds nodes whose result nobody uses, and nodes that do more than return a result."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Collection
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from graphprune.program.nodes import IN_PLACE_OPERATORS
from graphprune.program.tensors import Layers, submodules

_WRITING = {*IN_PLACE_OPERATORS, operator.iconcat, operator.setitem, operator.delitem}
_LIBRARIES = ("torch", "_operator", "operator", "math", "builtins")


def dead_nodes(module: fx.GraphModule, wanted: Collection[int] = ()) -> list[fx.Node]:
    """Nodes on whose result nothing depends that is used, each before those that it reads.

    A dead call of a layer whose statistics live nodes read as well is none: in training it has its share in them.

    Args:
        module: The graph.
        wanted: Stored tensors, by identity; nodes that read one of them are not dead.
    """
    layers, kept = Layers(module), set[fx.Node]()
    while True:  # ends: every time round at least one node more is kept
        dead = _dead_but_for(layers, module.graph, wanted, kept)
        writing = {node: statistics for node in dead if (statistics := _statistics_of(layers, node))}
        alive = [node for node in module.graph.nodes if node not in dead] if writing else []
        read = {id(tensor) for node in alive for tensor in tensors_read_by(layers, node)}
        seen = {node for node, statistics in writing.items() if not read.isdisjoint(map(id, statistics))}
        if not seen:
            return list(dead)
        kept |= seen


def _dead_but_for(
    layers: Layers, graph: fx.Graph, wanted: Collection[int], kept: Collection[fx.Node]
) -> dict[fx.Node, None]:
    dead: dict[fx.Node, None] = {}

    def stays(node: fx.Node) -> bool:
        wants = bool(wanted) and any(id(tensor) in wanted for tensor in tensors_read_by(layers, node))
        return wants or node in kept or (has_effects(layers, node) and not _writes_unseen(layers, node, dead))

    for node in reversed(graph.nodes):
        if all(user in dead for user in node.users) and not stays(node):
            dead[node] = None
    return dead


def _writes_unseen(layers: Layers, node: fx.Node, dead: Collection[fx.Node]) -> bool:
    """Whether all that a node does is to write in place to what only dead nodes read."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not _writes_to_first(layers, node):
        return False
    if any(user is not node and user not in dead for user in source.users):
        return False
    is_alone = has_own_memory(layers, source) and not has_effects(layers, source)
    return is_alone or _writes_unseen(layers, source, {*dead, node})


def _writes_to_first(layers: Layers, node: fx.Node) -> bool:
    """Whether a node writes in place to its first argument, gives that, and does no more."""
    if node.op == "call_module":
        layer = layers.called_by(node)
        return bool(getattr(layer, "inplace", False)) and not _does_more(layer)
    is_functional = getattr(node.target, "__module__", "") == "torch.nn.functional"
    return node.op == "call_function" and is_functional and _given_in_place(node.target, node)


def has_own_memory(layers: Layers, node: fx.Node) -> bool:
    """Whether a node's result has memory of its own."""
    if node.op == "call_module":
        return isinstance(layers.called_by(node), _FRESH_LAYERS)
    return node.op == "call_function" and node.target in _FRESH_FUNCTIONS


_FRESH_LAYERS = (_ConvNd, _BatchNorm, nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.Embedding)
_FRESH_FUNCTIONS = {operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul, operator.neg}


def _statistics_of(layers: Layers, node: fx.Node) -> list[Tensor]:
    """Buffers to which a node writes in training mode: of a normalisation by the batch, say, its running statistics."""
    if node.op == "call_module":
        return list(layers.called_by(node).buffers())
    name = str(getattr(node.target, "__name__", ""))
    if node.op != "call_function" or not any(kind in name for kind in _NORMALISING):
        return []
    given = [source for source in node.all_input_nodes if source.op == "get_attr"]
    tensors = [tensor for source in given for tensor in tensors_read_by(layers, source)]
    return [tensor for tensor in tensors if not isinstance(tensor, nn.Parameter)]


_NORMALISING = ("batch_norm", "instance_norm")
"""Parts of the names of functions that write to the running statistics which they are given."""


def tensors_read_by(layers: Layers, node: fx.Node) -> list[Tensor]:
    """Parameters and buffers that a node reads: its own where it is one, else those of the layer that it calls."""
    if node.op == "get_attr":
        found = attrgetter(str(node.target))(layers.module)
        return [found] if isinstance(found, Tensor) else []
    if node.op != "call_module":
        return []
    modules = submodules(layers.called_by(node)).values()
    tables = [table for module in modules for table in (module._parameters, module._buffers)]
    return [tensor for table in tables for tensor in table.values() if tensor is not None]


def has_effects(layers: Layers, node: fx.Node) -> bool:
    """Whether a node does, or may do, more than return its result: write in place, say, or check something."""
    if node.op in ("placeholder", "output"):
        return True
    if node.op == "call_module":
        return _layer_has_effects(layers.called_by(node))
    if node.op == "call_method":
        return _is_in_place(str(node.target))
    impure = node.is_impure() and not draws_random_numbers(node)
    return node.op == "call_function" and (impure or _function_has_effects(node))


def draws_random_numbers(node: fx.Node) -> bool:
    """Whether a node calls a function that may draw random numbers; a layer that does so draws none in evaluation."""
    return node.op == "call_function" and _is_random(node.target)


def _is_random(function: Any) -> bool:
    """Whether a function draws random numbers: those that come after it are others without it, and as random."""
    if isinstance(function, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded in function.tags
    packet = getattr(torch.ops.aten, getattr(function, "__name__", ""), None)
    return packet is not None and any(_is_random(getattr(packet, overload)) for overload in packet.overloads())


def _is_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _layer_has_effects(layer: nn.Module) -> bool:
    """A layer of torch gives a result and nothing else, unless it works in place or somebody is told of its calls."""
    return bool(getattr(layer, "inplace", False)) or _does_more(layer)


def _does_more(layer: nn.Module) -> bool:
    """Whether a layer is somebody's own code, or somebody is told of its calls."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        return True
    return not str(getattr(type(layer).forward, "__module__", "")).startswith("torch.nn.modules.")


def _function_has_effects(node: fx.Node) -> bool:
    function: Any = node.target
    if isinstance(function, torch._ops.OpOverload):
        return bool(function._schema.is_mutable)
    name, home = getattr(function, "__name__", ""), str(getattr(function, "__module__", None) or "torch")
    if home.partition(".")[0] not in _LIBRARIES or function in _WRITING or _is_in_place(name):
        return True
    return "out" in node.kwargs or _given_in_place(function, node)


def _given_in_place(function: Any, node: fx.Node) -> bool:
    """Whether the arguments of a function say that it works in place."""
    try:
        bound = inspect.signature(function).bind_partial(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # built-in functions have another name for their in-place form
        return False
    return bool(bound.arguments.get("inplace", False))
