"""Scores the importance of every channel."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import ClassVar

from graphprune.criteria.criterion import Criterion, Sensitivity, scores_of
from graphprune.pass_protocol import Pass, PassResult
from graphprune.program import Program
from graphprune.scores import remark

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreChannels(Pass):
    """Runs a criterion."""

    criterion: Criterion
    sensitivity: Sensitivity
    needs: ClassVar[frozenset[str]] = frozenset({"dependencies"})
    provides: ClassVar[frozenset[str]] = frozenset({"scores"})

    def run(self, program: Program) -> PassResult:
        """Fills in scores.

        Raises:
            OptionError: the criterion does not give one finite number per channel.
        """
        assert program.dependencies is not None
        scores = scores_of(self.criterion, program, self.sensitivity)
        channels = program.dependencies.channels
        if len(scores.importance.unique()) == 1 < channels:
            log.warning("all %d channels have the same %s: their ranking is arbitrary", channels, scores.criterion)
        told = remark(scores.criterion, scores.samples, scores.loss)
        return PassResult(replace(program, scores=scores), True, (told,))
