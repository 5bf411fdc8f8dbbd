"""Magnitude of weights."""

from __future__ import annotations

from graphprune.costs.pool import full_weights
from graphprune.criteria.scores import WeightScores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.criteria.weights.criterion import WEIGHT_CRITERIA
from graphprune.program.program import Program


@WEIGHT_CRITERIA.register("magnitude")
def magnitude(program: Program, sensitivity: Sensitivity) -> WeightScores:
    """|w|, ranked over all layers; needs no data.

    Source: Han et al. 2015, Learning both Weights and Connections, with one threshold for the whole network as in
        global iterative magnitude pruning (Frankle et al. 2020).
    """
    return WeightScores({name: weight.double().abs() for name, weight in full_weights(program).items()}, "magnitude")
