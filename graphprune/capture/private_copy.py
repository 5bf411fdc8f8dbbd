"""Makes a copy of the user's model to work on, whose parameters share the model's memory until they need their own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from graphprune.errors import CaptureError, first_line
from graphprune.program.tensors import stored_parameters, stored_tensors, submodules

_ATOMS = frozenset({NoneType, bool, int, float, str, type, FunctionType, BuiltinFunctionType, torch.dtype})
_TABLES = (dict, OrderedDict, set)


def private_copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Copies a model; the parameters of the copy still use the model's memory, see `unshare` and `in_own_memory`.

    Args:
        model: The model.
        memo: Receives the copy of each part by the part's id, as the memo of `copy.deepcopy` does.

    Raises:
        CaptureError: something in the model cannot be copied.
    """
    memo = {} if memo is None else memo
    shares = not has_own_train(model)
    for tensor in stored_tensors(model).values():
        memo[id(tensor)] = _alias(tensor, shares) if isinstance(tensor, nn.Parameter) else tensor.detach().clone()
    modules = submodules(model).values()
    plain_kinds = {kind for kind in {type(module) for module in modules} if _is_plain(kind)}
    plain = [module for module in modules if type(module) in plain_kinds]
    memo |= {id(module): type(module).__new__(type(module)) for module in plain}
    try:
        # copy.deepcopy could copy these modules too, but takes five times as long
        for module in plain:
            own = memo[id(module)].__dict__
            for name, value in nn.Module.__getstate__(module).items():
                own[name] = value if type(value) in _ATOMS else _copied(value, memo)
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be copied: {first_line(error)}\n"
            "Remove cached activations or handles from the module, or give a fresh instance."
        ) from error


def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether a class has no copying of its own, so that copying the module's attributes is enough."""
    return (
        not hasattr(kind, "__deepcopy__")
        and kind.__new__ is object.__new__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__getstate__ is nn.Module.__getstate__
        and kind.__setstate__ in (nn.Module.__setstate__, _ConvNd.__setstate__)
        and not any(vars(base).get("__slots__") for base in kind.__mro__)
    )


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """Copies an attribute of a module; what was copied before is taken from the memo."""
    if id(value) in memo:
        return memo[id(value)]
    if type(value) is tuple and all(type(entry) in _ATOMS for entry in value):
        return value
    if type(value) in _TABLES and not value:
        return memo.setdefault(id(value), type(value)())
    if type(value) is dict and all(type(key) is str for key in value):
        own = memo[id(value)] = {}
        own.update({key: entry if type(entry) in _ATOMS else _copied(entry, memo) for key, entry in value.items()})
        return own
    if isinstance(value, torch.Tensor) and not value.is_leaf:
        # torch refuses to copy a tensor with a history, such as a weight that a hook computes or a cached activation
        return memo.setdefault(id(value), value.detach().clone())
    return copy.deepcopy(value, memo)


def has_own_train(model: nn.Module) -> bool:
    """Whether a part of a model has its own ``train()``, which may do anything; some merge weights in it."""
    return any(
        "train" in vars(kind)
        for kind in {kind for module in submodules(model).values() for kind in type(module).__mro__}
        if kind.__module__.partition(".")[0] != "torch"
    )


def _alias(parameter: nn.Parameter, shares: bool) -> nn.Parameter:
    # .data, not .detach(): the alias must not count as a change of a tensor that the user's autograd graph has saved
    data = parameter.data if shares and _can_share(parameter) else parameter.detach().clone()
    alias = nn.Parameter(data, requires_grad=parameter.requires_grad)
    alias.__dict__.update(parameter.__dict__)
    return alias


def unshare(module: nn.Module, model: nn.Module) -> None:
    """Gives a module memory of its own for every parameter that still uses the model's."""
    theirs = {parameter.data_ptr() for parameter in stored_parameters(model).values() if _can_share(parameter)}
    shared = [each for each in _sharing(module) if each.parameter.data_ptr() in theirs]
    for each, own in zip(shared, _copies(shared), strict=True):
        each.parameter.data = own


def _can_share(parameter: nn.Parameter) -> bool:
    """Whether another parameter can use its memory; sparse tensors and subclasses store their data differently."""
    return type(parameter.data) is torch.Tensor and parameter.layout == torch.strided and not parameter.is_inference()


@dataclass(frozen=True)
class Lent:
    """A parameter that has memory of its own for a while.

    Attributes:
        name: Name of the parameter.
        parameter: The parameter.
        data: The data that it had before and gets back.
    """

    name: str
    parameter: nn.Parameter
    data: torch.Tensor


@contextmanager
def in_own_memory(module: nn.Module) -> Iterator[list[Lent]]:
    """Gives the parameters memory of their own within the context; what is written to them is discarded afterwards."""
    lent = _sharing(module)
    for each, own in zip(lent, _copies(lent), strict=True):
        each.parameter.data = own
    try:
        yield lent
    finally:
        for each in lent:
            each.parameter.data = each.data


def _sharing(module: nn.Module) -> list[Lent]:
    """The parameters whose memory another module may use too."""
    parameters = stored_parameters(module).items()
    return [Lent(name, each, each.data) for name, each in parameters if _can_share(each) and not each.is_meta]


def _copies(parameters: Sequence[Lent]) -> list[torch.Tensor]:
    """Copies the data of parameters; those that share memory share it in the copies too."""
    own: dict[tuple[object, ...], torch.Tensor] = {}
    for each in parameters:
        if (place := _place(each.data)) not in own:
            own[place] = each.data.clone()
    return [own[_place(each.data)] for each in parameters]


def _place(data: torch.Tensor) -> tuple[object, ...]:
    return data.data_ptr(), data.shape, data.stride()
