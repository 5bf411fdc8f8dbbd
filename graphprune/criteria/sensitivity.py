"""What a criterion may look at: samples, loss and options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch

from graphprune.criteria.samples import SampleStream
from graphprune.registry import check_name

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
            `graphprune.rounds.choice.samples_together`.
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
        """Fixes the samples of one draw, so that several criteria see the same ones."""
        batches = [(batch.inputs, batch.target) for batch in self.stream.draw(self.samples, device)]
        return replace(self, stream=SampleStream(batches, self.stream.example))


def check_accumulate(given: str) -> Accumulate:
    """The accumulation of that name.

    Raises:
        OptionError: there is none.
    """
    check_name("accumulate", given, get_args(Accumulate))
    return given  # type: ignore[return-value]
