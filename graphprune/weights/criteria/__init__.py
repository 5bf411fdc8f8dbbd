"""Criteria for single weights: how important each is. One file for each, entered in `WEIGHT_CRITERIA` by name."""

from graphprune.weights.criteria import elasticity, force, magnitude, random, synflow, taylor
from graphprune.weights.criteria.criterion import WEIGHT_CRITERIA, WeightCriterion, WeightScores, weight_scores_of
from graphprune.weights.criteria.grasp import Grasp

__all__ = [
    "WEIGHT_CRITERIA", "Grasp", "WeightCriterion", "WeightScores", "elasticity", "force", "magnitude", "random",
    "synflow", "taylor", "weight_scores_of",
]  # fmt: skip
