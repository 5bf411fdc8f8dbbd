"""Chooses the widths of the next prune by the latency that each saves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from graphprune.costs.model import costs_of
from graphprune.costs.widths import Counts
from graphprune.criteria.scores import Scores
from graphprune.errors import BudgetError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.latency.choice import Keeping, choose_widths
from graphprune.latency.model import LatencyModel
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.facts import Fact
from graphprune.program.program import Program
from graphprune.request.limits import Limits
from graphprune.selection.channels import select, violations
from graphprune.selection.goal import Goal
from graphprune.selection.record import Selection


@dataclass(frozen=True)
class SelectWidths(Pass):
    """Narrows the groups that lose the least importance for the latency saved, until goal and latency limit are met.

    With ``at_least=False`` it stops before the step that would meet them: steps can be large, and the last round cannot
    give back what an earlier one has removed.
    """

    goal: Goal
    limits: Limits
    model: LatencyModel
    limit_ms: float
    at_least: bool = True
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, Scores})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Selection})

    def run(self, program: Program) -> PassResult:
        """Adds the selection to the program's facts.

        Raises:
            BudgetError: the latency or the goal cannot be met under the limits.
        """
        importance, groups = program[Scores].importance, program[Dependencies].groups
        keeping, costs = Keeping.of(groups, importance), costs_of(program)

        def is_enough(counts: Counts, ms: float) -> bool:
            return ms <= self.limit_ms and self.goal.is_met(costs, keeping.keep(counts))

        permitted = [self.limits.counts(group) for group in groups]
        sensitivity = importance.sqrt() if program[Scores].is_squared else importance
        counts = choose_widths(self.model, sensitivity, is_enough, permitted, at_least=self.at_least)
        predicted_ms = float(self.model.ms(counts))
        if self.at_least and predicted_ms > self.limit_ms * (1 + _ROUNDING):
            raise BudgetError(
                f"latency: at most {self.limit_ms:.4g} ms asked for; {predicted_ms:.4g} ms are predicted for the "
                f"narrowest permitted widths, {float(self.model.ms(self.model.full)):.4g} ms for the present ones. Ask "
                "for less, lower min_channels or align, or protect less"
            )
        keep = keeping.keep(counts)
        # once no narrower width saves latency, the ranking chooses the rest; what is removed already ranks lowest
        selection = Selection(keep)
        if self.at_least:
            found = select(costs, torch.where(keep, importance, float("-inf")), self.goal, self.limits)
            selection = replace(found, keep=found.keep & keep)
        removed = int((~selection.keep).sum())
        return PassResult(program.knowing(selection), True, (f"{removed} of {len(keep)} channels go",))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """The predicted latency is within the limit, the goal is met, and every group respects the limits."""
        program = result.program
        keep = program[Selection].keep
        goal = self.goal if self.at_least else Goal({})
        problems = violations(costs_of(program), keep, goal, self.limits)
        predicted_ms = float(self.model.ms(np.array(KeepSet.of(program[Dependencies], keep).left_of_groups)))
        if self.at_least and predicted_ms > self.limit_ms * (1 + _ROUNDING):
            problems.append(f"{predicted_ms} ms predicted, {self.limit_ms} allowed")
        return problems


_ROUNDING = 1e-9
"""Relative tolerance: sums of the same latencies in another order differ by less."""
