"""Methods that train and prune: baselines of the SNIP-it paper, each to its own paper, and two controls."""

from __future__ import annotations

from graphprune.methods.baselines import Dense, RandomNodes, RandomWeights
from graphprune.methods.controls import Reinitialised, ShuffledMasks
from graphprune.methods.filter_norm import EfficientConvNets
from graphprune.methods.gate_decorators import GateDecorators
from graphprune.methods.group_hoyer_square import GroupHoyerSquare
from graphprune.methods.hoyer_square import HoyerSquare
from graphprune.methods.imp_global import ImpGlobal
from graphprune.methods.iterated import Iterated
from graphprune.methods.l0 import L0
from graphprune.methods.method import METHODS, Method, Trained

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
]
