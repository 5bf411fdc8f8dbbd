"""Programs in double precision, where roundings cannot be taken for mistakes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from graphprune.program.program import Program
from graphprune.program.surgery import copy_sharing_tensors


def in_double(program: Program) -> Program:
    """A copy of the program with parameters, buffers, casts and example inputs in float64."""
    module = copy_sharing_tensors(program.module)
    for node in module.graph.nodes:
        node.args, node.kwargs = tree_map_only(torch.dtype, _wider, (node.args, node.kwargs))
    module.recompile()
    done: dict[int, Tensor] = {}
    for submodule in module.modules():
        for table in (submodule._parameters, submodule._buffers):
            for name, tensor in table.items():
                if tensor is not None and tensor.is_floating_point():
                    table[name] = done.setdefault(id(tensor), _as_kind(tensor, as_double(tensor)))  # type: ignore[assignment]
    return replace(program, module=module, example=program.example.mapped(as_double))


def _wider(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype.is_floating_point else dtype


def as_double(tensor: Tensor) -> Tensor:
    """Returns a floating-point tensor in float64, and other tensors as they are."""
    return tensor.detach().double() if tensor.is_floating_point() else tensor


def _as_kind(tensor: Tensor, value: Tensor) -> Tensor:
    """Makes the value a parameter if the tensor is one, because running a graph tells parameters from buffers."""
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    return torch.nn.Parameter(value, requires_grad=tensor.requires_grad) if is_parameter else value
