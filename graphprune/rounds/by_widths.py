"""Rounds that choose widths which suit a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from graphprune.costs.measures import Measure
from graphprune.criteria import Sensitivity
from graphprune.latency.model import LatencyModel
from graphprune.latency.profiles import Profile
from graphprune.passes import pipelines
from graphprune.program.program import Program
from graphprune.request.budget import Budget
from graphprune.rounds.by_rank import ByRank
from graphprune.rounds.protocol import Run


@dataclass(frozen=True)
class ByWidths:
    """Meets counted budgets at widths that suit a target, with most latency gained for the elasticity lost.

    Attributes:
        rank: Counts, limits, and whether results are proved.
        budget: What has to be met at last; rounds on the way stay within theirs.
        profile: Profile of the target. Nothing is measured but single operators.
    """

    rank: ByRank
    budget: Budget
    profile: Profile

    timing: ClassVar[None] = None
    """No latency is measured."""

    def check(self, program: Program, budget: Budget) -> None:
        """Does what `ByRank` does."""
        self.rank.check(program, budget)

    def is_met(self, budget: Budget, costs: Mapping[Measure, int]) -> bool:
        """Whether every count is within the budget."""
        return self.rank.is_met(budget, costs)

    def score(self, run: Run, program: Program, sensitivity: Sensitivity) -> Program:
        """Does what `ByRank` does."""
        return self.rank.score(run, program, sensitivity)

    def prune(self, run: Run, scored: Program, budget: Budget, seed: int) -> tuple[Program, Program]:
        """Selects widths and removes channels; see `Rounds.prune`."""
        model = LatencyModel(scored, self.profile)
        choice = pipelines.selecting_widths(
            self.rank.goal(budget), self.rank.limits, model, float("inf"), at_least=budget == self.budget
        )
        selected = run("select", choice, scored)
        return selected, run("prune", pipelines.pruning(verify=self.rank.verify, seed=seed), selected)
