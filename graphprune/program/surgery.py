"""Copies graph modules without copying their tensors, and replaces a module's tensors."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from graphprune.program.tensors import Cut, Kept, cuts_of, kept_of, stored_tensors, submodules


def copy_sharing_tensors(module: fx.GraphModule) -> fx.GraphModule:
    """A copy with its own modules and graph, and the same parameters, buffers and code; its hooks are not copied."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    graph._codegen = copy.deepcopy(module.graph._codegen)
    copied = _own_modules(module, {})
    assert isinstance(copied, fx.GraphModule)
    copied._graph, graph.owning_module = graph, copied
    for name, table in vars(copied).items():
        if name.endswith("_hooks"):
            setattr(copied, name, type(table)())
    _share_code(type(module), type(copied))
    return copied


def _share_code(original: Any, copied: Any) -> None:
    """Gives a graph module's code, which torch keeps on a class of its own, to the class of a copy."""
    copied.__name__, copied.forward, copied.__call__ = original.__name__, original.forward, original.__call__
    copied._wrapped_call = type(original._wrapped_call)(copied, None)


_TABLES = frozenset({dict, OrderedDict, set, list})


def _own_modules(module: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    """A copy of a tree of modules that shares all but the modules and their tables; shared modules stay shared."""
    if id(module) in done:
        return done[id(module)]
    kind = type(module)
    own = done[id(module)] = kind.__new__(kind)
    own.__dict__ = {name: value.copy() if type(value) in _TABLES else value for name, value in module.__dict__.items()}
    own._modules = {
        name: child if child is None else _own_modules(child, done) for name, child in module._modules.items()
    }
    return own


Take = Callable[[Tensor, int, Tensor], Tensor]
"""Function of a tensor, a dim and indices that returns the tensor at these indices."""


def as_many(tensor: Tensor, dim: int, indices: Tensor) -> Tensor:
    """A view with as many indices along a dim: it has the shape of a selection, but costs no copy."""
    return tensor.narrow(dim, 0, len(indices))


def slice_tensors(module: nn.Module, kept: Kept, take: Take = kept_of) -> None:
    """Replaces parameters and buffers by what is kept of them; tied ones stay tied, ``requires_grad`` stays."""
    tensors = stored_tensors(module)
    replace_tensors(module, {name: _sliced(tensors[name], cuts, take) for name, cuts in cuts_of(kept).items()})


def replace_tensors(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Puts other values in place of parameters and buffers; tied ones stay tied, ``requires_grad`` stays."""
    tensors = stored_tensors(module)
    others: dict[int, Tensor] = {}
    for name, value in values.items():
        old = tensors[name]
        is_parameter = isinstance(old, nn.Parameter)
        others[id(old)] = nn.Parameter(value, requires_grad=old.requires_grad) if is_parameter else value
    put_tensors(module, others)


def put_tensors(module: nn.Module, others: Mapping[int, Tensor]) -> None:
    """Puts other tensors in place of parameters and buffers, by the ``id`` of the tensors that they replace."""
    for submodule in submodules(module).values():
        for home in (submodule._parameters, submodule._buffers):
            for key, tensor in home.items():
                if tensor is not None and id(tensor) in others:
                    home[key] = others[id(tensor)]  # type: ignore[assignment]


def _sliced(tensor: Tensor, cuts: list[Cut], take: Take) -> Tensor:
    result = tensor.detach()
    for dim, indices in cuts:
        result = take(result, dim, indices)
    return result
