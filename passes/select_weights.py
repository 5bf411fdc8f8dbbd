"""Chooses the weights that stay alive."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphprune.costs import weights_left
from graphprune.pass_protocol import Pass, PassResult
from graphprune.program import Program
from graphprune.weight_selection import select_weights


@dataclass(frozen=True)
class SelectWeights(Pass):
    """Keeps exactly as many weights as are allowed, the most important ones."""

    allowed: int
    needs: ClassVar[frozenset[str]] = frozenset({"dependencies", "weight_scores"})
    provides: ClassVar[frozenset[str]] = frozenset({"selection"})

    def run(self, program: Program) -> PassResult:
        """Fills in the selection."""
        selected = replace(program, selection=select_weights(program, self.allowed))
        return PassResult(selected, True, (f"{weights_left(selected)} weights stay",))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """As many weights are left as should be."""
        left = weights_left(result.program)
        return [] if left == self.allowed else [f"{left} weights left, {self.allowed} allowed"]
