"""Inlines the regions that torch.export wraps in a graph of their own (no_grad, autocast switched off)."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

aten = torch.ops.aten
higher_order = torch.ops.higher_order


def inline_regions(graph: fx.Graph, module: nn.Module) -> None:
    """Replaces each call of a wrapped region by the nodes of the region.

    The results of a region without gradients are detached.

    Raises:
        NotImplementedError: a region runs under autocast, or is of an unknown kind (a loop, a branch).
    """
    for node in list(graph.nodes):
        if node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator):
            _inline(graph, module, node)
    for node in graph.find_nodes(op="get_attr"):
        if isinstance(_attribute(module, str(node.target)), fx.GraphModule) and not node.users:
            graph.erase_node(node)


def _inline(graph: fx.Graph, module: nn.Module, node: fx.Node) -> None:
    position = next((place for place, argument in enumerate(node.args) if _is_region(argument, module)), None)
    if position is None:
        raise NotImplementedError(f"{node.target} has no region that can be inlined")
    options, reference, arguments = node.args[:position], node.args[position], node.args[position + 1 :]
    detached = _without_gradients(node, options)
    assert isinstance(reference, fx.Node)
    region = _attribute(module, str(reference.target))
    inline_regions(region.graph, region)
    placeholders = region.graph.find_nodes(op="placeholder")
    with graph.inserting_before(node):
        # arguments may be numbers too, which graph_copy takes as they are
        known: dict[fx.Node, Any] = dict(zip(placeholders, arguments, strict=True))
        results = graph.graph_copy(region.graph, known)
        if detached:
            results = fx.map_arg(results, lambda result: graph.call_function(aten.detach.default, (result,)))
    _replace(graph, node, results)


def _without_gradients(node: fx.Node, options: tuple[Any, ...]) -> bool:
    """Whether the region ran under no_grad."""
    if node.target is higher_order.wrap_with_set_grad_enabled:
        return not options[0]
    if node.target is higher_order.wrap_with_autocast and options[2] is False:
        return False
    raise NotImplementedError(f"{node.target} inside of the model")


def _replace(graph: fx.Graph, node: fx.Node, results: Any) -> None:
    """Lets the users of a region's results (items of a tuple) use the results themselves."""
    if isinstance(results, fx.Node):
        node.replace_all_uses_with(results)
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])
        graph.erase_node(user)
    graph.erase_node(node)


def _is_region(argument: Any, module: nn.Module) -> bool:
    return (
        isinstance(argument, fx.Node)
        and argument.op == "get_attr"
        and isinstance(_attribute(module, str(argument.target)), fx.GraphModule)
    )


def _attribute(module: nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part, None)
    return value
