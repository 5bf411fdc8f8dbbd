"""Importance of each channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graphprune.program import Fact


@dataclass(frozen=True)
class Scores(Fact):
    """What a criterion found.

    Attributes:
        importance: Float64, shape ``(channels,)``; the least important channels go first. Below 0 only where removing a
            channel is a gain, as for GraSP.
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
    """What a reader of the log should know of a scoring."""
    return f"{criterion}, {samples} samples" + ("" if loss is None else f", loss {loss:.4g}")
