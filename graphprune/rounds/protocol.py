"""What a way to meet a budget is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from graphprune.costs.measures import Measure
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.deploy import TimingResult
from graphprune.pass_manager.protocol import Pass
from graphprune.program.program import Program
from graphprune.request.budget import Budget

Run = Callable[[str, Sequence[Pass], Program], Program]
"""Runs a pipeline on a program, under the name of a stage that the user is told."""


class Rounds(Protocol):
    """How rounds meet a budget."""

    @property
    def timing(self) -> TimingResult | None:
        """The last measurement of latency; None where none was asked for."""

    def check(self, program: Program, budget: Budget) -> None:
        """Refuses a budget before any round.

        Raises:
            NothingToPruneError: nothing would be removed, or nothing can be.
            BudgetError: the budget cannot be reached.
            OptionError: it counts what these rounds do not.
        """

    def is_met(self, budget: Budget, costs: Mapping[Measure, int]) -> bool:
        """Whether a program of these costs meets the budget."""

    def score(self, run: Run, program: Program, sensitivity: Sensitivity) -> Program:
        """The program with the importance of what may go.

        Raises:
            UserError: data or loss do not fit, or the criterion does not.
        """

    def prune(self, run: Run, scored: Program, budget: Budget, seed: int) -> tuple[Program, Program]:
        """The program with its selection, and the compact one.

        Raises:
            BudgetError: the budget cannot be met.
        """
