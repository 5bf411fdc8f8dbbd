"""Rounds that make single weights zero, alone or together with channels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graphprune.costs.measures import Measure
from graphprune.costs.pool import not_in_pool
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.criteria.weights import WeightCriterion
from graphprune.errors import NothingToPruneError, OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.passes import pipelines
from graphprune.program.program import Program, device_of
from graphprune.request.budget import Budget
from graphprune.rounds.by_rank import ByRank
from graphprune.rounds.protocol import Run
from graphprune.selection.goal import Goal
from graphprune.selection.norms import norms_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ByWeights:
    """Zeroes the least important weights until exactly as many are left as the budget allows (SNIP-it).

    Attributes:
        criterion: Ranks the weights.
        original: Costs of the dense program.
        resurrect: Whether dead weights are ranked too and can come back (FORCE).
        on_paths: Whether only weights on a path from input to output are left, and counted.
        verify: Whether results are proved.
    """

    criterion: WeightCriterion
    original: Mapping[Measure, int]
    resurrect: bool
    on_paths: bool
    verify: bool

    timing: ClassVar[None] = None
    """No latency is measured."""

    def check(self, program: Program, budget: Budget) -> None:
        """Refuses a budget that cannot be met by weights; see `Rounds.check`."""
        if budget.shares().keys() != {"weights"} or budget.is_timed:
            raise OptionError(
                f"{budget}: where single weights go, weights are what is counted; give sparsity= or Budget(weights=)"
            )
        if self.on_paths and (norms := norms_of(program)):
            raise OptionError(
                f"dead_paths='remove': the model divides {', '.join(list(norms)[:4])} by their own norms, of which a "
                "path that goes would leave 0 / 0; use dead_paths='keep', or remove the norms first "
                "(torch.nn.utils.parametrize.remove_parametrizations)"
            )
        left_out = not_in_pool(program)
        if not self.original["weights"]:
            raise NothingToPruneError(
                "no weight can become zero: none of a convolution, a linear layer or another matrix product is found "
                f"that is not protected. Not among them: {_listed(left_out) or 'no other either'}"
            )
        if sum(weight.numel() for weight in left_out.values()) > self.original["weights"]:
            log.warning(
                "only %d weights can become zero and are counted; more are looked up, computed before they multiply or "
                "otherwise not followed, and stay: %s", self.original["weights"], _listed(left_out),
            )  # fmt: skip
        if self.allowed(budget) >= self.original["weights"]:
            raise NothingToPruneError(
                f"the budget weights={budget.weights} would make none of {self.original['weights']} weights zero: ask "
                "for more, or protect less"
            )

    def allowed(self, budget: Budget) -> int:
        """Number of weights that a budget leaves."""
        return Goal.of(budget, self.original).limits["weights"]

    def is_met(self, budget: Budget, costs: Mapping[Measure, int]) -> bool:
        """Whether few enough weights are left; if dead ones can come back, no round that removes weights is skipped."""
        allowed = self.allowed(budget)
        return costs["weights"] <= allowed and not (self.resurrect and allowed < self.original["weights"])

    def score(self, run: Run, program: Program, sensitivity: Sensitivity) -> Program:
        """Scores the weights; see `Rounds.score`."""
        return run("score", pipelines.scoring_weights(self.criterion, sensitivity), program)

    def prune(self, run: Run, scored: Program, budget: Budget, seed: int) -> tuple[Program, Program]:
        """Selects and zeroes weights; see `Rounds.prune`."""
        choice = pipelines.selecting_weights(
            self.allowed(budget), on_paths=self.on_paths, verify=self.verify, seed=seed
        )
        selected = run("select", choice, scored)
        passes = pipelines.masking(resurrect=self.resurrect, verify=self.verify, seed=seed)
        return selected, run("prune", passes, selected)


@dataclass(frozen=True)
class Jointly:
    """Removes channels and zeroes weights under one threshold (CNIP-it).

    Attributes:
        rank: Ranks the channels, and holds their limits.
        weights: Ranks the weights, and counts them.
    """

    rank: ByRank
    weights: ByWeights

    timing: ClassVar[None] = None
    """No latency is measured."""

    def check(self, program: Program, budget: Budget) -> None:
        """Checks the budget as for weights alone; see `Rounds.check`."""
        self.weights.check(program, budget)

    def is_met(self, budget: Budget, costs: Mapping[Measure, int]) -> bool:
        """Whether a round of weights alone would have nothing to do."""
        return self.weights.is_met(budget, costs)

    def score(self, run: Run, program: Program, sensitivity: Sensitivity) -> Program:
        """Scores channels and weights on the same samples; see `Rounds.score`."""
        same = sensitivity.drawn(device_of(program))
        if program[Dependencies].channels:
            channels = self.rank.score(run, program, same)
        else:  # no channel can go any more: each group is down to its last one
            channels = program.knowing(Scores(torch.empty(0, dtype=torch.float64), "none"))
        return self.weights.score(run, channels, same)

    def prune(self, run: Run, scored: Program, budget: Budget, seed: int) -> tuple[Program, Program]:
        """Selects channels and weights together, and removes them; see `Rounds.prune`."""
        weights = self.weights
        choice = pipelines.selecting_jointly(
            weights.allowed(budget), self.rank.limits, on_paths=weights.on_paths, verify=weights.verify, seed=seed
        )
        selected = run("select", choice, scored)
        passes = pipelines.pruning_jointly(resurrect=weights.resurrect, verify=weights.verify, seed=seed)
        return selected, run("prune", passes, selected)


def _listed(weights: Mapping[str, Tensor]) -> str:
    """Names the first few weights, and says how many more there are."""
    rest = len(weights) - _SHOWN
    return ", ".join([*list(weights)[:_SHOWN], *([f"and {rest} more"] if rest > 0 else [])])


_SHOWN = 4
