"""Random importance of weights: the baseline that every criterion has to beat."""

from __future__ import annotations

import torch

from graphprune.costs.pool import live_of, pool_of
from graphprune.criteria.scores import WeightScores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.criteria.weights.criterion import WEIGHT_CRITERIA
from graphprune.program.program import Program


@WEIGHT_CRITERIA.register("random")
def random(program: Program, sensitivity: Sensitivity) -> WeightScores:
    """Random importances, uniform in [0, 1), from the seed; a later round has fewer live weights, so draws others."""
    pool = pool_of(program)
    live = sum(int(live_of(program, name, weight).sum()) for name, weight in pool.items())
    generator = torch.Generator().manual_seed(sensitivity.seed + live)
    importance = {
        name: torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
        for name, weight in pool.items()
    }
    return WeightScores(importance, "random")
