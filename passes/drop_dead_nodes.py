"""Removes what the program computes but does not use."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from graphprune.capture.fidelity import Reference
from graphprune.coupling.protection import protected_tensors
from graphprune.errors import NothingToPruneError
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.liveness import dead_nodes, draws_random_numbers
from graphprune.program.nodes import op_name
from graphprune.program.program import Program
from graphprune.program.surgery import copy_sharing_tensors
from graphprune.program.tensors import stored_parameters, submodules


@dataclass(frozen=True)
class DropDeadNodes(Pass):
    """Removes nodes on whose result nothing depends, and the layers and tensors that only they read.

    A layer whose result is not used would count towards the requested sparsity, although pruning it changes nothing.
    What is protected stays, dead or not. If the only dead nodes read sizes, which many models leave behind and which
    cost nothing, the program stays as it is. Random numbers that a dead node would draw are not drawn, so with the same
    seed later draws differ from those of the user's model.
    """

    def run(self, program: Program) -> PassResult:
        """Returns a program without dead nodes; nothing changes if there are none.

        Raises:
            NothingToPruneError: no parameter is left.
        """
        names = {node.name for node in _dead(program)}
        if not names:
            return PassResult(program, False)
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
        gone = [name for name, parameter in before.items() if parameter not in left]
        remarks = (f"{len(names)} nodes removed", *(f"{name} is read by nobody" for name in gone))
        return PassResult(program.with_module(module), True, remarks)

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """No dead node is left, and the outputs on the example are the same as before."""
        left = [f"%{node.name} is dead and still there" for node in _dead(result.program)]
        # without the random numbers of a dead node, later ones differ, so outputs cannot be compared
        if not result.modified or any(draws_random_numbers(node) for node in _dead(before)):
            return left
        difference = Reference.of(before.module, before.example).difference(result.program.module)
        return [*left, f"without its dead nodes, {difference}"] if difference else left


_READS_OF_SIZES = frozenset({"dim", "getattr", "getitem", "size"})


def _dead(program: Program) -> list[fx.Node]:
    """Dead nodes, except those that read what is protected; none if all of them only read sizes."""
    dead = dead_nodes(program.module, protected_tensors(program.module, program.protect))
    only_sizes = all(node.op not in ("call_module", "get_attr") and op_name(node) in _READS_OF_SIZES for node in dead)
    return [] if only_sizes else dead


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
