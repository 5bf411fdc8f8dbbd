"""Augmented assignments (``y += 1``) in traced code, which write to the memory that a tensor shares with its views.

By itself, torch.fx traces ``y += 1`` as ``y = y + 1``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.fx.proxy import TraceError

from graphprune.program.liveness import has_own_memory
from graphprune.program.nodes import IN_PLACE_OPERATORS
from graphprune.program.tensors import Layers


class ModelProxy(fx.Proxy):
    """A proxy that records augmented assignments as nodes of their own, and refuses to have its data replaced."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data":
            raise TraceError(f"{self}.data is replaced, which a graph does not show")
        super().__setattr__(name, value)


def _writing(function: Callable[..., Any]) -> Callable[[fx.Proxy, Any], Any]:
    def write(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return write


for _operator in IN_PLACE_OPERATORS:
    setattr(ModelProxy, f"__{_operator.__name__}__", _writing(_operator))


def assign_instead_of_writing(graph: fx.Graph, model: nn.Module) -> None:
    """Turns ``y += x`` into ``y = y + x`` where nothing else uses the memory of ``y``, or where ``y`` is a number."""
    layers = Layers(model)
    for node in graph.nodes:
        if node.op != "call_function" or node.target not in IN_PLACE_OPERATORS or not isinstance(node.args[0], fx.Node):
            continue
        source = node.args[0]
        alone = set(source.users) == {node} and has_own_memory(layers, source)
        if alone or _is_size(source):
            node.target = IN_PLACE_OPERATORS[node.target]


def _is_size(node: fx.Node) -> bool:
    """Whether a node's result is a size or is computed from sizes; it is a number, which cannot be written to."""
    if node.op == "call_method" and node.target == "size":
        return True
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return bool(node.args[1] == "shape")
    return bool(node.all_input_nodes) and all(map(_is_size, node.all_input_nodes))
