"""Weights that the model divides by their own norm; if all weights of a norm were zero, it would compute 0 / 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from graphprune.costs.pool import pool_of
from graphprune.program.program import Program

_ALL = -1
"""The dim that stands for one norm of all weights in torch."""


def norms_of(program: Program) -> dict[str, int | None]:
    """Parameters of the pool that the model divides by norms of themselves.

    Returns:
        By name of the parameter, the dim of which each index has its own norm; None for one norm of all weights.
    """
    dims: dict[int, int] = {}
    for module in program.module.modules():
        if isinstance(module, nn.utils.parametrize.ParametrizationList):
            for each in module:
                if type(each).__name__ == "_WeightNorm":
                    dims[id(module.original1)] = int(each.dim)  # type: ignore[arg-type]
                elif type(each).__name__ == "_SpectralNorm":
                    dims[id(module.original)] = _ALL
        for hook in module._forward_pre_hooks.values():  # the older norms, of torch.nn.utils
            if isinstance(hook, WeightNorm):
                dims[id(getattr(module, f"{hook.name}_v"))] = hook.dim
            elif isinstance(hook, SpectralNorm):
                dims[id(getattr(module, f"{hook.name}_orig"))] = _ALL
    found = {name: dims.get(id(parameter)) for name, parameter in pool_of(program).items()}
    return {name: None if dim == _ALL else dim for name, dim in found.items() if dim is not None}


def best_of_empty(importance: Tensor, dead: Tensor, dim: int | None) -> Tensor:
    """The most important weight of each norm whose weights are all dead.

    Args:
        importance: Importance of a parameter's weights, of its shape; -inf for those that cannot stay.
        dead: Weights to be removed, bool, of the same shape.
        dim: The dim of which each index has its own norm; None for one norm of all weights.

    Returns:
        Indices of these weights in the flat parameter; none for a norm without a weight that can stay.
    """

    def rows(tensor: Tensor) -> Tensor:
        return tensor.reshape(1, -1) if dim is None else tensor.movedim(dim, 0).flatten(1)

    best = rows(importance).argmax(1, keepdim=True)
    can_stay = rows(importance).gather(1, best).flatten() > float("-inf")
    places = torch.arange(dead.numel(), device=dead.device).view(dead.shape)
    return rows(places).gather(1, best).flatten()[rows(dead).all(1) & can_stay]
