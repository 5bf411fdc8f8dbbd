"""Pooling and resampling: channels pass through, positions are mixed."""

from __future__ import annotations

import torch

from graphprune.labels.planes import Planes, constant_along, thin
from graphprune.ops.call import OpCall
from graphprune.ops.registry import rule

aten = torch.ops.aten

_RANKS = {
    1: (aten.max_pool1d_with_indices, aten.avg_pool1d, aten.adaptive_avg_pool1d, aten.upsample_linear1d,
        aten.upsample_nearest1d, aten.reflection_pad1d, aten.replication_pad1d, aten.adaptive_max_pool1d),
    2: (aten.max_pool2d_with_indices, aten.avg_pool2d, aten._adaptive_avg_pool2d, aten.adaptive_avg_pool2d,
        aten.adaptive_max_pool2d, aten.upsample_bilinear2d, aten.upsample_nearest2d, aten.upsample_bicubic2d,
        aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa, aten._upsample_nearest_exact2d,
        aten.reflection_pad2d, aten.replication_pad2d, aten.grid_sampler_2d),
    3: (aten.max_pool3d_with_indices, aten.avg_pool3d, aten._adaptive_avg_pool3d, aten.adaptive_max_pool3d,
        aten.upsample_trilinear3d, aten.upsample_nearest3d, aten.reflection_pad3d, aten.replication_pad3d),
}  # fmt: skip


def _spatial(call: OpCall, rank: int) -> list[Planes]:
    operands = call.operands()
    shape = call.shape
    spatial = range(len(shape) - rank, len(shape))
    source = call.collapsed(operands[0], spatial, "positions are mixed")
    for other in operands[1:]:
        call.collapsed(other, range(len(other.shape)), "positions are mixed")
    planes = tuple(thin(constant_along(plane, spatial), spatial).expand(shape) for plane in source.planes)
    return [planes] * len(call.outputs)


def _register(rank: int) -> None:
    def spatial(call: OpCall) -> list[Planes]:
        return _spatial(call, rank)

    rule(*(packet for packet in _RANKS[rank]))(spatial)


for _rank in _RANKS:
    _register(_rank)
