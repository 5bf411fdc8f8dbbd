"""The data and options that a criterion may use: samples, loss, and how samples add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch

from graphprune.criteria.samples import SampleStream
from graphprune.registry import check_name

Accumulate = Literal["signed", "absolute", "squared"]
"""How the gradients of samples add up: as they are, by absolute value, or by square."""


@dataclass(frozen=True)
class Sensitivity:
    """Data and options for scoring.

    Attributes:
        stream: Source of sensitivity samples; each round draws new ones.
        loss: ``loss(output, target)``, a mean over the samples of a batch.
        samples: Number of samples to draw.
        accumulate: How the gradients of samples add up.
        seed: Seed for criteria that draw random numbers.
        together: Number of samples whose mean gradient with respect to the weights counts as that of one sample, see
            `graphprune.rounds.choice.samples_together`.
        warned: Warnings that have been given already, so that a later round does not repeat them.
    """

    stream: SampleStream
    loss: Callable[[Any, Any], Any]
    samples: int
    accumulate: Accumulate
    seed: int
    together: int = 1
    warned: set[str] = field(default_factory=set, repr=False, compare=False)

    def drawn(self, device: torch.device) -> Sensitivity:
        """Fixes the samples of one draw, so that several criteria see the same ones."""
        batches = [(batch.inputs, batch.target) for batch in self.stream.draw(self.samples, device)]
        return replace(self, stream=SampleStream(batches, self.stream.example))


def check_accumulate(given: str) -> Accumulate:
    """Returns the name of an accumulation, checked.

    Raises:
        OptionError: there is no accumulation of that name.
    """
    check_name("accumulate", given, get_args(Accumulate))
    return given  # type: ignore[return-value]
