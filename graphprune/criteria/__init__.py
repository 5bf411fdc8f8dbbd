"""Criteria, which say how important each channel is: one file for each, registered in `CRITERIA` by name."""

from graphprune.criteria import elasticity, norm, random, taylor
from graphprune.criteria.as_given import Given, criterion_of
from graphprune.criteria.bn_gamma import BatchNormGamma
from graphprune.criteria.by_group import ByGroup
from graphprune.criteria.criterion import CRITERIA, Criterion, name_of
from graphprune.criteria.evenly import Evenly
from graphprune.criteria.fisher import Fisher
from graphprune.criteria.grasp import GraspOfChannels
from graphprune.criteria.per_cost import PerCost
from graphprune.criteria.sensitivity import Accumulate, Sensitivity
from graphprune.criteria.synflow import SynflowOfChannels
from graphprune.criteria.torch_pruning import TorchPruning

__all__ = [
    "CRITERIA", "Accumulate", "BatchNormGamma", "ByGroup", "Criterion", "Evenly", "Fisher", "Given", "GraspOfChannels",
    "PerCost", "Sensitivity", "SynflowOfChannels", "TorchPruning", "criterion_of", "elasticity", "name_of", "norm",
    "random", "taylor",
]  # fmt: skip
