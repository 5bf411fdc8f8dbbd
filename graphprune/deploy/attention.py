"""Fused attention in a form that the ONNX exporter can decompose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from graphprune.program.surgery import copy_sharing_tensors

_FUSED = (functional.scaled_dot_product_attention, torch.ops.aten.scaled_dot_product_attention.default)


def with_plain_attention(module: nn.Module) -> nn.Module:
    """Returns the module, or for a graph with fused attention a copy that calls `plain_attention` instead."""
    if not isinstance(module, fx.GraphModule) or not _attentions(module.graph):
        return module
    copy = copy_sharing_tensors(module)
    for node in _attentions(copy.graph):
        node.target = plain_attention
    copy.recompile()
    return copy


def _attentions(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function" and node.target in _FUSED]


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **options: Any
) -> Tensor:
    """Computes `torch.nn.functional.scaled_dot_product_attention`, for any number of batch dims, and for none.

    The exporter takes exactly one batch dim, and a dim of heads. The strides of fused attention depend on the kernel:
    by the strides of one kernel, the exporter decides that a reshape of the result is a view; then it sees the strides
    of another kernel, and fails. Hence the result is copied; ``contiguous()`` would leave nothing in the exporter's
    graph where it has nothing to do.
    """
    if query.dim() == 3:  # the heads are part of the batch dim
        attn_mask = attn_mask.unsqueeze(1) if attn_mask is not None and attn_mask.dim() == 3 else attn_mask
        one_head = (tensor.unsqueeze(1) for tensor in (query, key, value))
        return plain_attention(*one_head, attn_mask, *args, **options).squeeze(1)
    batch = query.shape[:-3]
    if len(batch) > 1:
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*batch, *attn_mask.shape[-3:]).flatten(0, len(batch) - 1)
        query, key, value = (tensor.flatten(0, len(batch) - 1) for tensor in (query, key, value))
    result = functional.scaled_dot_product_attention(query, key, value, attn_mask, *args, **options)
    result = result.clone(memory_format=torch.contiguous_format)
    return result.unflatten(0, batch) if len(batch) > 1 else result
