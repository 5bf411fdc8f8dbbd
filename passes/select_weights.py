"""Chooses the weights that stay alive."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from graphprune.criteria.scores import WeightScores
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.paths.dead import wrong_number
from graphprune.paths.select_on_paths import select_on_paths
from graphprune.program.facts import Fact
from graphprune.program.program import Program
from graphprune.selection.record import Selection, weights_left
from graphprune.selection.weights import select_weights


@dataclass(frozen=True)
class SelectWeights(Pass):
    """Keeps exactly as many weights as are allowed, the most important ones.

    Attributes:
        allowed: Weights that may stay, of the whole pool.
        on_paths: Whether those on no path are kept besides and do not count, because they will be removed.
    """

    allowed: int
    on_paths: bool = False
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, WeightScores})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Selection})

    def run(self, program: Program) -> PassResult:
        """Fills in the selection."""
        choose = partial(select_weights, program)
        selection = select_on_paths(program, self.allowed, choose) if self.on_paths else choose(self.allowed)
        selected = program.knowing(selection)
        return PassResult(selected, True, (f"{weights_left(selected)} weights stay",))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """As many weights are left as should be, or no more than that on paths."""
        return wrong_number(result.program, self.allowed, on_paths=self.on_paths)
