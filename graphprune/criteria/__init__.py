"""Criteria: how important each channel is. One file for each, entered in `CRITERIA` by name."""

from graphprune.criteria import elasticity, norm, random
from graphprune.criteria.criterion import CRITERIA, Criterion, Sensitivity, criterion_of

__all__ = ["CRITERIA", "Criterion", "Sensitivity", "criterion_of", "elasticity", "norm", "random"]
