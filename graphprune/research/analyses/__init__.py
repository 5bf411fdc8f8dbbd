"""Analyses of a network for studies. Each is a function that returns plain data; `drawing` makes figures of it."""

from graphprune.research.analyses.elasticities import Curve, ElasticityCurves, curves_of, elasticity_curves
from graphprune.research.analyses.remaining import Remaining, remaining
from graphprune.research.analyses.robustness import Robustness, robustness
from graphprune.research.analyses.saliency import SaliencyMaps, saliency_maps

__all__ = [
    "Curve", "ElasticityCurves", "Remaining", "Robustness", "SaliencyMaps", "curves_of", "elasticity_curves",
    "remaining", "robustness", "saliency_maps",
]  # fmt: skip
