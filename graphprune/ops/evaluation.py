"""Runs the op of a call on the values, on the kept elements alone, or with zeros in the removed elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from graphprune.labels.operand import planes_of, tensors_in
from graphprune.labels.planes import gather, scatter
from graphprune.ops.call import Arguments, OpCall
from graphprune.ops.likeness import call_for_shapes, result_like
from graphprune.ops.schema import call_by_schema


def evaluate(call: OpCall) -> Any:
    """Runs the op on the values; if one of them is on the meta device, all are moved there."""
    arguments = {name: _values(argument) for name, argument in call.arguments.items()}
    on_meta = [leaf.is_meta for argument in arguments.values() for leaf in tensors_in(argument)]
    if not any(on_meta):
        return call_by_schema(call.func, arguments)
    if (known := result_like(call.func, arguments)) is not None:
        return known
    if not all(on_meta):
        arguments = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), _with_positions(arguments))
    if "device" in arguments:
        arguments["device"] = torch.device("meta")
    try:
        return call_by_schema(call.func, arguments)
    except NotImplementedError:  # the op has no shape kernel
        return call_for_shapes(call.func, arguments)


def evaluate_over_kept(call: OpCall, change: Callable[[Arguments], Arguments], keep: Tensor) -> Any:
    """Runs the op on the compact form of its arguments, in which ``change`` adapts literal sizes."""

    def compact(tensor: Tensor) -> Tensor:
        return gather(getattr(tensor, "value", tensor), planes_of(tensor), keep)

    return call_by_schema(call.func, change(tree_map_only(Tensor, compact, call.arguments)))


def evaluate_with_zeros(call: OpCall, keep: Tensor) -> Any:
    """Runs the op with zeros in all removed elements of its arguments."""

    def masked(tensor: Tensor) -> Tensor:
        value, planes = getattr(tensor, "value", tensor), planes_of(tensor)
        return scatter(gather(value, planes, keep), value.shape, planes, keep)

    return call_by_schema(call.func, tree_map_only(Tensor, masked, call.arguments))


def _with_positions(arguments: Arguments) -> Arguments:
    """Replaces constant masks among indices by the positions that they pick; without values a mask would pick all."""
    if not isinstance(arguments.get("indices"), list):
        return arguments
    indices: list[Tensor | None] = []
    for given in arguments["indices"]:
        known = given is not None and given.dtype == torch.bool and not given.is_meta
        indices += given.nonzero(as_tuple=True) if known else [given]
    return arguments | {"indices": indices}


def _values(argument: Any) -> Any:
    """An argument with values instead of labelled tensors."""
    if isinstance(argument, Tensor):
        return getattr(argument, "value", argument)
    if isinstance(argument, (list, tuple)):
        return [_values(entry) for entry in argument]
    return argument
