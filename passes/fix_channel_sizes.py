"""Turns channel sizes that the program reads from shapes into literals."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx
from torch.utils._pytree import tree_map_only

from graphprune.ops.call import Operand
from graphprune.pass_protocol import Pass, PassResult
from graphprune.program import Program
from graphprune.rewrite.compact import copy_sharing_tensors


@dataclass(frozen=True)
class FixChannelSizes(Pass):
    """Replaces ``x.shape[1]`` by its value where dim 1 holds channels.

    What is computed from it (the width of a head, a scale) then stays what it was when channels go; sizes that have to
    shrink are rewritten from the labels. Batch and spatial sizes stay dynamic.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"dependencies"})
    drops: ClassVar[frozenset[str]] = frozenset({"scores", "selection"})

    def run(self, program: Program) -> PassResult:
        """Rewrites size reads, and folds arithmetic on the literals."""
        assert program.dependencies is not None
        values = program.dependencies.values
        if not any(_reads_channel_size(node, values) for node in program.module.graph.nodes):
            return PassResult(program, False, ("no channel sizes read",))
        module = copy_sharing_tensors(program.module)
        fixed = 0
        for node in list(module.graph.nodes):
            if _reads_channel_size(node, values) or _is_constant_arithmetic(node):
                _replace(module.graph, node, values[node.name])
                fixed += 1
        module.recompile()
        changed = program.with_module(module, dependencies=program.dependencies, shapes=program.shapes)
        return PassResult(changed, True, (f"{fixed} sizes became literals",))


def _reads_channel_size(node: fx.Node, values: dict[str, Any]) -> bool:
    if not isinstance(values.get(node.name), int):
        return False
    if node.op == "call_method" and node.target == "size" and len(node.args) == 2:
        return _has_labels(values, node.args[0], node.args[1])
    if node.target in (torch.ops.aten.sym_size.int, torch.ops.aten.size.int):
        return _has_labels(values, node.args[0], node.args[1])
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        shape = node.args[0]
        if (shape.op == "call_method" and shape.target == "size") or shape.target is getattr:
            return _has_labels(values, shape.args[0], node.args[1])
    return False


def _has_labels(values: dict[str, Any], tensor: Any, dim: Any) -> bool:
    operand = values.get(tensor.name) if isinstance(tensor, fx.Node) else None
    return isinstance(operand, Operand) and isinstance(dim, int) and dim % len(operand.shape) in operand.labelled_dims


def _is_constant_arithmetic(node: fx.Node) -> bool:
    """Whether a node computes with numbers only."""
    if node.op != "call_function" or node.all_input_nodes or node.kwargs or not node.args:
        return False
    return getattr(node.target, "__module__", "") in ("_operator", "math") and all(
        isinstance(argument, (int, float)) for argument in node.args
    )


def _replace(graph: fx.Graph, node: fx.Node, value: Any) -> None:
    for user in list(node.users):
        user.args = tree_map_only(fx.Node, lambda argument: value if argument is node else argument, user.args)
        user.kwargs = tree_map_only(fx.Node, lambda argument: value if argument is node else argument, user.kwargs)
    graph.erase_node(node)
