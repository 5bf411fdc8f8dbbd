"""Chooses the channels that stay in the next prune."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphprune.costs import costs_of
from graphprune.pass_protocol import Pass, PassResult
from graphprune.program import Program
from graphprune.selection import Goal, Limits, select, violations


@dataclass(frozen=True)
class SelectChannels(Pass):
    """Removes the least important channels until the goal is met, under hard limits."""

    goal: Goal
    limits: Limits
    needs: ClassVar[frozenset[str]] = frozenset({"dependencies", "scores"})
    provides: ClassVar[frozenset[str]] = frozenset({"selection"})

    def run(self, program: Program) -> PassResult:
        """Fills in the selection.

        Raises:
            BudgetError: the goal cannot be met under the limits.
        """
        assert program.dependencies is not None and program.scores is not None
        selection = select(costs_of(program), program.scores.importance, self.goal, self.limits)
        removed = int((~selection.keep).sum())
        remarks = (f"{removed} of {len(selection.keep)} channels go", *selection.bound)
        return PassResult(replace(program, selection=selection), True, remarks)

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """The goal is met, and every group respects its floor and alignment."""
        assert result.program.selection is not None
        return violations(costs_of(result.program), result.program.selection.keep, self.goal, self.limits)
