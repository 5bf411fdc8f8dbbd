"""The protocol of a criterion, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from graphprune.data import SampleStream
from graphprune.errors import OptionError
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
    """

    stream: SampleStream
    loss: Callable[[Any, Any], Any]
    samples: int
    accumulate: Accumulate
    seed: int


@runtime_checkable
class Criterion(Protocol):
    """Scores the channels of a program that has its dependencies."""

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores:
        """Importance of each channel; the program is not changed."""
        ...


CRITERIA: Registry[Criterion] = Registry("criterion")


def criterion_of(given: object) -> Criterion:
    """A criterion by name, or the object itself.

    Raises:
        OptionError: the name is unknown, or the object cannot be called.
    """
    if isinstance(given, str):
        return CRITERIA[given]
    if not callable(given) or isinstance(given, type):
        raise OptionError(f"criterion: expected a name or a callable, got {type(given).__name__}")
    return given


def check_accumulate(given: str) -> Accumulate:
    """The accumulation of that name.

    Raises:
        OptionError: there is none.
    """
    if given not in get_args(Accumulate):
        raise OptionError(f"accumulate='{given}' is unknown; known are {', '.join(get_args(Accumulate))}")
    return given  # type: ignore[return-value]
