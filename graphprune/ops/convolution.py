"""Convolutions of all kinds: channels are tied through the kernel, positions stay."""

from __future__ import annotations

from math import prod

import torch

from graphprune.labels.contractions import Window
from graphprune.labels.operand import Operand
from graphprune.labels.planes import Planes, along, channel_planes, channels_along, drop, is_sample, relayout, varying
from graphprune.ops.call import OpCall
from graphprune.ops.contraction import loops, required
from graphprune.ops.registry import rule

aten = torch.ops.aten


@rule(aten.convolution, aten.cudnn_convolution, aten.mkldnn_convolution)
def convolution(call: OpCall) -> list[Planes]:
    """Plain, grouped, depthwise and transposed convolution in any number of spatial dims."""
    source, weight = required(call, "input"), required(call, "weight")
    if call.is_computed("weight"):
        call.sum_over_kept()
    elif (planes := _plain(call, source, weight)) is not None:
        return [planes]
    return [general_convolution(call, source, weight)]


def general_convolution(call: OpCall, source: Operand, weight: Operand) -> Planes:
    """Planes of the result of any convolution."""
    spatial = range(2, len(source.shape))
    source = call.collapsed(source, spatial, "convolution mixes positions")
    weight = call.collapsed(weight, spatial, "the kernel keeps its size")
    flat_source = source.mapped(source.shape[:2], lambda plane: drop(plane, spatial))
    flat_weight = weight.mapped(weight.shape[:2], lambda plane: drop(plane, range(2, plane.dim())))
    window, positions = _window(call, source, weight), _positions(call, source, weight)
    flat = _channels(call, flat_source, flat_weight, positions, window)
    shape = call.shape
    ones = [1] * len(spatial)
    planes = tuple(plane.view(*shape[:2], *ones).expand(shape) for plane in flat)
    bias = call.operand("bias")
    if bias is None:
        return planes
    column = bias.mapped((bias.shape[0], *ones), lambda plane: plane.view(-1, *ones))
    return call.join(shape, [Operand(shape, planes), column], "bias")


def _plain(call: OpCall, source: Operand, weight: Operand) -> Planes | None:
    """Planes of a plain or depthwise convolution whose channels have dims of their own; None for any other.

    Most convolutions are like this, and the general way takes five times as long. The weight has to be a parameter or
    buffer, which has a plane for each dim.
    """
    groups, bias = call.arguments.get("groups", 1), call.operand("bias")
    depthwise = weight.shape[1] == 1 and groups == weight.shape[0]
    if call.arguments.get("transposed") or not (groups == 1 or depthwise):
        return None
    inputs, outputs = channels_along(source.planes, 1), channels_along(weight.planes, 0)
    meets = outputs if depthwise else channels_along(weight.planes, 1)
    added = None if bias is None or len(bias.planes) != 1 else channels_along(bias.planes, 0)
    samples = [plane for plane in source.planes if 1 not in varying(plane)]
    if inputs is None or outputs is None or meets is None or (bias is not None and added is None):
        return None
    if not all(is_sample(plane) and varying(plane) == {0} for plane in samples):
        return None
    for plane in weight.planes[1 if depthwise else 2 :]:
        call.freeze(plane, "the kernel keeps its size")
    call.union(inputs, meets, "contraction")
    if depthwise:
        outputs = inputs
    if added is not None:
        call.union(outputs, added, "bias")
    shape = call.shape
    window, positions = _window(call, source, weight), _positions(call, source, weight)
    if depthwise:
        sizes: tuple[int, ...] = (shape[0], shape[1], 1, 1, positions)
        call.count(sizes, (along(outputs, sizes, 1),), _SUMMED, _OPERANDS, window)
    else:
        sizes = (shape[0], 1, *weight.shape[:2], positions)
        call.count(sizes, (along(outputs, sizes, 2), along(inputs, sizes, 3)), _SUMMED, _OPERANDS, window)
    return (along(outputs, shape, 1), *(along(plane, shape, 0) for plane in samples))


WHOLE_GROUPS = "whole groups of a convolution"
"""Name of a choice, see `RunNotes.choose`."""

_SUMMED, _OPERANDS = frozenset([3]), (frozenset([0, 1, 3, 4]), frozenset([1, 2, 3, 4]))
"""Names the loops of a convolution: sample, group, output and input channel within the group, position times kernel."""


def _window(call: OpCall, source: Operand, weight: Operand) -> Window | None:
    """The window of a convolution; None for a kind that torch itself does not have."""
    if "stride" not in call.arguments:
        return None
    stride, padding, dilation = (
        tuple(call[name]) * (1 if len(call[name]) > 1 else len(source.shape) - 2)
        for name in ("stride", "padding", "dilation")
    )
    transposed = bool(call.arguments.get("transposed"))
    return Window(source.shape[2:], weight.shape[2:], stride, padding, dilation, transposed)


def _positions(call: OpCall, source: Operand, weight: Operand) -> int:
    """Number of multiply-accumulates per sample and pair of channels: positions times kernel size."""
    spatial = source.shape[2:] if call.arguments.get("transposed") else call.shape[2:]
    return prod(spatial) * prod(weight.shape[2:])


def _channels(call: OpCall, source: Operand, weight: Operand, positions: int, window: Window | None) -> Planes:
    """Ties the channels of a convolution, whose tensors are all reduced to their first two dims."""
    groups = call.arguments.get("groups", 1)
    samples, channels = source.shape
    inner = channels // groups
    if call.arguments.get("transposed"):
        outer, weight_split, weight_loops = weight.shape[1], (groups, inner, weight.shape[1]), [1, 3, 2]
    else:
        outer, weight_split, weight_loops = (
            weight.shape[0] // groups,
            (groups, weight.shape[0] // groups, inner),
            [1, 2, 3],
        )
    sizes = (samples, groups, outer, inner, positions)
    source_split = (samples, groups, inner)
    if groups == 1:
        source = source.mapped(source_split, lambda plane: plane.unsqueeze(1))
        weight = weight.mapped(weight_split, lambda plane: plane.unsqueeze(0))
    else:
        source = source.mapped(source_split, lambda plane: relayout(plane, source_split))
        weight = weight.mapped(weight_split, lambda plane: relayout(plane, weight_split))
        source, weight = _tie_groups(call, source, weight)
    operands = [loops(source, [0, 1, 3], sizes), loops(weight, weight_loops, sizes)]
    planes = call.contract(sizes, operands, [3], window)
    if groups == 1:
        return tuple(drop(plane, [1, 3]) for plane in planes)
    shape = (samples, groups * outer)
    return call.merge((relayout(drop(plane, [3]), shape) for plane in planes), "grouped convolution")


def _tie_groups(call: OpCall, source: Operand, weight: Operand) -> tuple[Operand, Operand]:
    """Ties small groups so that each is removed as a whole, and larger ones so that all lose the same channels.

    Where there are many groups, whole groups are the finer unit, and kernels take as long for a group that has lost a
    few channels.
    """
    _, groups, inner = source.shape
    planes = channel_planes(source.planes)
    wanted = groups if inner < groups else 2
    if inner > 1 and not (planes and call.run.choose(WHOLE_GROUPS, inner < groups, planes[0], wanted)):
        reason = "every group keeps the same channels"
        return call.collapsed(source, [1], reason), call.collapsed(weight, [0], reason)
    within = [dim for dim in (1, 2) if weight.shape[dim] > 1]
    reason = "a group goes as a whole"
    return call.collapsed(source, [2] if inner > 1 else [], reason), call.collapsed(weight, within, reason)
