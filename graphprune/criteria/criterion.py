"""The protocol of a criterion, what it may look at, and the check of what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from graphprune.coupling.dependencies import Dependencies
from graphprune.data import SampleStream
from graphprune.errors import OptionError
from graphprune.names import check_name
from graphprune.program import Program
from graphprune.registry import Registry
from graphprune.scores import Scores

Accumulate = Literal["signed", "absolute", "squared"]
"""How gate gradients of samples add up: as they are, by absolute value, or by square."""


@dataclass(frozen=True)
class Sensitivity:
    """Data and options for scoring.

    Attributes:
        stream: Source of sensitivity samples; each round draws new ones.
        loss: ``loss(output, target)``, a mean over the samples of a batch.
        samples: Samples to draw.
        accumulate: How samples add up.
        seed: For criteria that draw random numbers.
        together: Samples whose mean gradient in the weights counts as that of one, see
            `graphprune.granularity.samples_together`.
        warned: What was warned of already, for a later round need not repeat it.
    """

    stream: SampleStream
    loss: Callable[[Any, Any], Any]
    samples: int
    accumulate: Accumulate
    seed: int
    together: int = 1
    warned: set[str] = field(default_factory=set, repr=False, compare=False)

    def drawn(self, device: torch.device) -> Sensitivity:
        """The same with the samples of one draw, for several criteria that are to see the same ones."""
        batches = [(batch.inputs, batch.target) for batch in self.stream.draw(self.samples, device)]
        return replace(self, stream=SampleStream(batches, self.stream.example))


@runtime_checkable
class Criterion(Protocol):
    """Scores the channels of a program that has its dependencies."""

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores | Tensor:
        """Importance of each channel, alone as a tensor of shape ``(channels,)``; the program is not changed."""
        ...


CRITERIA: Registry[Any] = Registry("criterion")
"""Criteria by name; what `graphprune.criteria.given.criterion_of` takes may be registered."""


def scores_of(criterion: Criterion, program: Program, sensitivity: Sensitivity) -> Scores:
    """What a criterion gives, checked.

    Raises:
        OptionError: it is not one finite number per channel.
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
    """What a criterion is called in reports."""
    name = getattr(criterion, "__name__", type(criterion).__name__)
    return str(name)


def check_accumulate(given: str) -> Accumulate:
    """The accumulation of that name.

    Raises:
        OptionError: there is none.
    """
    check_name("accumulate", given, get_args(Accumulate))
    return given  # type: ignore[return-value]
