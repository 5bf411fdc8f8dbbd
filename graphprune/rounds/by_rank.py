"""Rounds that remove the least important channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from graphprune.costs.measures import MEASURES, Measure
from graphprune.costs.model import costs_of
from graphprune.coupling.explain import path_to_cause
from graphprune.criteria.criterion import Criterion
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.errors import NothingToPruneError
from graphprune.labels.dependencies import Dependencies
from graphprune.passes import pipelines
from graphprune.program.program import Program
from graphprune.request.budget import Budget
from graphprune.request.limits import Limits
from graphprune.rounds.protocol import Run
from graphprune.selection.channels import check_reachable
from graphprune.selection.goal import Goal


@dataclass(frozen=True)
class ByRank:
    """Removes the least important channels until every count is within the budget.

    Attributes:
        criterion: Ranks the channels.
        original: Costs of the dense program.
        limits: Floors and alignment.
        verify: Whether the result is proved.
    """

    criterion: Criterion
    original: Mapping[Measure, int]
    limits: Limits
    verify: bool

    timing: ClassVar[None] = None
    """No latency is measured."""

    def goal(self, budget: Budget) -> Goal:
        """The costs that a budget allows."""
        return Goal.of(budget, self.original)

    def is_met(self, budget: Budget, costs: Mapping[Measure, int]) -> bool:
        """Whether every count is within the budget."""
        return self.goal(budget).allows(costs)

    def check(self, program: Program, budget: Budget) -> None:
        """Refuses a budget that asks for nothing, or for more than can be removed.

        Raises:
            NothingToPruneError: nothing would be removed, or nothing can be.
            BudgetError: not even the smallest permitted network meets the budget.
        """
        dependencies, goal = program[Dependencies], self.goal(budget)
        if not dependencies.groups:
            raise NothingToPruneError(_nothing_prunable(program, dependencies))
        if not budget.latency and budget.latency_ms is None and goal.allows(self.original):
            asked = {name: getattr(budget, name) for name in (*MEASURES, "latency")}
            shares = ", ".join(f"{name}={share}" for name, share in asked.items() if share is not None)
            model = type(program.module).__name__
            raise NothingToPruneError(
                f"the budget {shares} would remove nothing of {model}; ask for more. Of {model} "
                f"{dependencies.channels} channels can go at all; 'graphprune inspect' says why the rest is frozen"
            )
        check_reachable(costs_of(program), goal, self.limits)

    def score(self, run: Run, program: Program, sensitivity: Sensitivity) -> Program:
        """Scores the channels; see `Rounds.score`."""
        return run("score", pipelines.scoring(self.criterion, sensitivity), program)

    def prune(self, run: Run, scored: Program, budget: Budget, seed: int) -> tuple[Program, Program]:
        """Selects and removes channels; see `Rounds.prune`."""
        selected = run("select", pipelines.selecting(self.goal(budget), self.limits), scored)
        return selected, run("prune", pipelines.pruning(verify=self.verify, seed=seed), selected)


def _nothing_prunable(program: Program, dependencies: Dependencies) -> str:
    lines = [f"{type(program.module).__name__} has no channels that can be removed:"]
    outputs = [owner for owner in dependencies.frozen_dims() if owner.dim == 0]
    for owner in outputs[:_SHOWN]:
        steps = path_to_cause(program, owner.name, owner.dim)
        if steps:
            lines.append(f"  {owner.name}: {steps[-1].cause}")
    if len(outputs) > _SHOWN:
        lines.append(f"  and {len(outputs) - _SHOWN} more; 'graphprune inspect' lists all")
    return "\n".join(lines)


_SHOWN = 4
