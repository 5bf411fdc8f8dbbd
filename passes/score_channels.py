"""Scores the importance of every channel."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

from graphprune.criteria.criterion import Criterion, scores_of
from graphprune.criteria.scores import Scores, remark
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.gates.insertion import GatedModule
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.facts import Fact
from graphprune.program.program import Program

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreChannels(Pass):
    """Runs a criterion, which scores every channel."""

    criterion: Criterion
    sensitivity: Sensitivity
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Scores})
    drops: ClassVar[frozenset[type[Fact]]] = frozenset({GatedModule})

    def run(self, program: Program) -> PassResult:
        """Adds the scores to the program's facts.

        Raises:
            OptionError: the criterion does not give one finite number per channel.
        """
        scores = scores_of(self.criterion, program, self.sensitivity)
        channels = program[Dependencies].channels
        if len(scores.importance.unique()) == 1 < channels:
            log.warning("all %d channels have the same %s: their ranking is arbitrary", channels, scores.criterion)
        told = remark(scores.criterion, scores.samples, scores.loss)
        return PassResult(program.without(GatedModule).knowing(scores), True, (told,))
