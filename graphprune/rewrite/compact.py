"""The compact module of a program under a keep set."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.dependencies import Dependencies, leaf_operands
from graphprune.ops.operand import Operand
from graphprune.planes import KnownSizes, kept_size
from graphprune.program import Kept, Program
from graphprune.rewrite.attributes import update_attributes
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
    labels = dependencies.keep_labels(keep)
    slice_tensors(module, dependencies.kept(keep))
    done: set[int] = set()
    known: KnownSizes = {}
    for node in list(module.graph.nodes):
        resize = Resize(module, node, dependencies.values, labels, known)
        resize_literals(resize)
        if node.op == "call_module":
            leaf = module.get_submodule(str(node.target))
            if id(leaf) not in done:
                done.add(id(leaf))
                _update_leaf(leaf, resize)
    if any(map(can_resize, module.graph.nodes)):
        module.recompile()
    return module


def _update_leaf(leaf: nn.Module, resize: Resize) -> None:
    source, result = resize.source, resize.values.get(resize.node.name)
    first = result[0] if isinstance(result, tuple) and result else result
    if source is not None and isinstance(first, Operand):
        update_attributes(leaf, source, resize.survivors(first))


def copy_sharing_tensors(module: fx.GraphModule) -> fx.GraphModule:
    """A copy with its own modules and graph, and the same parameters and buffers."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    graph._codegen = copy.deepcopy(module.graph._codegen)
    copied = fx.GraphModule(_own_modules(module, {}), graph, class_name=type(module).__name__)
    copied.training = module.training
    return copied


def _own_modules(module: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    """A copy of a tree of modules that shares all but modules and their tables; shared modules stay shared."""
    if id(module) in done:
        return done[id(module)]
    kind = nn.Module if isinstance(module, fx.GraphModule) else type(module)
    own = done[id(module)] = kind.__new__(kind)
    own.__dict__ = {
        name: value.copy() if isinstance(value, (dict, set, list)) else value
        for name, value in module.__dict__.items()
    }
    own._modules = {
        name: child if child is None else _own_modules(child, done) for name, child in module._modules.items()
    }
    return own


def slice_tensors(module: nn.Module, kept: Kept) -> None:
    """Replaces parameters and buffers by what is kept of them; ties stay ties, ``requires_grad`` stays."""
    by_tensor: dict[str, list[tuple[int, Tensor]]] = {}
    for (name, dim), indices in kept.items():
        by_tensor.setdefault(name, []).append((dim, indices))
    smaller: dict[int, Tensor] = {}
    tensors = (*module.named_parameters(), *module.named_buffers())
    for name, tensor in tensors:
        if name in by_tensor:
            smaller[id(tensor)] = _sliced(tensor, by_tensor[name])
    for submodule in module.modules():
        for home in (submodule._parameters, submodule._buffers):
            for key, value in home.items():
                if value is not None and id(value) in smaller:
                    home[key] = smaller[id(value)]  # type: ignore[assignment]


def _sliced(tensor: Tensor, cuts: list[tuple[int, Tensor]]) -> Tensor:
    result = tensor.detach()
    for dim, indices in cuts:
        result = torch.index_select(result, dim, indices.to(tensor.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(result, requires_grad=tensor.requires_grad)
    return result


def foretold_shapes(dependencies: Dependencies, keep: Tensor) -> dict[str, Any]:
    """Shapes that each node's result will have under a keep set."""
    labels = dependencies.keep_labels(keep)
    known: KnownSizes = {}

    def shape(operand: Operand) -> tuple[int, ...]:
        dims = range(len(operand.shape))
        return tuple(kept_size(operand.planes, operand.shape, dim, labels, known) for dim in dims)

    return {name: tuple(map(shape, leaf_operands(value))) for name, value in dependencies.values.items()}
