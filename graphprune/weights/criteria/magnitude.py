"""Magnitude of weights."""

from __future__ import annotations

from graphprune.criteria.criterion import Sensitivity
from graphprune.program import Program
from graphprune.weights.criteria.criterion import WEIGHT_CRITERIA, WeightScores
from graphprune.weights.pool import full_weights


@WEIGHT_CRITERIA.register("magnitude")
def magnitude(program: Program, sensitivity: Sensitivity) -> WeightScores:
    """|w|, ranked through all layers; needs no data.

    Source: Han et al. 2015, Learning both Weights and Connections, with one threshold for the whole network as in
        global iterative magnitude pruning (Frankle et al. 2020).
    """
    return WeightScores({name: weight.double().abs() for name, weight in full_weights(program).items()}, "magnitude")
