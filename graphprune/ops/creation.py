"""Ops that make a tensor of one value: it can take any size."""

from __future__ import annotations

import torch

from graphprune.labels.planes import Planes
from graphprune.ops.call import OpCall
from graphprune.ops.registry import rule

aten = torch.ops.aten


@rule(aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty)
def new_uniform(call: OpCall) -> list[Planes]:
    """A uniform tensor with a size that the program gives."""
    return [call.fresh(call.shape)]


@rule(aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like)
def like(call: OpCall) -> list[Planes]:
    """A uniform tensor with the size of another tensor."""
    operand = call.operand("self")
    assert operand is not None
    return [operand.planes]
