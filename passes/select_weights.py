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
    """Keeps the most important weights, exactly as many as are allowed.

    Attributes:
        allowed: Number of weights of the whole pool that stay.
        on_paths: Whether weights on no path are kept in addition and not counted, because a later pass removes them.
    """

    allowed: int
    on_paths: bool = False
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, WeightScores})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Selection})

    def run(self, program: Program) -> PassResult:
        """Adds the selection to the program's facts."""
        choose = partial(select_weights, program)
        selection = select_on_paths(program, self.allowed, choose) if self.on_paths else choose(self.allowed)
        selected = program.knowing(selection)
        return PassResult(selected, True, (f"{weights_left(selected)} weights stay",))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """The number of weights left is the allowed one; if only those on paths count, it is at most that."""
        return wrong_number(result.program, self.allowed, on_paths=self.on_paths)
