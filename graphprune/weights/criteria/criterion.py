"""The protocol of a criterion for single weights, and the check of what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from graphprune.criteria.criterion import Sensitivity, name_of
from graphprune.errors import OptionError
from graphprune.program import Fact, Program
from graphprune.registry import Registry
from graphprune.weights.pool import pool_of


@dataclass(frozen=True)
class WeightScores(Fact):
    """What a criterion found.

    Attributes:
        importance: Of each weight of the pool, of the parameter's shape; the least important go first. Below 0 only
            where removing a weight is a gain, as for GraSP. Those of dead weights matter only where weights can come
            back.
        criterion: Name of the criterion.
        loss: Mean loss over the sensitivity samples; None for criteria that use no data.
        samples: Number of sensitivity samples.
    """

    provided_by: ClassVar[tuple[str, ...]] = ("score-weights",)

    importance: Mapping[str, Tensor]
    criterion: str
    loss: float | None = None
    samples: int = 0


@runtime_checkable
class WeightCriterion(Protocol):
    """Scores the weights of a program that has its dependencies: those of `graphprune.weights.pool.pool_of`."""

    def __call__(self, program: Program, sensitivity: Sensitivity) -> WeightScores:
        """Importances by parameter; the program is not changed."""
        ...


WEIGHT_CRITERIA: Registry[WeightCriterion] = Registry("criterion for weights")


def weight_scores_of(criterion: WeightCriterion, program: Program, sensitivity: Sensitivity) -> WeightScores:
    """What a criterion gives, checked.

    Raises:
        OptionError: it is not one finite number per weight.
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
