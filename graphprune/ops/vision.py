"""Ops of torchvision, registered by name because the library need not be installed."""

from __future__ import annotations

from graphprune.labels.planes import Planes, drop, varying
from graphprune.ops.call import OpCall
from graphprune.ops.contraction import required
from graphprune.ops.convolution import general_convolution
from graphprune.ops.registry import rule


@rule("torchvision::deform_conv2d")
def deform_conv2d(call: OpCall) -> list[Planes]:
    """A convolution that reads between positions, at offsets that another layer computes."""
    if call["offset_groups"] > 1:
        return call.freeze_all("several groups of channels have offsets of their own", "gap")
    for name in ("offset", "mask"):
        for plane in required(call, name).planes:
            call.freeze(plane, "offsets belong to positions of the kernel")
    if call.is_computed("weight"):
        call.sum_over_kept()
    return [general_convolution(call, required(call, "input"), required(call, "weight"))]


@rule("torchvision::roi_align", "torchvision::roi_pool")
def roi_align(call: OpCall) -> list[Planes]:
    """Boxes ``(boxes, C, h, w)`` are cut out of ``(N, C, H, W)``."""
    for plane in required(call, "rois").planes:
        call.freeze(plane, "boxes have four sides")
    source = call.collapsed(required(call, "input"), [0, 2, 3], "positions are mixed")
    rows = (drop(plane, [0, 2, 3]) for plane in source.planes if varying(plane) == {1})
    planes = tuple(labels[None, :, None, None].expand(call.shape) for labels in rows)
    return [planes, *[()] * (len(call.outputs) - 1)]
