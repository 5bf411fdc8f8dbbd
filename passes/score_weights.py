"""Scores the importance of every weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.criteria.scores import WeightScores, remark
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.criteria.weights import WeightCriterion, weight_scores_of
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.facts import Fact
from graphprune.program.program import Program


@dataclass(frozen=True)
class ScoreWeights(Pass):
    """Runs a criterion for weights, which scores every weight."""

    criterion: WeightCriterion
    sensitivity: Sensitivity
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({WeightScores})

    def run(self, program: Program) -> PassResult:
        """Adds the scores of the weights to the program's facts.

        Raises:
            OptionError: the criterion does not give one finite number per weight.
        """
        scores = weight_scores_of(self.criterion, program, self.sensitivity)
        told = remark(scores.criterion, scores.samples, scores.loss)
        return PassResult(program.knowing(scores), True, (told,))
