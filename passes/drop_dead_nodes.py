"""Removes what the program computes but does not use."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from graphprune.capture.fidelity import Reference
from graphprune.coupling.dead_code import removable_nodes, without_nodes
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.liveness import draws_random_numbers
from graphprune.program.program import Program
from graphprune.program.tensors import stored_tensors


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
        dead = removable_nodes(program)
        if not dead:
            return PassResult(program, False)
        smaller, gone = without_nodes(program, dead)
        return PassResult(
            smaller, True, (f"{len(dead)} nodes removed", *(f"{name} is read by nobody" for name in gone))
        )

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """No dead node is left, and the outputs on the example are the same as before."""
        left = [f"%{node.name} is dead and still there" for node in removable_nodes(result.program)]
        # without the random numbers of a dead node, later ones differ; on the meta device there are no values
        if (
            not result.modified
            or any(draws_random_numbers(node) for node in removable_nodes(before))
            or _on_meta(before.module)
        ):
            return left
        difference = Reference.of(before.module, before.example).difference(result.program.module)
        return [*left, f"without its dead nodes, {difference}"] if difference else left


def _on_meta(module: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in stored_tensors(module).values())
