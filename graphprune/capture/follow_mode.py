"""Makes functional ops that have a training flag follow the mode of the whole module."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import torch
from torch import fx
from torch.fx.operator_schemas import get_signature_for_torch_op

_FLAGS = ("training", "train")


def follow_mode(graph: fx.Graph) -> None:
    """Replaces each literal training flag that is False by the module's own ``training``.

    The graph was captured in evaluation mode, so a False flag came from ``self.training``; a True one was written in
    the code (dropout that is always active) and stays.
    """
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        position, name = _flag(node)
        if name is None:
            continue
        value = node.args[position] if position < len(node.args) else node.kwargs.get(name)
        if value is False:
            with graph.inserting_before(node):
                mode = graph.create_node("get_attr", "training")
            if position < len(node.args):
                node.update_arg(position, mode)
            else:
                node.update_kwarg(name, mode)


def _flag(node: fx.Node) -> tuple[int, str | None]:
    """Position and name of the training flag among the parameters of a node's function."""
    for position, name in enumerate(_parameter_names(node.target)):
        if name in _FLAGS:
            return position, name
    return 0, None


@lru_cache(maxsize=1024)
def _parameter_names(target: Any) -> list[str]:
    if isinstance(target, torch._ops.OpOverload):
        return [argument.name for argument in target._schema.arguments]
    signatures = get_signature_for_torch_op(target)
    if signatures:
        return list(signatures[0].parameters)
    try:
        return list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return []
