"""Chooses the channels that stay and the weights that stay alive, under one threshold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphprune.costs import costs_of, weights_left
from graphprune.pass_protocol import Pass, PassResult
from graphprune.program import Program
from graphprune.selection import Goal, Limits, violations
from graphprune.weight_selection import select_jointly


@dataclass(frozen=True)
class SelectJointly(Pass):
    """Ranks channels and weights together, until exactly as many weights are left as are allowed."""

    allowed: int
    limits: Limits
    needs: ClassVar[frozenset[str]] = frozenset({"dependencies", "scores", "weight_scores"})
    provides: ClassVar[frozenset[str]] = frozenset({"selection"})

    def run(self, program: Program) -> PassResult:
        """Fills in the selection."""
        selection = select_jointly(program, self.allowed, self.limits)
        selected = replace(program, selection=selection)
        removed = int((~selection.keep).sum())
        remark = f"{removed} of {len(selection.keep)} channels go, {weights_left(selected)} weights stay"
        return PassResult(selected, True, (remark,))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """As many weights are left as should be, and every group respects its floor and alignment."""
        program = result.program
        assert program.selection is not None
        left = weights_left(program)
        wrong = [] if left == self.allowed else [f"{left} weights left, {self.allowed} allowed"]
        return wrong + violations(costs_of(program), program.selection.keep, Goal({}), self.limits)
