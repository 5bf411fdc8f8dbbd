"""Criteria for single weights, which say how important each is: one file for each, registered in `WEIGHT_CRITERIA`."""

from graphprune.criteria.scores import WeightScores
from graphprune.criteria.weights import elasticity, force, magnitude, random, synflow, taylor
from graphprune.criteria.weights.criterion import WEIGHT_CRITERIA, WeightCriterion, weight_scores_of
from graphprune.criteria.weights.grasp import Grasp

__all__ = [
    "WEIGHT_CRITERIA", "Grasp", "WeightCriterion", "WeightScores", "elasticity", "force", "magnitude", "random",
    "synflow", "taylor", "weight_scores_of",
]  # fmt: skip
