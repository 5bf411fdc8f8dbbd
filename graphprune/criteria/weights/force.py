"""FORCE: elasticity, with weights that may come back."""

from __future__ import annotations

from graphprune.criteria.weights.criterion import WEIGHT_CRITERIA
from graphprune.criteria.weights.elasticity import elasticity

force = WEIGHT_CRITERIA.register("force")(elasticity)
"""Scores as "elasticity" does; for FORCE, set ``resurrect=True``, a geometric schedule and ``accumulate="signed"``.

Source: de Jorge et al. 2021, Progressive Skeletonization: |w dL/dw| with the gradient of the pruned network and the
    weight's value before pruning; a pruned weight takes part in each later ranking. Without ``resurrect=True`` dead
    weights are not ranked, which is iterative SNIP.
"""
