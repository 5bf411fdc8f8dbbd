"""Chooses the widths of the next prune by what each gains in latency."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from graphprune.costs import costs_of
from graphprune.latency.choice import choose_widths, keep_of
from graphprune.latency.model import LatencyModel
from graphprune.pass_protocol import Pass, PassResult
from graphprune.program import Program
from graphprune.selection import Goal, Limits, select, violations


@dataclass(frozen=True)
class SelectWidths(Pass):
    """Narrows what loses the least importance for the latency gained, then what ranks lowest until the goal is met."""

    goal: Goal
    limits: Limits
    model: LatencyModel
    limit_ms: float
    needs: ClassVar[frozenset[str]] = frozenset({"dependencies", "scores"})
    provides: ClassVar[frozenset[str]] = frozenset({"selection"})

    def run(self, program: Program) -> PassResult:
        """Fills in the selection.

        Raises:
            BudgetError: latency or goal cannot be met under the limits.
        """
        assert program.dependencies is not None and program.scores is not None
        importance, groups = program.scores.importance, program.dependencies.groups
        counts = choose_widths(self.model, importance, self.limit_ms, [self.limits.counts(group) for group in groups])
        keep = keep_of(self.model, importance, counts)
        # what latency removed ranks lowest, so the ranking goes on from there
        ranked = torch.where(keep, importance, float("-inf"))
        selection = select(costs_of(program), ranked, self.goal, self.limits)
        selection = replace(selection, keep=selection.keep & keep)
        removed = int((~selection.keep).sum())
        return PassResult(replace(program, selection=selection), True, (f"{removed} of {len(keep)} channels go",))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """The predicted latency is within the limit, the goal is met, and every group respects the limits."""
        program = result.program
        assert program.dependencies is not None and program.selection is not None
        keep = program.selection.keep
        problems = violations(costs_of(program), keep, self.goal, self.limits)
        predicted_ms = float(self.model.ms(np.array(program.dependencies.left_of_groups(keep))))
        if predicted_ms > self.limit_ms * (1 + 1e-9):
            problems.append(f"{predicted_ms} ms predicted, {self.limit_ms} allowed")
        return problems
