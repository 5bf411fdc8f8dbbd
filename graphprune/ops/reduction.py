"""Reductions and softmax: labels along other dims pass through; reduced dims take the kept channels only."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from graphprune.labels.operand import Operand
from graphprune.labels.planes import Planes, drop, thin, varying
from graphprune.ops.call import OpCall
from graphprune.ops.registry import rule

aten = torch.ops.aten


def reduced_dims(call: OpCall, operand: Operand) -> frozenset[int]:
    """The dims that the call reduces, non-negative; all where it names none."""
    given = call.arguments.get("dim")
    rank = len(operand.shape)
    if given is None or given == []:
        return frozenset(range(rank))
    dims = given if isinstance(given, Iterable) else [given]
    return frozenset(dim % rank for dim in dims)


@rule(
    aten.mean, aten.sum, aten.amax, aten.amin, aten.prod, aten.var, aten.std, aten.var_mean, aten.std_mean,
    aten.linalg_vector_norm, aten.norm, aten.logsumexp, aten.any, aten.all, aten.max, aten.min, aten.nansum,
)  # fmt: skip
def reduction(call: OpCall) -> list[Planes]:
    """A channel that is reduced over is simply no longer counted."""
    operand = call.operand("self")
    assert operand is not None
    if "other" in call.arguments:
        return [call.join(call.shape, call.operands(), "elementwise")]
    dims = reduced_dims(call, operand)
    if dims & operand.labelled_dims:
        call.mix()
        if len(call.outputs) == 2 and call.func.overloadpacket in (aten.max, aten.min) and 1 not in call.run.unread:
            return call.freeze_all("the index of an extremum depends on positions")
    keepdim = call.arguments.get("keepdim", False)
    planes = []
    for plane in operand.planes:
        if varying(plane) <= dims:
            continue
        rest = call.collapse(plane, dims, "reduced within each entry")
        if rest is not None:
            planes.append(thin(rest, dims) if keepdim else drop(rest, dims))
    return [tuple(planes)] * len(call.outputs)


@rule(
    aten.mse_loss, aten.smooth_l1_loss, aten.huber_loss, aten.soft_margin_loss, aten.binary_cross_entropy,
    aten.binary_cross_entropy_with_logits,
)  # fmt: skip
def loss(call: OpCall) -> list[Planes]:
    """An elementwise loss, reduced to a number unless ``reduction`` is 0."""
    operands = call.operands()
    shape = tuple(torch.broadcast_shapes(*(operand.shape for operand in operands)))
    planes = call.join(shape, operands, "elementwise")
    if call["reduction"] == 0:
        return [planes]
    call.mix()
    return [()]


@rule(aten._softmax, aten._log_softmax, aten.softmax, aten._safe_softmax, aten.cumsum, aten.cumprod, aten.logcumsumexp)
def along_a_dim(call: OpCall) -> list[Planes]:
    """The result has the shape of the argument; along one dim its elements depend on each other."""
    operand = call.operand("self")
    assert operand is not None
    if reduced_dims(call, operand) & operand.labelled_dims:
        call.mix()
    return [operand.planes]
