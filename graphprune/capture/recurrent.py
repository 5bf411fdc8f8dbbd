"""Raises recurrent layers in a graph of torch.export: one op that takes the weights and gives several results."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from graphprune.coupling.recurrent_calls import recurrent_layer

aten = torch.ops.aten


def raise_recurrent(graph: fx.Graph, path: str, nodes: Sequence[fx.Node]) -> None:
    """Turns the nodes of one call of a recurrent layer back into a call of the module, which holds the sizes itself.

    A call on an unbatched or a packed sequence stays as it is.
    """
    (op,) = [node for node in nodes if recurrent_layer(node.target, node.args) is not None] or (None,)
    if op is None or op.args[0] in nodes or not all(user.target is operator.getitem for user in op.users):
        return
    given: Any = op.args[1]  # hidden and cell state of an LSTM, the hidden state of any other
    states = list(given) if isinstance(given, (list, tuple)) else [given]
    made_inside = [state in nodes for state in states]
    if any(made_inside) and not all(state.target is aten.zeros.default for state in states):
        return
    given = tuple(states) if isinstance(given, (list, tuple)) else given
    with graph.inserting_after(op):
        call = graph.create_node("call_module", path, (op.args[0],) if all(made_inside) else (op.args[0], given))
    call.meta.update(op.meta)
    items = list(op.users)
    _replace_results(graph, [item for item in items if item.users], call, nested=len(states) > 1)
    for node in (*items, *(node for node in reversed(nodes) if node not in items)):
        if not node.users:
            graph.erase_node(node)


def _replace_results(graph: fx.Graph, items: Sequence[fx.Node], call: fx.Node, *, nested: bool) -> None:
    """Lets the users of the op's results use the module's; an LSTM module gives its two states as one result."""
    for item in items:
        index: Any = item.args[1]
        with graph.inserting_before(item):
            source = graph.call_function(operator.getitem, (call, 1)) if nested and index > 0 else call
            place = index - 1 if nested and index > 0 else index
            result = graph.call_function(operator.getitem, (source, place))
        result.meta.update(item.meta)
        item.replace_all_uses_with(result)
