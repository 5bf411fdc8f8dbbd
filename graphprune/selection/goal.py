"""The costs that a selection has to meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from torch import Tensor

from graphprune.costs.measures import Measure
from graphprune.costs.model import CostModel
from graphprune.labels.keep_set import KeepSet
from graphprune.request.budget import Budget


@dataclass(frozen=True)
class Goal:
    """The largest permitted cost of each measure."""

    limits: dict[Measure, int]

    @classmethod
    def of(cls, budget: Budget, original: Mapping[Measure, int]) -> Goal:
        """Converts shares of the original costs; limits of channels are rounded to the nearest, others down."""
        limits: dict[Measure, int] = {}
        for name, share in budget.shares().items():
            # the simple fraction that the user means, because in floats 1000 * (1 - 0.9) is less than 100
            exact = original[name] * Fraction(share).limit_denominator(10**9)
            limits[name] = original[name] - (round(exact) if name == "channels" else ceil(exact))
        return cls(limits)

    def is_met(self, costs: CostModel, channels: Tensor) -> bool:
        """Whether every cost is within its limit when some channels stay, bool, shape ``(channels,)``."""
        keep = KeepSet.of(costs.dependencies, channels)
        return self.allows({name: getattr(costs, name)(keep) for name in self.limits})

    def allows(self, costs: Mapping[Measure, int]) -> bool:
        """Whether every cost, given by measure, is within its limit."""
        return all(costs[name] <= limit for name, limit in self.limits.items())
