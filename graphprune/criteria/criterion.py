"""The protocol of a criterion, the registry of criteria, and the check of a criterion's result."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.errors import OptionError
from graphprune.gates.insertion import Gating
from graphprune.labels.dependencies import Dependencies
from graphprune.program.program import Program
from graphprune.registry import Registry


@runtime_checkable
class Criterion(Protocol):
    """Scores the channels of a program that has its dependencies."""

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores | Tensor:
        """Returns scores, or only the importances as a tensor of shape ``(channels,)``; does not change the program."""
        ...


@runtime_checkable
class ReadsGates(Protocol):
    """A criterion that reads gates, which a pass inserts before it."""

    def gating(self, sensitivity: Sensitivity) -> Gating | None:
        """The gates that it reads; None if it reads none after all."""
        ...


def gating_of(criterion: object, sensitivity: Sensitivity) -> Gating | None:
    """The gates that a criterion reads; None for one that reads none."""
    return criterion.gating(sensitivity) if isinstance(criterion, ReadsGates) else None


CRITERIA: Registry[Any] = Registry("criterion")
"""Criteria by name; anything that `graphprune.criteria.as_given.criterion_of` takes may be registered."""


def scores_of(criterion: Criterion, program: Program, sensitivity: Sensitivity) -> Scores:
    """Runs a criterion, and checks its result.

    Raises:
        OptionError: the result is not one finite number per channel.
    """
    found = criterion(program, sensitivity)
    expected = (program[Dependencies].channels,)
    if isinstance(found, Tensor):
        found = Scores(found.detach().cpu().double(), name_of(criterion))
    if not isinstance(found, Scores):
        raise OptionError(
            f"criterion {name_of(criterion)}: expected graphprune.scores.Scores or a tensor of shape {expected}, got "
            f"{type(found).__name__}"
        )
    if tuple(found.importance.shape) != expected:
        raise OptionError(
            f"criterion {found.criterion}: expected importances of shape {expected}, one for each channel, got "
            f"shape {tuple(found.importance.shape)}"
        )
    _check_finite(found, program[Dependencies])
    return found


def _check_finite(scores: Scores, dependencies: Dependencies) -> None:
    wrong = (~torch.isfinite(scores.importance)).nonzero().flatten()
    if len(wrong) == 0:
        return
    first = int(wrong[0])
    group = next(group for group in dependencies.groups if group.start <= first < group.stop)
    raise OptionError(
        f"criterion {scores.criterion}: expected finite importances, got {len(wrong)} of {len(scores.importance)} that "
        f"are not, the first ({float(scores.importance[first])}) in group {group.id} ({group.name})"
    )


def name_of(criterion: object) -> str:
    """The name of a criterion in reports."""
    name = getattr(criterion, "__name__", type(criterion).__name__)
    return str(name)
