"""Scores the importance of every channel."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from graphprune.criteria.criterion import Criterion, Sensitivity
from graphprune.errors import OptionError
from graphprune.pass_protocol import Pass, PassResult
from graphprune.program import Program
from graphprune.scores import Scores

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
        scores = self.criterion(program, self.sensitivity)
        if not isinstance(scores, Scores):
            raise OptionError(f"criterion: expected graphprune.scores.Scores, got {type(scores).__name__}")
        expected = (program.dependencies.channels,)
        if tuple(scores.importance.shape) != expected or not bool(torch.isfinite(scores.importance).all()):
            raise OptionError(
                f"criterion {scores.criterion}: expected finite importances of shape {expected}, got shape "
                f"{tuple(scores.importance.shape)}"
            )
        if len(scores.importance.unique()) == 1 < program.dependencies.channels:
            log.warning("all %d channels have the same %s: their ranking is arbitrary", *expected, scores.criterion)
        loss = "" if scores.loss is None else f", loss {scores.loss:.4g}"
        remark = f"{scores.criterion}, {scores.samples} samples{loss}"
        return PassResult(replace(program, scores=scores), True, (remark,))
