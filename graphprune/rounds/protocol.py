"""The protocol of rounds: ways to meet a budget."""

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
"""Runs a pipeline on a program; the name of the stage is what progress reports to the user."""


class Rounds(Protocol):
    """How rounds meet a budget."""

    @property
    def timing(self) -> TimingResult | None:
        """The last measurement of latency; None where there was none."""

    def check(self, program: Program, budget: Budget) -> None:
        """Refuses a budget before any round.

        Raises:
            NothingToPruneError: nothing would be removed, or nothing can be.
            BudgetError: the budget cannot be reached.
            OptionError: the budget has measures that these rounds do not count.
        """

    def is_met(self, budget: Budget, costs: Mapping[Measure, int]) -> bool:
        """Whether a program of these costs meets the budget."""

    def score(self, run: Run, program: Program, sensitivity: Sensitivity) -> Program:
        """Returns the program with the importance of what may be removed.

        Raises:
            UserError: the data, the loss or the criterion does not fit.
        """

    def prune(self, run: Run, scored: Program, budget: Budget, seed: int) -> tuple[Program, Program]:
        """Returns the program with its selection, and the compact program.

        Raises:
            BudgetError: the budget cannot be met.
        """
