"""Removes the same share of every group: channels are ranked within their own group, by any criterion."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphprune.criteria.as_given import Given, criterion_of
from graphprune.criteria.criterion import gating_of, name_of, scores_of
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.gates.insertion import Gating
from graphprune.labels.dependencies import Dependencies
from graphprune.program.program import Program


@dataclass(frozen=True)
class Evenly:
    """Ranks each channel by its place in its own group, so that all groups lose the same share.

    This is what tools with one ratio for all layers do. With a budget in latency or with ``align="auto"``, shares
    differ, because these places are weighed against what each group saves.

    Attributes:
        by: What `graphprune.compile` takes as ``criterion``.
    """

    by: Given = "l2-norm"
    __name__: str = field(init=False, default="evenly")

    def __post_init__(self) -> None:
        name = self.by if isinstance(self.by, str) else name_of(self.by)
        object.__setattr__(self, "__name__", f"{name}, evenly")

    def gating(self, sensitivity: Sensitivity) -> Gating | None:
        """The gates of the criterion that it ranks by."""
        return gating_of(criterion_of(self.by), sensitivity)

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Tensor:
        """Returns the place of each channel in its group as a share in (0, 1], float64, shape ``(channels,)``."""
        importance = scores_of(criterion_of(self.by), program, sensitivity).importance
        places = torch.empty_like(importance, dtype=torch.float64)
        for group in program[Dependencies].groups:
            order = importance[group.start : group.stop].argsort(stable=True)
            places[group.start + order] = torch.arange(1, group.channels + 1, dtype=torch.float64) / group.channels
        return places
