"""Removes what the program computes and nobody uses."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import fx, nn

from graphprune.coupling.protection import protected_tensors
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.liveness import dead_nodes
from graphprune.program.nodes import op_name
from graphprune.program.program import Program
from graphprune.program.surgery import copy_sharing_tensors
from graphprune.program.tensors import stored_parameters, submodules


@dataclass(frozen=True)
class DropDeadNodes(Pass):
    """Removes nodes on whose result nothing depends, and the layers and tensors that only they read.

    A layer whose result is used by nobody would count towards the sparsity that is asked for, and pruning it would
    change nothing. What is protected stays, dead or not. Where nothing is dead but reads of sizes, which many models
    leave behind and which cost nothing, the program stays as it is.
    """

    def run(self, program: Program) -> PassResult:
        """Gives a program without dead nodes; nothing changes where there are none."""
        dead = _dead(program)
        if all(node.op not in ("call_module", "get_attr") and op_name(node) in _READS_OF_SIZES for node in dead):
            return PassResult(program, False)
        names = {node.name for node in dead}
        module = copy_sharing_tensors(program.module)
        for node in reversed(module.graph.nodes):
            if node.name in names:
                module.graph.erase_node(node)
        before = stored_parameters(module)
        _drop_unread(module)
        module.recompile()
        remarks = (f"{len(names)} nodes removed", *(f"{name} is read by nobody" for name in _gone(before, module)))
        return PassResult(program.with_module(module), True, remarks)

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """No dead node is left."""
        if not result.modified:
            return []
        return [f"%{node.name} is dead and still there" for node in _dead(result.program)]


_READS_OF_SIZES = frozenset({"dim", "getattr", "getitem", "size"})


def _dead(program: Program) -> list[fx.Node]:
    """Dead nodes, but for those that read what is protected."""
    return dead_nodes(program.module, protected_tensors(program.module, program.protect))


def _gone(before: Collection[str], module: nn.Module) -> list[str]:
    left = stored_parameters(module)
    return [name for name in before if name not in left]


def _drop_unread(module: fx.GraphModule) -> None:
    """Takes out layers and tensors that no node names any more."""
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
