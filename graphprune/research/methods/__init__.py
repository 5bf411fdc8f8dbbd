"""Methods that train and prune: those that the SNIP-it paper compares, each after its own paper, and two controls."""

from __future__ import annotations

from graphprune.research.methods.baselines import Dense, RandomNodes, RandomWeights
from graphprune.research.methods.controls import Reinitialised, ShuffledMasks
from graphprune.research.methods.filter_norm import EfficientConvNets
from graphprune.research.methods.gate_decorators import GateDecorators
from graphprune.research.methods.group_hoyer_square import GroupHoyerSquare
from graphprune.research.methods.hoyer_square import HoyerSquare
from graphprune.research.methods.imp_global import ImpGlobal
from graphprune.research.methods.iterated import Iterated, published_loss
from graphprune.research.methods.l0 import L0
from graphprune.research.methods.method import METHODS, Method, Trained

__all__ = [
    "L0",
    "METHODS",
    "Dense",
    "EfficientConvNets",
    "GateDecorators",
    "GroupHoyerSquare",
    "HoyerSquare",
    "ImpGlobal",
    "Iterated",
    "Method",
    "RandomNodes",
    "RandomWeights",
    "Reinitialised",
    "ShuffledMasks",
    "Trained",
    "published_loss",
]
