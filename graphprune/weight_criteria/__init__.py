"""Criteria for single weights: how important each is. One file for each, entered in `WEIGHT_CRITERIA` by name."""

from graphprune.weight_criteria import elasticity
from graphprune.weight_criteria.criterion import WEIGHT_CRITERIA, WeightCriterion, WeightScores, weight_scores_of

__all__ = ["WEIGHT_CRITERIA", "WeightCriterion", "WeightScores", "elasticity", "weight_scores_of"]
