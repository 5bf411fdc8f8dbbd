"""Scores the importance of every weight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphprune.criteria.criterion import Sensitivity
from graphprune.pass_protocol import Pass, PassResult
from graphprune.program import Program
from graphprune.scores import remark
from graphprune.weights.criteria import WeightCriterion, weight_scores_of


@dataclass(frozen=True)
class ScoreWeights(Pass):
    """Runs a criterion for weights."""

    criterion: WeightCriterion
    sensitivity: Sensitivity
    needs: ClassVar[frozenset[str]] = frozenset({"dependencies"})
    provides: ClassVar[frozenset[str]] = frozenset({"weight_scores"})

    def run(self, program: Program) -> PassResult:
        """Fills in the scores of weights.

        Raises:
            OptionError: the criterion does not give one finite number per weight.
        """
        scores = weight_scores_of(self.criterion, program, self.sensitivity)
        told = remark(scores.criterion, scores.samples, scores.loss)
        return PassResult(replace(program, weight_scores=scores), True, (told,))
