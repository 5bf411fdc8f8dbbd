"""Criteria for single weights: how important each is. One file for each, entered in `WEIGHT_CRITERIA` by name."""

from graphprune.weight_criteria import elasticity, force, magnitude, random, synflow, taylor
from graphprune.weight_criteria.criterion import WEIGHT_CRITERIA, WeightCriterion, WeightScores, weight_scores_of
from graphprune.weight_criteria.grasp import Grasp

__all__ = [
    "WEIGHT_CRITERIA", "Grasp", "WeightCriterion", "WeightScores", "elasticity", "force", "magnitude", "random",
    "synflow", "taylor", "weight_scores_of",
]  # fmt: skip
