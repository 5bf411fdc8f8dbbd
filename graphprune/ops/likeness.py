"""Ops whose result can be told from their arguments.

During analysis no values are needed, and torch's shape kernels for these are written in Python and take most of the
time. The rules do not depend on this table: an op that is not in it is run on the meta device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

_UNARY = frozenset({
    aten.relu.default, aten.gelu.default, aten.silu.default, aten.hardswish.default, aten.hardtanh.default,
    aten.hardsigmoid.default, aten.leaky_relu.default, aten.elu.default, aten.sigmoid.default,
})  # fmt: skip
_IN_PLACE = frozenset({
    aten.relu_.default, aten.silu_.default, aten.hardswish_.default, aten.hardtanh_.default, aten.hardsigmoid_.default,
    aten.leaky_relu_.default, aten.elu_.default, aten.add_.Tensor, aten.mul_.Tensor,
})  # fmt: skip
_BINARY = frozenset({aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor})
_NORMS = frozenset({
    aten.native_batch_norm.default, aten._native_batch_norm_legit_no_training.default, aten.native_layer_norm.default
})  # fmt: skip


def result_like(func: Any, arguments: dict[str, Any]) -> Any:
    """The result of an op on the meta device, where it can be told from the arguments; None where it cannot."""
    first = arguments.get("self", arguments.get("input"))
    if not isinstance(first, Tensor) or not first.is_meta:
        return None
    if func in _IN_PLACE:
        return first
    if not first.is_contiguous():  # the result may be laid out in another way, which matters to a later view
        return None
    if func in _NORMS:
        return first, first.new_empty(0), first.new_empty(0)
    if func is aten.convolution.default:
        shape = _convolved(first, arguments)
        return None if shape is None else first.new_empty(shape)
    if func in _UNARY and first.is_floating_point():
        return first
    return first if func in _BINARY and _fits_into(first, arguments["other"]) else None


def _convolved(source: Tensor, arguments: dict[str, Any]) -> list[int] | None:
    """Shape of the result of a convolution ``(N, C_out, ...)``; None where torch has to look closer, or to refuse."""
    weight = arguments["weight"]
    if arguments["transposed"] or weight.dim() != source.dim():
        return None
    shape = [source.shape[0], weight.shape[0]]
    for dim in range(source.dim() - 2):
        stride, padding, dilation = (
            values[dim % len(values)] for values in (arguments[name] for name in ("stride", "padding", "dilation"))
        )
        reach = dilation * (weight.shape[dim + 2] - 1) + 1
        shape.append((source.shape[dim + 2] + 2 * padding - reach) // stride + 1)
    fits = weight.shape[1] * arguments["groups"] == source.shape[1] and min(shape) > 0
    return shape if fits else None


def _fits_into(first: Tensor, other: Any) -> bool:
    """Whether the other operand broadcasts into the first one, of the same type."""
    if not isinstance(other, Tensor) or other.dtype != first.dtype or other.dim() != first.dim():
        return False
    return all(small in (1, size) for size, small in zip(first.shape, other.shape, strict=True))
