"""Chooses the channels that stay in the next prune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.costs.model import costs_of
from graphprune.criteria.scores import Scores
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.facts import Fact
from graphprune.program.program import Program
from graphprune.request.limits import Limits
from graphprune.selection.channels import select, violations
from graphprune.selection.goal import Goal
from graphprune.selection.record import Selection


@dataclass(frozen=True)
class SelectChannels(Pass):
    """Removes the least important channels until the goal is met, under hard limits."""

    goal: Goal
    limits: Limits
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, Scores})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Selection})

    def run(self, program: Program) -> PassResult:
        """Adds the selection to the program's facts.

        Raises:
            BudgetError: the goal cannot be met under the limits.
        """
        selection = select(costs_of(program), program[Scores].importance, self.goal, self.limits)
        removed = int((~selection.keep).sum())
        remarks = (f"{removed} of {len(selection.keep)} channels go", *selection.bound)
        return PassResult(program.knowing(selection), True, remarks)

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """The goal is met, and every group respects its floor and alignment."""
        return violations(costs_of(result.program), result.program[Selection].keep, self.goal, self.limits)
