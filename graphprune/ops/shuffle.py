"""Fused rearrangements of channels: their form says which channels go together."""

from __future__ import annotations

import torch

from graphprune.labels.operand import Operand
from graphprune.labels.planes import Planes, compress, relayout, varying
from graphprune.ops.call import OpCall
from graphprune.ops.movement import settle
from graphprune.ops.registry import rule
from graphprune.ops.schema import call_by_schema

aten = torch.ops.aten


@rule(aten.pixel_shuffle, aten.pixel_unshuffle)
def pixel_shuffle(call: OpCall) -> list[Planes]:
    """Moves channels to positions or back; all phases of one channel go together."""
    operand = call.operand("self")
    assert operand is not None
    rank = len(operand.shape)
    operand = call.collapsed(operand, [rank - 2, rank - 1], "channels become positions")
    moved = tuple(compress(call_by_schema(call.func, call.arguments | {"self": plane})) for plane in operand.planes)
    result = call.collapsed(Operand(call.shape, moved), [rank - 2, rank - 1], "channels become positions")
    return [settle(call, result.planes)]


@rule(aten.channel_shuffle, aten.native_channel_shuffle)
def channel_shuffle(call: OpCall) -> list[Planes]:
    """Interleaves groups of channels; every group keeps the same channels, so that the number of groups stays."""
    operand = call.operand("self")
    assert operand is not None
    samples, channels, *rest = operand.shape
    groups = call["groups"]
    split = (samples, groups, channels // groups, *rest)
    grouped = operand.mapped(split, lambda plane: relayout(plane, split))
    grouped = call.collapsed(grouped, [1], "every group keeps the same channels")
    return [settle(call, tuple(relayout(plane.transpose(1, 2), call.shape) for plane in grouped.planes))]


@rule(aten.glu)
def glu(call: OpCall) -> list[Planes]:
    """One half gates the other, so the channels of both are tied."""
    operand = call.operand("self")
    assert operand is not None
    dim = call["dim"] % len(operand.shape)
    half = call.shape[dim]
    first = operand.mapped(call.shape, lambda plane: plane.narrow(dim, 0, half))
    second = operand.mapped(call.shape, lambda plane: plane.narrow(dim, half, half))
    return [settle(call, call.join(call.shape, [first, second], "one half gates the other"))]


@rule(aten.diagonal)
def diagonal(call: OpCall) -> list[Planes]:
    """Pairs positions of two dims, which therefore keep their sizes."""
    operand = call.operand("self")
    assert operand is not None
    rank = len(operand.shape)
    operand = call.collapsed(operand, [call["dim1"] % rank, call["dim2"] % rank], "the diagonal pairs positions")
    planes = (compress(call_by_schema(call.func, call.arguments | {"self": plane})) for plane in operand.planes)
    return [settle(call, tuple(planes))]


@rule(aten.diag_embed)
def diag_embed(call: OpCall) -> list[Planes]:
    """A matrix with the last dim on its diagonal, so that a channel is a row and a column."""
    operand = call.operand("self")
    assert operand is not None
    if call["offset"]:
        return call.freeze_all("the diagonal is shifted")
    rank = len(call.shape)
    rows, columns = sorted((call["dim1"] % rank, call["dim2"] % rank))
    planes = []
    for plane in operand.planes:
        planes.append(plane.movedim(-1, rows).unsqueeze(columns).expand(call.shape))
        if plane.dim() - 1 in varying(plane):
            planes.append(plane.movedim(-1, columns - 1).unsqueeze(rows).expand(call.shape))
    return [tuple(planes)]
