"""Ops that compare elements along a dim: channels pass through in the other dims."""

from __future__ import annotations

import torch

from graphprune.labels.planes import Planes, drop, thin, varying
from graphprune.ops.call import OpCall
from graphprune.ops.reduction import reduced_dims
from graphprune.ops.registry import rule

aten = torch.ops.aten


@rule(
    aten.sort, aten.argsort, aten.topk, aten.kthvalue, aten.median, aten.nanmedian, aten.mode, aten.argmax,
    aten.argmin, aten.cummax, aten.cummin, aten._cummax_helper, aten._cummin_helper,
)  # fmt: skip
def ordering(call: OpCall) -> list[Planes]:
    """Values, positions, or both; channels along the dim are frozen, because a prune would change their positions."""
    operand = call.operand("self")
    assert operand is not None
    dims = reduced_dims(call, operand)
    if dims & operand.labelled_dims:
        return call.freeze_all("channels are compared with each other by position")
    shape = call.shape
    reduced = len(shape) < len(operand.shape)
    rest = [plane for plane in operand.planes if not varying(plane) & dims]
    planes = tuple(drop(plane, dims) if reduced else thin(plane, dims).expand(shape) for plane in rest)
    return [planes] * len(call.outputs)
