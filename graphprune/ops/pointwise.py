"""Ops that act on each element by itself."""

from __future__ import annotations

import torch

from graphprune.ops.call import OpCall
from graphprune.ops.registry import rule
from graphprune.planes import Planes

aten = torch.ops.aten


@rule(
    torch.Tag.pointwise,
    aten.copy_,
    aten.prelu,
    aten._prelu_kernel,
    aten.tril,
    aten.triu,
    aten.native_dropout,
    aten.bernoulli,
    aten.nan_to_num,
    aten.masked_fill_,
    aten.fill_,
    aten.zero_,
)
def pointwise(call: OpCall) -> list[Planes]:
    """Operands broadcast against each other; each of their channels is a channel of the result."""
    return [call.join(call.shape, call.operands(), "elementwise")] * len(call.outputs)
