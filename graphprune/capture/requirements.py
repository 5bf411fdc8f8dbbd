"""Adds checks to a graph that was made for certain sizes; at others it would not compute what the model computes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx


def require_sizes(graph: fx.Graph, inputs: Sequence[Any], *, first: int = 1) -> None:
    """Makes a graph check the sizes of its input tensors, and the values of arguments that are numbers or strings.

    Args:
        graph: The graph.
        inputs: The inputs that it was made with, in the order of its placeholders.
        first: The first dim to check; 1 leaves the batch size free.
    """
    placeholders = graph.find_nodes(op="placeholder")
    if not placeholders or len(placeholders) != len(inputs):
        return
    with graph.inserting_before(placeholders[-1].next):
        for node, value in zip(placeholders, inputs, strict=True):
            if isinstance(value, Tensor) and value.dim() > first:
                shape = graph.call_function(getattr, (node, "shape"))
                sizes = graph.call_function(operator.getitem, (shape, slice(first, None, None)))
                dims = ", ".join(["batch"] * first + [str(size) for size in value.shape[first:]])
                _require(graph, sizes, tuple(value.shape[first:]), f"'{node.target}' of the shape ({dims})")
            elif isinstance(value, (bool, int, float, str)):
                _require(graph, node, value, f"'{node.target}' = {value!r}")


def _require(graph: fx.Graph, found: fx.Node, expected: Any, what: str) -> None:
    same = graph.call_function(operator.eq, (found, expected))
    graph.call_function(torch._assert, (same, f"this program was captured for {what}; capture it anew for others"))


def require_at_most(graph: fx.Graph, batch_size: int) -> None:
    """Makes a graph refuse larger batches; the batch size is that of dim 0 of its first input."""
    source = graph.find_nodes(op="placeholder")[0]
    with graph.inserting_before(graph.find_nodes(op="placeholder")[-1].next):
        shape = graph.call_function(getattr, (source, "shape"))
        found = graph.call_function(operator.getitem, (shape, 0))
        few = graph.call_function(operator.le, (found, batch_size))
        what = f"this program was captured for batches of at most {batch_size}; capture it anew for larger ones"
        graph.call_function(torch._assert, (few, what))
