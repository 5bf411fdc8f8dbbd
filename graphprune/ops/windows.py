"""Sliding windows: each becomes a column of numbers, with the channels in blocks of one window's positions."""

from __future__ import annotations

from math import prod

import torch

from graphprune.labels.operand import Operand
from graphprune.labels.planes import Planes, compress, drop, relayout, thin
from graphprune.ops.call import OpCall
from graphprune.ops.movement import settle
from graphprune.ops.registry import rule

aten = torch.ops.aten


@rule(aten.im2col)
def im2col(call: OpCall) -> list[Planes]:
    """Windows of ``(N, C, H, W)`` become columns of ``(N, C * window, L)``."""
    operand = call.operand("self")
    assert operand is not None
    rank, window = len(operand.shape), prod(call["kernel_size"])
    operand = call.collapsed(operand, [rank - 2, rank - 1], "positions are mixed")
    blocks = (*operand.shape[:-2], window)
    rows = (relayout(drop(plane, [-2, -1]).unsqueeze(-1).expand(blocks), call.shape[:-1]) for plane in operand.planes)
    return [settle(call, tuple(plane.unsqueeze(-1).expand(call.shape) for plane in rows))]


@rule(aten.col2im)
def col2im(call: OpCall) -> list[Planes]:
    """Columns of ``(N, C * window, L)`` are summed to ``(N, C, H, W)``; all rows of a channel's block go together."""
    operand = call.operand("self")
    assert operand is not None
    rank = len(operand.shape)
    operand = call.collapsed(operand, [rank - 1], "positions are mixed")
    blocks = (*call.shape[:-2], prod(call["kernel_size"]))
    split = Operand(blocks, tuple(relayout(drop(plane, [-1]), blocks) for plane in operand.planes))
    split = call.collapsed(split, [rank - 1], "the positions of a window are summed")
    rows = (drop(plane, [-1])[..., None, None] for plane in split.planes)
    return [settle(call, tuple(plane.expand(call.shape) for plane in rows))]


@rule(aten.unfold)
def unfold(call: OpCall) -> list[Planes]:
    """Windows along one dim; the positions in a window become a new last dim."""
    operand = call.operand("self")
    assert operand is not None
    dim = call["dimension"] % max(len(operand.shape), 1)
    call.positional(operand, [dim])
    planes = []
    for plane in operand.planes:
        moved = compress(aten.unfold(plane, dim, call["size"], call["step"]))
        planes.append(moved)
    return [settle(call, call.merge(planes, "windows overlap"))]


@rule(aten.max_unpool2d, aten.max_unpool3d)
def max_unpool(call: OpCall) -> list[Planes]:
    """Puts maxima back at their positions, which the pooling returned in a second tensor."""
    source, indices = call.operand("self"), call.operand("indices")
    assert source is not None and indices is not None
    joined = Operand(source.shape, call.join(source.shape, [source, indices], "has its positions in the other"))
    spatial = range(len(source.shape) - (2 if call.func is aten.max_unpool2d.default else 3), len(source.shape))
    rest = call.collapsed(joined, spatial, "positions are mixed")
    return [tuple(thin(plane, spatial).expand(call.shape) for plane in rest.planes)]
