"""Optimizer state follows its parameters when they shrink."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from graphprune.errors import InputError
from graphprune.program import Kept

log = logging.getLogger("graphprune")


def check_holds(optimizer: Optimizer, module: nn.Module) -> None:
    """Raises `InputError` for an optimizer that holds no parameter of the module."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in module.parameters()):
        raise InputError(
            "the optimizer holds no parameter of pruner.module; create it from pruner.module.parameters() after the Pruner"
        )


def follow(optimizer: Optimizer, before: Mapping[str, nn.Parameter], after: Mapping[str, nn.Parameter], kept: Kept) -> None:
    """Puts smaller parameters in the place of the old ones, and slices their state.

    Parameter groups keep their options and order. State of the parameter's shape (momenta) loses the same slices, scalars
    stay, and state of any other shape is dropped, with a warning.

    Args:
        optimizer: Any torch optimizer; changed in place.
        before: Parameters before the prune, by name.
        after: Parameters after it.
        kept: Kept indices of each dim that shrank, in terms of ``before``.
    """
    cuts: dict[str, list[tuple[int, Tensor]]] = {}
    for (name, dim), indices in kept.items():
        cuts.setdefault(name, []).append((dim, indices))
    successors = {id(before[name]): (after[name], cuts.get(name, [])) for name in before if name in after}
    for group in optimizer.param_groups:
        group["params"] = [
            successors[id(parameter)][0] if id(parameter) in successors else parameter for parameter in group["params"]
        ]
    for old in list(optimizer.state):
        if id(old) in successors and successors[id(old)][0] is not old:
            new, its_cuts = successors[id(old)]
            optimizer.state[new] = _sliced_state(optimizer.state.pop(old), old, its_cuts)
    _carry_gradients(before, after, cuts)


def _sliced_state(state: dict[str, object], old: Tensor, cuts: list[tuple[int, Tensor]]) -> dict[str, object]:
    result = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.dim() == 0 or value.numel() == 1:
            result[key] = value
        elif value.shape == old.shape:
            result[key] = _sliced(value, cuts)
        else:
            log.warning("optimizer state '%s' has shape %s, its parameter %s: dropped", key, value.shape, old.shape)
    return result


def _carry_gradients(
    before: Mapping[str, nn.Parameter], after: Mapping[str, nn.Parameter], cuts: Mapping[str, list[tuple[int, Tensor]]]
) -> None:
    """Gradients that wait for the optimizer's step shrink too."""
    for name, old in before.items():
        new = after.get(name)
        if new is not None and new is not old and old.grad is not None:
            new.grad = _sliced(old.grad, cuts.get(name, []))


def _sliced(tensor: Tensor, cuts: list[tuple[int, Tensor]]) -> Tensor:
    for dim, indices in cuts:
        tensor = torch.index_select(tensor, dim, indices.to(tensor.device))
    return tensor
