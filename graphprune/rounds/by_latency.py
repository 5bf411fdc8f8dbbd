"""Rounds that meet a latency: it is predicted, measured, and in the last round corrected until the measurement fits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from graphprune.costs.measures import Measure
from graphprune.criteria import Sensitivity
from graphprune.deploy import TimingResult
from graphprune.errors import BudgetError
from graphprune.latency.model import Calibration, LatencyModel
from graphprune.latency.profiles import Profile
from graphprune.latency.stopwatch import Stopwatch
from graphprune.passes import pipelines
from graphprune.program.program import Program
from graphprune.request.budget import Budget
from graphprune.rounds.by_rank import ByRank
from graphprune.rounds.correction import Correction, Try
from graphprune.rounds.protocol import Run
from graphprune.selection.record import Selection, keep_set_of

log = logging.getLogger(__name__)

CORRECTION = Correction()
"""How predictions are corrected by measurements."""


@dataclass
class ByLatency:
    """Chooses widths by the elasticity lost for the latency gained.

    Attributes:
        rank: For the other measures of the budget, which hold as well.
        budget: What has to be met at last.
        profile: Profile of the target.
        stopwatch: Measures on the target.
        calibration: Calibration of the dense program.
        dense_ms: Its measured latency.
        by_profile: What ``rank`` and ``calibration`` are by another profile.
        timing: The last measurement.
        bias: What was measured last, as a multiple of what was predicted.
    """

    rank: ByRank
    budget: Budget
    profile: Profile
    stopwatch: Stopwatch
    calibration: Calibration
    dense_ms: float
    by_profile: Callable[[Profile], tuple[ByRank, Calibration]]
    timing: TimingResult | None = None
    bias: float = 1.0
    _met: float = 0.0

    def check(self, program: Program, budget: Budget) -> None:
        """Does what `ByRank` does."""
        self.rank.check(program, budget)

    def is_met(self, budget: Budget, costs: Mapping[Measure, int]) -> bool:
        """Whether an earlier round has met the latency, and every count is within the budget."""
        return (budget.latency or 0.0) <= self._met and self.rank.is_met(budget, costs)

    def score(self, run: Run, program: Program, sensitivity: Sensitivity) -> Program:
        """Does what `ByRank` does."""
        return self.rank.score(run, program, sensitivity)

    def prune(self, run: Run, scored: Program, budget: Budget, seed: int) -> tuple[Program, Program]:
        """Selects and prunes; the round of the whole budget is repeated with other limits until its measurement fits.

        If nothing fits according to what an earlier process measured, the operators are measured anew: the machine may
        have been busy then, which makes narrow layers look slow.
        """
        try:
            return self._pruned(run, scored, budget, seed)
        except BudgetError as error:
            if not self.profile.of_before:
                raise
            log.warning("%s\nMeasuring operators anew: %s was measured before", error, self.profile.target.file)
        self.profile, self.bias = self.profile.anew(), 1.0
        self.rank, self.calibration = self.by_profile(self.profile)
        return self._pruned(run, scored, budget, seed)

    def _pruned(self, run: Run, scored: Program, budget: Budget, seed: int) -> tuple[Program, Program]:
        """Selects and prunes with the present profile; see `prune`.

        Raises:
            BudgetError: nothing fits.
        """
        assert budget.latency is not None and self.budget.latency is not None
        model = LatencyModel(scored, self.profile, self.calibration)
        allowed_ms = (1 - budget.latency) * self.dense_ms
        at_last_ms = (1 - self.budget.latency) * self.dense_ms
        narrowest_ms, widest_ms = self._narrowest_ms(model), float(model.ms(model.full))
        if narrowest_ms > CORRECTION.mistaken * at_last_ms:
            raise BudgetError(_out_of_reach(at_last_ms, narrowest_ms, widest_ms))
        measured: list[Try] = []

        def attempt(limit_ms: float) -> Try:
            choice = pipelines.selecting_widths(self.rank.goal(budget), self.rank.limits, model, limit_ms)
            selected = run("select", choice, scored)
            for known in measured:
                if _keeps_the_same(known.selected, selected):
                    return replace(known, limit_ms=limit_ms)
            pruned = run("prune", pipelines.pruning(verify=self.rank.verify, seed=seed), selected)
            run("measure", (), pruned)
            timing = self.stopwatch.time(pruned.module)
            share = self._measured_ms(timing) / allowed_ms
            self.bias = share * allowed_ms / _predicted_ms(model, selected)
            measured.append(Try(selected, pruned, limit_ms, timing, share))
            return measured[-1]

        tries = [attempt(max(CORRECTION.aim * allowed_ms / self.bias, narrowest_ms))]
        # an earlier round need not be exact, but channels that it removes in excess never come back
        if budget.latency >= self.budget.latency or tries[0].share * allowed_ms < at_last_ms:
            tries = CORRECTION.corrected(tries, attempt, narrowest_ms, widest_ms)
        best = min(tries, key=lambda each: (each.share > 1, abs(each.share - 1)))
        # the measurement counts: later rounds that ask for no more than it shows have nothing to do
        self.timing, self._met = best.timing, max(budget.latency, 1 - best.share * allowed_ms / self.dense_ms)
        return best.selected, best.pruned

    def _narrowest_ms(self, model: LatencyModel) -> float:
        """Latency predicted for the narrowest permitted widths; limits do not go below it, and measurements decide."""
        counts = [min(self.rank.limits.counts(group), default=group.channels) for group in model.dependencies.groups]
        return float(model.ms(np.array(counts, dtype=np.int64)))

    def _measured_ms(self, timing: TimingResult) -> float:
        """The compact network's latency at the pace that the machine had when the dense one was measured first."""
        share = 1 / timing.speedup("dense", "compact").pairwise_median
        if self.budget.latency_ms is not None:  # a cap in milliseconds holds at the machine's present pace
            share = max(share, timing.latencies["compact"].median_ms / self.dense_ms)
        return share * self.dense_ms


def _out_of_reach(asked_ms: float, narrowest_ms: float, widest_ms: float) -> str:
    return (
        f"latency: at most {asked_ms:.4g} ms asked for, {narrowest_ms:.4g} ms predicted for the narrowest permitted "
        f"widths, {widest_ms:.4g} ms for the present ones. Ask for less, lower min_channels or align, or protect less"
    )


def _predicted_ms(model: LatencyModel, selected: Program) -> float:
    return float(model.ms(np.array(keep_set_of(selected).left_of_groups)))


def _keeps_the_same(first: Program, second: Program) -> bool:
    return torch.equal(first[Selection].keep, second[Selection].keep)
