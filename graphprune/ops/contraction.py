"""Matrix products, attention and embedding: labels that are summed over are tied, the others pass through."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphprune.labels.operand import Operand
from graphprune.labels.planes import Planes, along, channels_along, drop, is_sample, squash, thin, varying
from graphprune.ops.call import OpCall
from graphprune.ops.registry import rule

aten = torch.ops.aten


def loops(operand: Operand, positions: Sequence[int], sizes: Sequence[int]) -> Operand:
    """Places the dims of an operand in the space of a contraction's loops.

    Args:
        operand: The operand.
        positions: Index of the loop that each dim of the operand is.
        sizes: Size of every loop.
    """
    shape = [1] * len(sizes)
    for dim, position in enumerate(positions):
        shape[position] = operand.shape[dim]
    order = sorted(range(len(positions)), key=lambda dim: positions[dim])
    return operand.mapped(shape, lambda plane: plane.permute(order).view(shape))


def required(call: OpCall, name: str) -> Operand:
    """A tensor argument that the op always has."""
    operand = call.operand(name)
    assert operand is not None
    return operand


@rule(aten.mm)
def mm(call: OpCall) -> list[Planes]:
    """The product ``(n, k) @ (k, m)``."""
    return [_matrix_product(call, required(call, "self"), required(call, "mat2"))]


@rule(aten.bmm)
def bmm(call: OpCall) -> list[Planes]:
    """The products ``(b, n, k) @ (b, k, m)``; in attention, a batch entry is a head (see `OpCall.contract`)."""
    return [_matrix_product(call, required(call, "self"), required(call, "mat2"))]


@rule(aten.addmm, aten.baddbmm)
def addmm(call: OpCall) -> list[Planes]:
    """A matrix product plus a bias."""
    names = ("mat1", "mat2") if "mat1" in call.arguments else ("batch1", "batch2")
    product = Operand(call.shape, _matrix_product(call, required(call, names[0]), required(call, names[1])))
    return [call.join(call.shape, [product, required(call, "self")], "bias")]


@rule(aten.linear)
def linear(call: OpCall) -> list[Planes]:
    """The product ``(..., k) @ (m, k)^T``, plus a bias if there is one."""
    source, weight, bias = required(call, "input"), required(call, "weight"), call.operand("bias")
    if call.is_computed("weight"):
        call.sum_over_kept()
    if (planes := _plain_linear(call, source, weight, bias)) is not None:
        return [planes]
    last = len(source.shape) - 1
    sizes = [*source.shape[:-1], weight.shape[0], weight.shape[1]]
    operands = [loops(source, [*range(last), last + 1], sizes), loops(weight, [last, last + 1], sizes)]
    planes = call.contract(sizes, operands, [last + 1])
    return [planes if bias is None else call.join(call.shape, [Operand(call.shape, planes), bias], "bias")]


def _plain_linear(call: OpCall, source: Operand, weight: Operand, bias: Operand | None) -> Planes | None:
    """Ties a linear layer the way `_plain` ties a product."""
    last = len(source.shape) - 1
    inputs, outputs, meets = (
        channels_along(source.planes, last),
        channels_along(weight.planes, 0),
        channels_along(weight.planes, 1),
    )
    added = None if bias is None or len(bias.planes) != 1 else channels_along(bias.planes, 0)
    others = [plane for plane in source.planes if varying(plane) != {last}]
    if inputs is None or outputs is None or meets is None or (bias is not None and added is None):
        return None
    if len(weight.planes) > 2 or any(last in varying(plane) for plane in others):
        return None
    call.union(inputs, meets, "contraction")
    if added is not None:
        call.union(outputs, added, "bias")
    results = (along(outputs, call.shape, last), *(thin(plane, [last]).expand(call.shape) for plane in others))
    sizes = (*call.shape, source.shape[last])
    planes = (*(plane.unsqueeze(-1).expand(sizes) for plane in results), along(inputs, sizes, last + 1))
    loops_of_source = frozenset(range(len(sizes))) - {last}
    call.count(sizes, planes, frozenset([last + 1]), (loops_of_source, frozenset([last, last + 1])))
    return results


@rule(aten.mv, aten.dot, aten.vdot)
def vector_product(call: OpCall) -> list[Planes]:
    """The products ``(n, k) @ (k,)`` and ``(k,) @ (k,)``."""
    first, second = call.operands()
    if len(first.shape) == 1:
        return [call.contract(first.shape, [first, second], [0])]
    return [call.contract(first.shape, [first, loops(second, [1], first.shape)], [1])]


def _matrix_product(call: OpCall, first: Operand, second: Operand) -> Planes:
    *batch, n, k = first.shape
    m = second.shape[-1]
    sizes = [*batch, n, k, m]
    b = len(batch)
    before = list(range(b))
    operands = [loops(first, [*before, b, b + 1], sizes), loops(second, [*before, b + 1, b + 2], sizes)]
    if b + 1 in first.labelled_dims:
        call.sum_over_kept()
    return call.contract(sizes, operands, [b + 1])


@rule(
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
    aten._scaled_dot_product_fused_attention_overrideable,
    aten._scaled_dot_product_attention_math,
    aten._scaled_dot_product_attention_math_for_mps,
)
def scaled_dot_product_attention(call: OpCall) -> list[Planes]:
    """``softmax(q @ k^T + mask) @ v`` with q ``(..., L, E)``, k ``(..., S, E)``, v ``(..., S, E_v)``."""
    if call.arguments.get("dropout_p", 0.0) > 0:
        return call.freeze_all("draws random numbers in evaluation mode")
    query, key, value = (required(call, name) for name in ("query", "key", "value"))
    key, value = _for_each_query(key, query.shape[-3]), _for_each_query(value, query.shape[-3])
    if call.arguments.get("scale") is None:
        call.positional(query, [len(query.shape) - 1], "the scale comes from the width")
    *batch, length, width = query.shape
    source, value_width = value.shape[-2:]
    b = len(batch)
    if b + 1 in query.labelled_dims:
        call.sum_over_kept()
    key, value = (call.collapsed(operand, [b], "a softmax runs over the keys") for operand in (key, value))
    if call.arguments.get("is_causal"):
        query = call.collapsed(query, [b], "a causal mask has fixed sides")
    before = list(range(b))
    scores_loops = [*batch, length, source, width]
    operands = [loops(query, [*before, b, b + 2], scores_loops), loops(key, [*before, b + 1, b + 2], scores_loops)]
    scores = Operand((*batch, length, source), call.contract(scores_loops, operands, [b + 2]))
    for name in ("attn_mask", "attn_bias"):
        if (mask := call.operand(name)) is not None:
            scores = Operand(scores.shape, call.join(scores.shape, [scores, mask], "attention mask"))
    out_loops = [*batch, length, source, value_width]
    operands = [loops(scores, [*before, b, b + 1], out_loops), loops(value, [*before, b + 1, b + 2], out_loops)]
    return [call.contract(out_loops, operands, [b + 1])]


def _for_each_query(operand: Operand, heads: int) -> Operand:
    """Keys or values ``(..., groups, S, E)``, each group repeated for its query heads."""
    *rest, groups, source, width = operand.shape
    shape = (*rest, heads, source, width)

    def repeated(plane: Tensor) -> Tensor:
        small = squash(plane)
        return (small if small.shape[-3] == 1 else small.repeat_interleave(heads // groups, -3)).expand(shape)

    return operand if groups == heads else operand.mapped(shape, repeated)


@rule(aten.embedding)
def embedding(call: OpCall) -> list[Planes]:
    """Rows are looked up by the data, so they stay; the width passes through."""
    weight = call.collapsed(required(call, "weight"), [0], "rows are looked up by index")
    shape = call.shape
    samples = (plane.unsqueeze(-1).expand(shape) for plane in required(call, "indices").planes if is_sample(plane))
    return [(*(drop(plane, [0]).expand(shape) for plane in weight.planes), *samples)]
