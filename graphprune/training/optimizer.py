"""Optimizer state follows its parameters when they shrink."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from graphprune.errors import InputError
from graphprune.program.tensors import Cut, Kept, cuts_of, take

log = logging.getLogger(__name__)


class Replaced:
    """Parameters that rounds have replaced by smaller ones, as long as something else holds them."""

    def __init__(self) -> None:
        self._former: list[ReferenceType[nn.Parameter]] = []
        self._seen: WeakKeyDictionary[Optimizer, tuple[int, int]] = WeakKeyDictionary()
        self._rounds = 0

    def note(self, before: Mapping[str, nn.Parameter], after: Mapping[str, nn.Parameter]) -> None:
        """Records what a round has replaced, from the parameters by name before and after it."""
        now = [ref(parameter) for name, parameter in before.items() if after.get(name) is not parameter]
        self._former = [each for each in self._former if each() is not None] + now
        self._rounds += 1
        if self._former:
            _WATCHED.add(self)
            _watch_steps()

    def refuse(self, optimizer: Optimizer) -> None:
        """Refuses an optimizer with replaced parameters; checks it after each round, and when parameters were added.

        Raises:
            InputError: the optimizer holds replaced parameters.
        """
        now = self._rounds, sum(len(group["params"]) for group in optimizer.param_groups)
        if self._seen.get(optimizer) == now:
            return
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        former = sum(id(parameter) in held for each in self._former if (parameter := each()) is not None)
        if former:
            raise InputError(
                f"the {type(optimizer).__name__} holds {former} parameter{'s' if former > 1 else ''} that an earlier "
                "step() of the Pruner has replaced by smaller ones without it: it would train what the network has no "
                "more. Give optimizer= (several in a list) to every step(), or create a new one from "
                "pruner.module.parameters(); always a new one where an optimizer keeps another one inside"
            )
        self._seen[optimizer] = now

    @property
    def is_over(self) -> bool:
        """Whether nothing holds any replaced parameter any more."""
        return all(each() is None for each in self._former)

    def __reduce__(self) -> tuple[type[Replaced], tuple[()]]:
        """Copies start empty: weak references are not copied, and copies of parameters have other identities."""
        return Replaced, ()


_WATCHED: set[Replaced] = set()
"""Whether replaced parameters are still held by somebody, also when their pruner is gone."""


def _before_step(optimizer: Optimizer, args: object, kwargs: object) -> None:
    """Called before every step of every optimizer: some are not given to `step`, and some are inside another one."""
    if not torch.compiler.is_compiling():
        for replaced in list(_WATCHED):
            if replaced.is_over:
                _WATCHED.discard(replaced)
            else:
                replaced.refuse(optimizer)


@cache
def _watch_steps() -> RemovableHandle:
    return register_optimizer_step_pre_hook(_before_step)


def followers(given: object, module: nn.Module, replaced: Replaced) -> list[Optimizer]:
    """Returns the optimizers that are to follow a module's parameters.

    Args:
        given: One optimizer, a list or tuple of several, or None, as a user gives it.
        module: Module that holds the parameters.
        replaced: Parameters that earlier rounds have replaced.

    Raises:
        InputError: an entry is not an optimizer, holds no parameter of the module, or holds parameters that rounds
            without it have replaced.
    """
    each_given = given if isinstance(given, (list, tuple)) else [] if given is None else [given]
    return [_checked(each, module, replaced) for each in each_given]


def _checked(optimizer: object, module: nn.Module, replaced: Replaced) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        got = optimizer.__name__ + ", the class" if isinstance(optimizer, type) else type(optimizer).__name__
        raise InputError(f"optimizer: expected a torch optimizer, made from pruner.module.parameters(); got {got}")
    replaced.refuse(optimizer)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in module.parameters()):
        raise InputError(
            "the optimizer holds no parameter of pruner.module; create it from pruner.module.parameters(), after the "
            "Pruner"
        )
    return optimizer


def follow(
    optimizer: Optimizer, before: Mapping[str, nn.Parameter], after: Mapping[str, nn.Parameter], kept: Kept
) -> None:
    """Puts smaller parameters in the place of the old ones, and slices their state.

    Parameter groups keep their options and order. State with the parameter's dims (momenta; factored moments, which
    have size 1 in some dims) loses the same slices; scalars stay. Where there is state of another shape, the whole
    state of the parameter is dropped with a warning, and the optimizer starts anew for it.

    Args:
        optimizer: Any torch optimizer; it is changed in place.
        before: Parameters before the prune, by name.
        after: Parameters after the prune, by name.
        kept: Kept indices of each dim that shrank, in terms of ``before``.
    """
    cuts = cuts_of(kept)
    successors = {id(before[name]): (name, after[name]) for name in before if name in after}
    if hasattr(optimizer, "_numel_cache"):
        optimizer._numel_cache = None  # LBFGS counts its parameters once
    for group in optimizer.param_groups:
        # in place, because some optimizers (LBFGS) hold the list itself
        group["params"][:] = [successors[id(old)][1] if id(old) in successors else old for old in group["params"]]
    for old in list(optimizer.state):
        name, new = successors.get(id(old), ("", old))
        if new is not old:
            state = _sliced_state(optimizer.state.pop(old), name, old, cuts.get(name, []))
            if state:
                optimizer.state[new] = state
    _carry_gradients(before, after, cuts)


@torch.no_grad()
def clear_dead(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
    """Zeroes the state that an optimizer has of dead weights.

    Factored moments, which have size 1 in some dims, belong to dead and live weights together and stay.

    Args:
        optimizer: Any torch optimizer; changed in place.
        parameters: Parameters by name.
        masks: Live weights, bool, of the parameters' shapes.
    """
    for name, mask in masks.items():
        for value in optimizer.state.get(parameters[name], {}).values():
            if isinstance(value, Tensor) and value.shape == mask.shape:
                value.masked_fill_(~mask.to(value.device), 0)  # not a product: what overflowed would be no number


@torch.no_grad()
def clear_gradients(parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
    """Zeroes gradients of dead weights that wait for an optimizer's step."""
    for name, mask in masks.items():
        gradient = parameters[name].grad
        if gradient is not None:
            gradient.masked_fill_(~mask.to(gradient.device), 0)


def _sliced_state(state: dict[str, object], name: str, old: Tensor, cuts: list[Cut]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.numel() == 1:
            result[key] = value
        elif _has_dims_of(value, old):
            result[key] = take(value, [(dim, indices) for dim, indices in cuts if value.shape[dim] > 1])
        else:
            log.warning(
                "optimizer state '%s' of %s has shape %s, the parameter %s: the state of %s is dropped",
                key, name, tuple(value.shape), tuple(old.shape), name,
            )  # fmt: skip
            return {}
    return result


def _has_dims_of(value: Tensor, parameter: Tensor) -> bool:
    """Whether each dim of a value has the size of the parameter's dim, or 1."""
    return value.dim() == parameter.dim() and all(
        size in (1, wanted) for size, wanted in zip(value.shape, parameter.shape, strict=True)
    )


def _carry_gradients(
    before: Mapping[str, nn.Parameter], after: Mapping[str, nn.Parameter], cuts: Mapping[str, list[Cut]]
) -> None:
    """Slices gradients that wait for the optimizer's step."""
    for name, old in before.items():
        new = after.get(name)
        if new is not None and new is not old and old.grad is not None:
            new.grad = take(old.grad, cuts.get(name, []))
