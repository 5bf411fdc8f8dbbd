"""The compact module of a program under a keep set."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from graphprune.labels.dependencies import Dependencies, leaf_operands
from graphprune.labels.operand import Operand
from graphprune.labels.planes import kept_shape
from graphprune.program.program import Program
from graphprune.program.surgery import copy_sharing_tensors, slice_tensors
from graphprune.program.tensors import Layers
from graphprune.rewrite.attributes import Updater, updater_of
from graphprune.rewrite.literals import can_resize, resize_literals
from graphprune.rewrite.sizes import Resize


def compact_module(program: Program, dependencies: Dependencies, keep: Tensor) -> fx.GraphModule:
    """Makes the program smaller; the program itself is not changed.

    Args:
        program: The program that the dependencies were found in.
        dependencies: Its channels.
        keep: Channels to keep, bool, shape ``(channels,)``.

    Returns:
        A new module that shares every tensor that did not shrink.
    """
    module = copy_sharing_tensors(program.module)
    slice_tensors(module, dependencies.kept(keep))
    if resize_nodes(module, dependencies, keep):
        module.recompile()
    return module


def resize_nodes(module: fx.GraphModule, dependencies: Dependencies, keep: Tensor) -> bool:
    """Brings layers and literals in line with smaller parameters and buffers, in place.

    Args:
        module: The module that the dependencies were found in, or a copy of it.
        dependencies: Its channels.
        keep: Channels to keep, bool, shape ``(channels,)``.

    Returns:
        Whether the graph may have changed, so that the module's code is not its own any more.

    Raises:
        RewriteError: the literals of a node are in a form that cannot be rewritten.
    """
    labels = dependencies.keep_labels(keep)
    layers, done = Layers(module), set[int]()
    known = dependencies.known_sizes(keep)
    resizable = any(map(can_resize, module.graph.nodes))  # before a rule makes another op of a node
    for node in list(module.graph.nodes):
        if can_resize(node):
            resize_literals(Resize(module, node, dependencies.values, labels, known))
        elif node.op == "call_module":
            leaf = layers.called_by(node)
            if id(leaf) not in done and (update := updater_of(leaf)) is not None:
                done.add(id(leaf))
                _update_leaf(leaf, update, Resize(module, node, dependencies.values, labels, known))
    return resizable


def _update_leaf(leaf: nn.Module, update: Updater, resize: Resize) -> None:
    source, result = resize.source, resize.values.get(resize.node.name)
    first = result[0] if isinstance(result, tuple) and result else result
    if source is not None and isinstance(first, Operand):
        update(leaf, source, resize.survivors(first))


def foretold_shapes(dependencies: Dependencies, keep: Tensor) -> dict[str, Any]:
    """Shapes that each node's result will have under a keep set."""
    labels = dependencies.keep_labels(keep)
    known = dependencies.known_sizes(keep)

    def shape(operand: Operand) -> tuple[int, ...]:
        return kept_shape(operand.planes, operand.shape, labels, known)

    return {name: tuple(map(shape, leaf_operands(value))) for name, value in dependencies.values.items()}
