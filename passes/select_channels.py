"""Chooses the channels that stay in the next prune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.costs import costs_of
from graphprune.coupling.dependencies import Dependencies
from graphprune.pass_protocol import Pass, PassResult
from graphprune.program import Fact, Program
from graphprune.scores import Scores
from graphprune.selection import Goal, Limits, Selection, select, violations


@dataclass(frozen=True)
class SelectChannels(Pass):
    """Removes the least important channels until the goal is met, under hard limits."""

    goal: Goal
    limits: Limits
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, Scores})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Selection})

    def run(self, program: Program) -> PassResult:
        """Fills in the selection.

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
