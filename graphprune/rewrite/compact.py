"""The compact module of a program under a keep set."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from graphprune.labels.dependencies import leaf_operands
from graphprune.labels.keep_set import KeepSet
from graphprune.labels.operand import Operand
from graphprune.labels.planes import kept_shape
from graphprune.program.program import Program
from graphprune.program.surgery import copy_sharing_tensors, slice_tensors
from graphprune.program.tensors import Layers
from graphprune.rewrite.attributes import Updater, updater_of
from graphprune.rewrite.literals import can_resize, resize_literals
from graphprune.rewrite.sizes import Resize


def compact_module(program: Program, keep: KeepSet) -> fx.GraphModule:
    """Makes a smaller module of a program; the program itself is not changed.

    Args:
        program: The program that the channels were found in.
        keep: What is kept of it.

    Returns:
        A new module that shares every tensor that did not shrink.
    """
    module = copy_sharing_tensors(program.module)
    slice_tensors(module, keep.indices)
    if resize_nodes(module, keep):
        module.recompile()
    return module


def resize_nodes(module: fx.GraphModule, keep: KeepSet) -> bool:
    """Brings layers and literals in line with smaller parameters and buffers, in place.

    Args:
        module: The module that the channels were found in, or a copy of it.
        keep: What is kept of it.

    Returns:
        Whether the graph may have changed, so that the module has to be recompiled.

    Raises:
        RewriteError: the literals of a node are in a form that cannot be rewritten.
    """
    layers, done = Layers(module), set[int]()
    resizable = any(map(can_resize, module.graph.nodes))  # known only before a rule turns a node into another op
    for node in list(module.graph.nodes):
        if can_resize(node):
            resize_literals(Resize(module, node, keep))
        elif node.op == "call_module":
            leaf = layers.called_by(node)
            if id(leaf) not in done and (update := updater_of(leaf)) is not None:
                done.add(id(leaf))
                _update_leaf(leaf, update, Resize(module, node, keep))
    return resizable


def _update_leaf(leaf: nn.Module, update: Updater, resize: Resize) -> None:
    source, result = resize.source, resize.values.get(resize.node.name)
    first = result[0] if isinstance(result, tuple) and result else result
    if source is not None and isinstance(first, Operand):
        update(leaf, source, resize.survivors(first))


def foretold_shapes(keep: KeepSet) -> dict[str, Any]:
    """Shapes that each node's result will have under a keep set."""

    def shape(operand: Operand) -> tuple[int, ...]:
        return kept_shape(operand.planes, operand.shape, keep.labels, keep.known_sizes)

    return {name: tuple(map(shape, leaf_operands(value))) for name, value in keep.dependencies.values.items()}
