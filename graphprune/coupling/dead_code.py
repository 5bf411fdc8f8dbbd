"""Nodes on whose result nothing depends, and a program without them."""

from __future__ import annotations

from torch import fx, nn

from graphprune.coupling.protection import protected_tensors
from graphprune.errors import NothingToPruneError
from graphprune.program.liveness import dead_nodes
from graphprune.program.nodes import op_name
from graphprune.program.program import Program
from graphprune.program.surgery import copy_sharing_tensors
from graphprune.program.tensors import stored_parameters, submodules

_READS_OF_SIZES = frozenset({"dim", "getattr", "getitem", "size"})


def removable_nodes(program: Program) -> list[fx.Node]:
    """Dead nodes, except those that read what is protected; none if all of them only read sizes."""
    dead = dead_nodes(program.module, protected_tensors(program.module, program.protect))
    only_sizes = all(node.op not in ("call_module", "get_attr") and op_name(node) in _READS_OF_SIZES for node in dead)
    return [] if only_sizes else dead


def without_nodes(program: Program, nodes: list[fx.Node]) -> tuple[Program, list[str]]:
    """Removes dead nodes, and the layers and tensors that only they read.

    Returns:
        The program, without facts, and the names of the parameters that are gone.

    Raises:
        NothingToPruneError: no parameter is left.
    """
    names = {node.name for node in nodes}
    module = copy_sharing_tensors(program.module)
    for node in reversed(module.graph.nodes):
        if node.name in names:
            module.graph.erase_node(node)
    before = stored_parameters(module)
    _drop_unread(module)
    module.recompile()
    left = set(module.parameters())
    if not left:
        raise NothingToPruneError(
            f"no output of {type(module).__name__} depends on a parameter, so there is nothing to prune"
        )
    return program.with_module(module), [name for name, parameter in before.items() if parameter not in left]


def _drop_unread(module: fx.GraphModule) -> None:
    """Removes the layers and tensors that no node refers to any more."""
    module.delete_all_unused_submodules()
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    called = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    inside = {f"{path}." for path in (*called, *read) if isinstance(_found(module, path), nn.Module)}
    for path, submodule in submodules(module).items():
        start = f"{path}." if path else ""
        if any(start.startswith(layer) for layer in inside):
            continue
        for table in (submodule._parameters, submodule._buffers):
            for name in [name for name in table if start + name not in read]:
                del table[name]


def _found(module: nn.Module, path: str) -> object:
    value: object = module
    for part in path.split("."):
        value = getattr(value, part)
    return value
