"""Rewrites ops that rely on the memory layout of their inputs, because removing channels changes strides."""

from __future__ import annotations

import torch
from torch import fx

aten = torch.ops.aten


def free_of_layout(graph: fx.Graph) -> None:
    """Lets views copy where they have to, and makes pairs contiguous before they are viewed as complex numbers."""
    for node in graph.find_nodes(op="call_function", target=aten.view.default):
        node.target = aten.reshape.default
    for target in (torch.view_as_complex, aten.view_as_complex.default):
        for node in graph.find_nodes(op="call_function", target=target):
            with graph.inserting_before(node):
                pairs = graph.call_method("contiguous", (node.args[0],))
            pairs.meta.update(node.meta)
            node.update_arg(0, pairs)
