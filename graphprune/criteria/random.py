"""Random importance: the baseline that every criterion has to beat."""

from __future__ import annotations

import torch

from graphprune.criteria.criterion import CRITERIA
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.labels.dependencies import Dependencies
from graphprune.program.program import Program


@CRITERIA.register("random")
def random(program: Program, sensitivity: Sensitivity) -> Scores:
    """Random importances, uniform in [0, 1), from the seed; a later round draws other numbers."""
    dependencies = program[Dependencies]
    generator = torch.Generator().manual_seed(sensitivity.seed + len(program.history.kept) + dependencies.channels)
    return Scores(torch.rand(dependencies.channels, generator=generator, dtype=torch.float64), "random")
