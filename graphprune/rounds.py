"""The second half of a round: what goes is chosen, removed and proved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from graphprune.budget import Budget, Measure
from graphprune.deploy import TimingResult
from graphprune.pass_protocol import Pass
from graphprune.passes import pipelines
from graphprune.program import Program
from graphprune.selection import Goal, Limits

Run = Callable[[str, Sequence[Pass], Program], Program]
"""Runs a pipeline on a program, under the name of a stage that the user is told."""


class Rounds(Protocol):
    """How rounds meet a budget."""

    @property
    def timing(self) -> TimingResult | None:
        """The last measurement of latency; None where none was asked for."""

    def is_met(self, budget: Budget, costs: Mapping[Measure, int]) -> bool:
        """Whether a program of these costs meets the budget."""

    def prune(self, run: Run, scored: Program, budget: Budget, seed: int) -> tuple[Program, Program]:
        """The program with its selection, and the compact one.

        Raises:
            BudgetError: the budget cannot be met.
        """


@dataclass(frozen=True)
class ByRank:
    """Removes the least important channels until every count is within the budget.

    Attributes:
        original: Costs of the dense program.
        limits: Floors and alignment.
        verify: Whether the result is proved.
    """

    original: Mapping[Measure, int]
    limits: Limits
    verify: bool

    @property
    def timing(self) -> TimingResult | None:
        """None."""
        return None

    def goal(self, budget: Budget) -> Goal:
        """The costs that a budget allows."""
        return Goal.of(budget, self.original)

    def is_met(self, budget: Budget, costs: Mapping[Measure, int]) -> bool:
        """Whether every count is within the budget."""
        return self.goal(budget).allows(costs)

    def prune(self, run: Run, scored: Program, budget: Budget, seed: int) -> tuple[Program, Program]:
        """See `Rounds`."""
        passes = pipelines.pruning(self.goal(budget), self.limits, verify=self.verify, seed=seed)
        selected = run("select", passes[:1], scored)
        return selected, run("prune", passes[1:], selected)
