"""Fourier transforms and complex numbers: positions are mixed, channels pass through."""

from __future__ import annotations

import torch

from graphprune.labels.planes import Planes, drop, thin
from graphprune.ops.call import OpCall
from graphprune.ops.registry import rule

aten = torch.ops.aten


@rule(aten._fft_r2c, aten._fft_c2r, aten._fft_c2c)
def transform(call: OpCall) -> list[Planes]:
    """Each result along the transformed dims depends on all elements there."""
    operand = call.operand("self")
    assert operand is not None
    dims = [dim % len(operand.shape) for dim in call["dim"]]
    operand = call.collapsed(operand, dims, "a Fourier transform mixes positions")
    return [tuple(thin(plane, dims).expand(call.shape) for plane in operand.planes)]


@rule(aten.view_as_complex)
def view_as_complex(call: OpCall) -> list[Planes]:
    """The last dim, of size 2, becomes the two parts of a number."""
    operand = call.operand("self")
    assert operand is not None
    last = len(operand.shape) - 1
    operand = call.collapsed(operand, [last], "the two parts of a number go together")
    return [tuple(drop(plane, [last]) for plane in operand.planes)]


@rule(aten.view_as_real)
def view_as_real(call: OpCall) -> list[Planes]:
    """The two parts of a complex number become a new last dim of size 2."""
    operand = call.operand("self")
    assert operand is not None
    return [tuple(plane.unsqueeze(-1).expand(call.shape) for plane in operand.planes)]


@rule(aten.complex, aten.polar)
def from_parts(call: OpCall) -> list[Planes]:
    """Two tensors are combined elementwise into one of complex numbers."""
    return [call.join(call.shape, call.operands(), "elementwise")]


@rule(
    aten._conj, aten._conj_physical, aten.conj_physical, aten.resolve_conj, aten._neg_view, aten.resolve_neg,
)  # fmt: skip
def conjugate(call: OpCall) -> list[Planes]:
    """The op is elementwise, so the planes stay."""
    operand = call.operand("self")
    assert operand is not None
    return [operand.planes]
