"""Fused attention in a form that the ONNX exporter can take apart."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn import functional

from graphprune.rewrite.compact import copy_sharing_tensors

_FUSED = (functional.scaled_dot_product_attention, torch.ops.aten.scaled_dot_product_attention.default)


def with_contiguous_attention(module: nn.Module) -> nn.Module:
    """The module, a graph of which gets copies of its attention results that are contiguous.

    The strides of fused attention depend on the kernel. The exporter decides by those of one kernel that a reshape
    behind it is a view, then looks at those of another, and fails.
    """
    if not isinstance(module, fx.GraphModule) or not _attentions(module.graph):
        return module
    copy = copy_sharing_tensors(module)
    for node in _attentions(copy.graph):
        with copy.graph.inserting_after(node):
            # clone and not contiguous(), which leaves nothing in the exporter's graph where it has nothing to do
            cloned = copy.graph.call_function(torch.clone, (), {"memory_format": torch.contiguous_format})
        node.replace_all_uses_with(cloned)
        cloned.args = (node,)
    copy.recompile()
    return copy


def _attentions(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function" and node.target in _FUSED]
