"""Chooses the channels that stay and the weights that stay alive, under one threshold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from graphprune.costs.model import costs_of
from graphprune.criteria.scores import Scores, WeightScores
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.paths.dead import wrong_number
from graphprune.paths.select_on_paths import select_on_paths
from graphprune.program.facts import Fact
from graphprune.program.program import Program
from graphprune.request.limits import Limits
from graphprune.selection.channels import violations
from graphprune.selection.goal import Goal
from graphprune.selection.record import Selection, weights_left
from graphprune.selection.weights import select_jointly


@dataclass(frozen=True)
class SelectJointly(Pass):
    """Ranks channels and weights together, and removes the lowest until exactly the allowed number of weights is left.

    Attributes:
        allowed: Number of weights of the whole pool that stay.
        limits: Floors and alignment of the channels.
        on_paths: Whether weights on no path are kept in addition and not counted, because a later pass removes them.
    """

    allowed: int
    limits: Limits
    on_paths: bool = False
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, Scores, WeightScores})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Selection})

    def run(self, program: Program) -> PassResult:
        """Adds the selection to the program's facts."""
        choose = partial(select_jointly, program, limits=self.limits)
        selection = select_on_paths(program, self.allowed, choose) if self.on_paths else choose(self.allowed)
        selected = program.knowing(selection)
        removed = int((~selection.keep).sum())
        remark = f"{removed} of {len(selection.keep)} channels go, {weights_left(selected)} weights stay"
        return PassResult(selected, True, (remark,))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """The number of weights left is the allowed one (at most that with ``on_paths``); limits are respected."""
        program = result.program
        wrong = wrong_number(program, self.allowed, on_paths=self.on_paths)
        return wrong + violations(costs_of(program), program[Selection].keep, Goal({}), self.limits)
