"""Batch, layer, group and instance norm."""

from __future__ import annotations

import torch

from graphprune.labels.operand import Operand
from graphprune.labels.planes import Planes, channel_planes, channels_along, relayout, squash, thin, varying
from graphprune.ops.call import Arguments, OpCall
from graphprune.ops.registry import rule

aten = torch.ops.aten


def per_channel(call: OpCall, names: list[str], rank: int, dim: int = 1) -> list[Operand]:
    """Parameters and statistics of shape ``(C,)`` as operands that broadcast along ``dim``."""
    found = (call.operand(name) for name in names)
    operands = []
    for operand in found:
        if operand is not None:
            shape = [1] * rank
            shape[dim] = operand.shape[0]
            operands.append(operand.mapped(shape, lambda plane, shape=shape: plane.view(shape)))  # type: ignore[misc]
    return operands


@rule(
    aten.native_batch_norm,
    aten._native_batch_norm_legit,
    aten._native_batch_norm_legit_no_training,
    aten._batch_norm_with_update,
    aten._batch_norm_no_update,
    aten.cudnn_batch_norm,
    aten.miopen_batch_norm,
)
def batch_norm(call: OpCall) -> list[Planes]:
    """Weight, bias and running statistics belong to the channel; in training, the other dims are averaged over."""
    source = call.operand("input")
    assert source is not None
    call.run.normalised.add(call.run.node)
    names = ["weight", "bias", "running_mean", "running_var"]
    planes = _join_per_channel(call, source, names)
    if call.arguments.get("training", False) and source.labelled_dims - {0, 1}:
        call.mix()
        _keep_two_values(call, source)
    return [planes]


def _keep_two_values(call: OpCall, source: Operand) -> None:
    """Freezes one of the averaged values if only one could be left; the statistics of a single value are undefined."""
    for plane in channel_planes(source.planes):
        averaged = varying(plane) - {1}
        values = thin(plane, [1])
        if averaged and len(squash(values).unique()) == values.numel():
            call.freeze(thin(values, averaged), "one of the values that are averaged stays")


def _join_per_channel(call: OpCall, source: Operand, names: list[str]) -> Planes:
    """Joins the source with tensors of shape ``(C,)``; if channels have a plane of their own, by their labels alone."""
    labels = channels_along(source.planes, 1)
    others = [operand for name in names if (operand := call.operand(name)) is not None]
    if labels is None or not all(other.planes for other in others):
        return call.join(call.shape, [source, *per_channel(call, names, len(source.shape))], "batch norm")
    for other in others:
        call.union(labels, other.planes[0], "batch norm")
    return source.planes


@rule(aten.native_layer_norm, aten._fused_rms_norm)
def layer_norm(call: OpCall) -> list[Planes]:
    """Statistics are taken over the trailing dims, hence over the channels that are kept there."""
    operands = [operand for name in ("input", "weight", "bias") if (operand := call.operand(name)) is not None]
    call.run.normalised.add(call.run.node)
    rank, count = len(operands[0].shape), len(call["normalized_shape"])

    def shrink(arguments: Arguments) -> Arguments:
        return arguments | {"normalized_shape": list(arguments["input"].shape[rank - count :])}

    if operands[0].labelled_dims & frozenset(range(rank - count, rank)):
        call.mix(shrink)
    return [call.join(call.shape, operands, "layer norm")]


@rule(aten.native_group_norm)
def group_norm(call: OpCall) -> list[Planes]:
    """Small groups are removed as a whole; larger ones all lose the same members."""
    source = call.operand("input")
    assert source is not None
    call.run.normalised.add(call.run.node)
    groups, size = call["group"], source.shape[1] // call["group"]
    operands = [source, *per_channel(call, ["weight", "bias"], len(source.shape))]
    split = (source.shape[0], groups, size, *source.shape[2:])
    joined = Operand(source.shape, call.join(call.shape, operands, "group norm"))
    grouped = joined.mapped(split, lambda plane: relayout(plane, split))
    whole_groups = call.run.choose("whole groups", size < groups)
    grouped = call.collapsed(grouped, [2 if whole_groups else 1], "group norm keeps whole or equal groups")

    def shrink(arguments: Arguments) -> Arguments:
        kept = arguments["input"]
        sizes = {"N": kept.shape[0], "C": kept.shape[1], "HxW": kept[0, 0].numel()}
        return arguments | sizes | ({"group": kept.shape[1] // size} if whole_groups else {})

    if source.labelled_dims:
        call.mix(shrink)
    return [grouped.mapped(source.shape, lambda plane: relayout(plane, source.shape)).planes]


@rule(aten._weight_norm_interface)
def weight_norm(call: OpCall) -> list[Planes]:
    """A direction scaled to a given length: the norm runs over all dims but one, hence over the kept indices."""
    direction, length = call.operand("v"), call.operand("g")
    assert direction is not None and length is not None
    if direction.labelled_dims:
        call.mix()
    return [call.join(call.shape, [direction, length], "weight norm"), length.planes]
