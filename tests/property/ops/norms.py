"""Normalisation, as layers and as functions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.property.ops.layers import split_width
from tests.property.programs import Builder, Kind, op

BATCH_NORMS: dict[Kind, type[nn.Module]] = {
    "features": nn.BatchNorm1d, "sequence": nn.BatchNorm1d, "image": nn.BatchNorm2d, "volume": nn.BatchNorm3d,
}  # fmt: skip
INSTANCE_NORMS: dict[Kind, type[nn.Module]] = {
    "sequence": nn.InstanceNorm1d,
    "image": nn.InstanceNorm2d,
    "volume": nn.InstanceNorm3d,
}


@op(*BATCH_NORMS)
def batch_norm(b: Builder, x: int) -> int | None:
    value = b.values[x]
    return b.add_layer(BATCH_NORMS[value.kind](value.width, affine=bool(b.below(4))), x, value)


@op("image", "sequence")
def functional_batch_norm(b: Builder, x: int) -> int | None:
    width = b.values[x].width
    statistics = b.store(torch.randn(width)), b.store(torch.rand(width) + 0.5)
    affine = b.parameter(width), b.parameter(width)
    return b.map("batch_norm", x, lambda m, v, w, s, y: F.batch_norm(y, m, v, w, s), *statistics, *affine)


@op(*INSTANCE_NORMS)
def instance_norm(b: Builder, x: int) -> int | None:
    value = b.values[x]
    if all(size == 1 for size in value.shape[1:]):
        return None  # torch refuses to train with a single position
    return b.add_layer(INSTANCE_NORMS[value.kind](value.width, affine=bool(b.below(2))), x, value)


@op(*BATCH_NORMS, mixing=True)
def group_norm(b: Builder, x: int) -> int | None:
    value = b.values[x]
    groups = split_width(b, value.width)
    if b.below(2):
        return b.add_layer(nn.GroupNorm(groups, value.width), x, value)
    weight = b.parameter(value.width)
    return b.map(f"group_norm {groups}", x, lambda w, y: F.group_norm(y, groups, w), weight)


@op("features", "tokens", "nhwc", mixing=True)
def norm_of_the_last_dim(b: Builder, x: int) -> int | None:
    value = b.values[x]
    width = value.width
    kind = b.below(5)
    if kind == 0:
        return b.add_layer(nn.LayerNorm(width, elementwise_affine=bool(b.below(3))), x, value)
    if kind == 1:
        return b.add_layer(nn.RMSNorm(width, eps=1e-5), x, value)
    if kind == 2:
        names = b.parameter(width), b.parameter(width)
        return b.map("layer_norm", x, lambda w, s, y: F.layer_norm(y, (width,), w, s), *names)
    if kind == 3:
        return b.map("rms_norm", x, lambda w, y: F.rms_norm(y, [width], w, 1e-5), b.parameter(width))
    return b.map(
        "rms by hand", x, lambda w, y: w * y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 0.1), b.parameter(width)
    )


@op("image", "sequence", mixing=True)
def norm_of_all_dims(b: Builder, x: int) -> int | None:
    value = b.values[x]
    return b.add_layer(nn.LayerNorm(list(value.shape)), x, value)


@op("image", mixing=True)
def channels_last_norm(b: Builder, x: int) -> int | None:
    """As in ConvNeXt: a layer norm over the channels of an image."""
    layer = b.store(nn.LayerNorm(b.values[x].width))
    return b.map("norm of nhwc", x, lambda norm, y: norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), layer)
