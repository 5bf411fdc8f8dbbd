"""Ops that act on each element by itself."""

from __future__ import annotations

import torch

from graphprune.labels.planes import Planes
from graphprune.ops.call import OpCall
from graphprune.ops.registry import rule

aten = torch.ops.aten


@rule(
    torch.Tag.pointwise,
    aten.copy_,
    aten._to_copy,
    aten.prelu,
    aten._prelu_kernel,
    aten.ldexp,  # older versions of torch tag neither this nor the two below
    aten.leaky_relu,
    aten.leaky_relu_,
    aten.hardswish,
    aten.hardswish_,
    aten.rrelu_with_noise,
    aten.log_sigmoid_forward,
    aten.nan_to_num,
    aten.floor_divide,
    aten.rsub,
    aten.masked_fill,
    aten.masked_fill_,
    aten.fill,
    aten.fill_,
    aten.zero_,
)
def pointwise(call: OpCall) -> list[Planes]:
    """Operands broadcast against each other; each of their channels is a channel of the result."""
    operands = call.operands()
    alone = len(operands) == 1 and operands[0].shape == call.shape
    planes = operands[0].planes if alone else call.join(call.shape, operands, "elementwise")
    return [planes if output.shape == call.outputs[0].shape else () for output in call.outputs]


@rule(aten.tril, aten.triu)
def triangle(call: OpCall) -> list[Planes]:
    """Which elements are zero depends on their position in the last two dims."""
    (operand,) = call.operands()
    rank = len(operand.shape)
    return [call.collapsed(operand, [rank - 2, rank - 1], "a triangle has fixed sides").planes]
