"""The protocol of a criterion for single weights, their registry, and the check of a criterion's result."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from graphprune.costs.pool import pool_of
from graphprune.criteria.criterion import name_of
from graphprune.criteria.scores import WeightScores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.errors import OptionError
from graphprune.program.program import Program
from graphprune.registry import Registry


@runtime_checkable
class WeightCriterion(Protocol):
    """Scores the weights of a program that has its dependencies: those of `graphprune.costs.pool.pool_of`."""

    def __call__(self, program: Program, sensitivity: Sensitivity) -> WeightScores:
        """Returns importances by parameter; does not change the program."""
        ...


WEIGHT_CRITERIA: Registry[WeightCriterion] = Registry("criterion for weights")


def weight_scores_of(criterion: WeightCriterion, program: Program, sensitivity: Sensitivity) -> WeightScores:
    """Runs a criterion, and checks its result.

    Raises:
        OptionError: the result is not one finite number per weight.
    """
    found = criterion(program, sensitivity)
    if not isinstance(found, WeightScores):
        raise OptionError(
            f"criterion {name_of(criterion)}: expected graphprune.weights.criteria.WeightScores, got "
            f"{type(found).__name__}"
        )
    problems = []
    for name, weight in pool_of(program).items():
        given = found.importance.get(name)
        if given is None or given.shape != weight.shape:
            got = "nothing" if given is None else f"shape {tuple(given.shape)}"
            problems.append(f"{name}: expected importances of shape {tuple(weight.shape)}, got {got}")
        elif not bool(torch.isfinite(given).all()):
            problems.append(f"{name}: expected finite importances")
    if problems:
        raise OptionError(f"criterion {found.criterion}:\n  " + "\n  ".join(problems))
    return found
