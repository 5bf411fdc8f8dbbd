"""Criteria: how important each channel is. One file for each, entered in `CRITERIA` by name."""

from graphprune.criteria import elasticity, norm, random
from graphprune.criteria.by_group import ByGroup
from graphprune.criteria.criterion import CRITERIA, Accumulate, Criterion, Sensitivity, name_of
from graphprune.criteria.evenly import Evenly
from graphprune.criteria.given import Given, criterion_of
from graphprune.criteria.torch_pruning import TorchPruning

__all__ = [
    "CRITERIA", "Accumulate", "ByGroup", "Criterion", "Evenly", "Given", "Sensitivity", "TorchPruning", "criterion_of",
    "elasticity", "name_of", "norm", "random",
]  # fmt: skip
