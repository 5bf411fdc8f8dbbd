"""Sizes that a program reads from tensors: where they count channels, they become literals."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import NOT_PRUNABLE
from graphprune.labels.operand import Operand
from graphprune.labels.planes import channel_planes, is_sample, squash, varying
from graphprune.program.nodes import argument
from graphprune.program.surgery import copy_sharing_tensors


def with_fixed_channel_sizes(module: fx.GraphModule, dependencies: Dependencies) -> tuple[fx.GraphModule, int]:
    """Replaces reads of channel sizes by their values, and folds arithmetic on the literals.

    Returns:
        The module, a new one where anything was replaced, and the number of replaced nodes.
    """
    values = dependencies.values
    if not any(
        _reads_channel_size(node, dependencies) or _counts_elements(node, dependencies) for node in module.graph.nodes
    ):
        return module, 0
    fixed = copy_sharing_tensors(module)
    count = 0
    for node in list(fixed.graph.nodes):
        if _counts_elements(node, dependencies):
            _replace(node, _count(node, dependencies))
            count += 1
        elif _reads_channel_size(node, dependencies) or _is_constant_arithmetic(node):
            _replace(node, values[node.name])
            count += 1
    fixed.recompile()
    return fixed, count


def _reads_channel_size(node: fx.Node, dependencies: Dependencies) -> bool:
    if not isinstance(dependencies.values.get(node.name), int):
        return False
    if node.op == "call_method" and node.target == "size":
        return _is_prunable(dependencies, node.args[0], argument(node, 1, "dim"))
    if node.target in (torch.ops.aten.sym_size.int, torch.ops.aten.size.int):
        return _is_prunable(dependencies, node.args[0], node.args[1])
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        shape = node.args[0]
        if (shape.op == "call_method" and shape.target == "size") or shape.target is getattr:
            return _is_prunable(dependencies, shape.args[0], node.args[1])
    return False


_COUNTERS = {"numel", "nelement", torch.numel}


def _counts_elements(node: fx.Node, dependencies: Dependencies) -> bool:
    """Whether a node counts the elements of a tensor that may lose channels."""
    if node.target not in _COUNTERS or not isinstance(dependencies.values.get(node.name), int):
        return False
    (source,) = node.all_input_nodes
    operand = dependencies.values[source.name]
    return any(_is_prunable(dependencies, source, dim) for dim in range(len(operand.shape)))


def _count(node: fx.Node, dependencies: Dependencies) -> Any:
    """Number of elements of the dense tensor: a literal, times the batch size if samples have a dim of their own."""
    (source,) = node.all_input_nodes
    operand, count = dependencies.values[source.name], dependencies.values[node.name]
    samples = next((varying(plane) for plane in operand.planes if is_sample(plane)), frozenset[int]())
    if len(samples) != 1:
        return count
    (dim,) = samples
    with node.graph.inserting_before(node):
        size = node.graph.call_method("size", (source, dim))
        return node.graph.call_function(operator.mul, (size, count // operand.shape[dim]))


def _is_prunable(dependencies: Dependencies, tensor: Any, dim: Any) -> bool:
    """Whether anything can be removed from a tensor along a dim."""
    operand = dependencies.values.get(tensor.name) if isinstance(tensor, fx.Node) else None
    if not isinstance(operand, Operand) or not isinstance(dim, int):
        return False
    dim %= len(operand.shape)
    return any(
        dim in varying(plane) and bool((dependencies.channel_of[squash(plane)] != NOT_PRUNABLE).any())
        for plane in channel_planes(operand.planes)
    )


def _is_constant_arithmetic(node: fx.Node) -> bool:
    """Whether a node computes with numbers only."""
    if node.op != "call_function" or node.all_input_nodes or node.kwargs or not node.args:
        return False
    return getattr(node.target, "__module__", "") in ("_operator", "math") and all(
        isinstance(argument, (int, float)) for argument in node.args
    )


def _replace(node: fx.Node, value: Any) -> None:
    """Replaces a node by a number, or by another node, in all its users, and erases it."""
    for user in list(node.users):
        user.args = fx.map_arg(user.args, lambda argument: value if argument is node else argument)
        user.kwargs = fx.map_arg(user.kwargs, lambda argument: value if argument is node else argument)
    node.graph.erase_node(node)
