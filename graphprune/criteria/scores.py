"""The scores of channels and of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.invariants import invariant
from graphprune.program.facts import Fact
from graphprune.program.program import Program


@dataclass(frozen=True)
class Scores(Fact):
    """The importance of each channel, as a criterion found it.

    Attributes:
        importance: Float64, shape ``(channels,)``; the least important channels are removed first. It is negative only
            if removing a channel is a gain, as for GraSP.
        criterion: Name of the criterion.
        loss: Mean loss over the sensitivity samples; None for criteria that use no data.
        samples: Number of sensitivity samples.
        is_squared: Whether importances are squares of sensitivities, so that they add up over channels.
    """

    provided_by: ClassVar[tuple[str, ...]] = ("score-channels",)

    importance: Tensor
    criterion: str
    loss: float | None = None
    samples: int = 0
    is_squared: bool = False


def remark(criterion: str, samples: int, loss: float | None) -> str:
    """A remark on a scoring for the log: criterion, number of samples, and loss."""
    return f"{criterion}, {samples} samples" + ("" if loss is None else f", loss {loss:.4g}")


@dataclass(frozen=True)
class WeightScores(Fact):
    """The importance of each weight, as a criterion found it.

    Attributes:
        importance: Importance of the weights of the pool by name of the parameter, of its shape. The least important
            weights are removed first. It is negative only if removing a weight is a gain, as for GraSP. That of dead
            weights matters only if weights can come back.
        criterion: Name of the criterion.
        loss: Mean loss over the sensitivity samples; None for criteria that use no data.
        samples: Number of sensitivity samples.
    """

    provided_by: ClassVar[tuple[str, ...]] = ("score-weights",)

    importance: Mapping[str, Tensor]
    criterion: str
    loss: float | None = None
    samples: int = 0


@invariant(Dependencies, Scores)
def scores_match_channels(program: Program) -> list[str]:
    """Scores hold one finite importance per channel."""
    importance, channels = program[Scores].importance, program[Dependencies].channels
    if len(importance) != channels:
        return [f"{len(importance)} scores for {channels} channels"]
    return [] if bool(torch.isfinite(importance).all()) else ["scores are not finite"]
