"""Ops on all pairs of rows or features of two tensors: bilinear layers and distances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphprune.labels.operand import Operand
from graphprune.labels.planes import Planes
from graphprune.ops.call import OpCall
from graphprune.ops.contraction import loops, required
from graphprune.ops.registry import rule

aten = torch.ops.aten


@rule(aten._trilinear)
def trilinear(call: OpCall) -> list[Planes]:
    """The product of three tensors, each with inserted dims of size 1, summed over some dims."""
    if call.is_computed("i2"):
        call.sum_over_kept()
    operands = [_with_dims(required(call, f"i{index}"), call[f"expand{index}"]) for index in (1, 2, 3)]
    sizes = [max(sizes) for sizes in zip(*(operand.shape for operand in operands), strict=True)]
    return [call.contract(sizes, operands, call["sumdim"])]


def _with_dims(operand: Operand, dims: Sequence[int]) -> Operand:
    shape = list(operand.shape)
    for dim in sorted(dims):
        shape.insert(dim, 1)
    return operand.mapped(shape, lambda plane: plane.view(shape))


@rule(aten._cdist_forward, aten._euclidean_dist)
def distances(call: OpCall) -> list[Planes]:
    """Distances between the rows of ``(..., P, M)`` and ``(..., R, M)``, summed over M like a product."""
    first, second = required(call, "x1"), required(call, "x2")
    rank = len(call.shape)
    batch = rank - 2
    first, second = (
        operand.mapped((*[1] * (rank - len(operand.shape)), *operand.shape), lambda plane: _leading(plane, rank))
        for operand in (first, second)
    )
    sizes = [*call.shape, first.shape[-1]]
    before = range(batch)
    operands = [loops(first, [*before, batch, batch + 2], sizes), loops(second, [*before, batch + 1, batch + 2], sizes)]
    call.sum_over_kept()
    return [call.contract(sizes, operands, [batch + 2])]


def _leading(plane: Tensor, rank: int) -> Tensor:
    return plane[(None,) * (rank - plane.dim())]
