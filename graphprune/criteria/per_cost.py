"""Importance relative to cost: of equally important channels, those that save most are removed first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from graphprune.costs.measures import Measure
from graphprune.costs.model import costs_of
from graphprune.criteria.as_given import Given, criterion_of
from graphprune.criteria.criterion import CRITERIA, gating_of, name_of, scores_of
from graphprune.criteria.from_weights import put_last
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.errors import OptionError
from graphprune.gates.insertion import Gating
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.program.program import Program

_UNITS: dict[str, str] = {"macs": "mac", "params": "param"}


@dataclass(frozen=True)
class PerCost:
    """Divides the importance of each channel by what removing one channel of its group saves.

    Savings are those in the present program, counted anew in each round: the multiply-accumulates per sample, or the
    parameters, of the layers that make the channel and of those that read it. The criterion suits a budget of the same
    measure, as `Budget(macs=)` suits ``measure="macs"``. Channels that save nothing are removed last, with a warning.

    Source: the greedy rule for a knapsack. For MACs it resembles the regulariser of Molchanov et al. 2017 (Pruning
        Convolutional Neural Networks for Resource Efficient Inference), which subtracts the cost; a quotient needs no
        factor.

    Attributes:
        by: What `graphprune.compile` takes as ``criterion``; its importances must not be negative.
        measure: "macs" or "params".

    Raises:
        OptionError: the measure is another one.
    """

    by: Given = "elasticity"
    measure: Measure = "macs"
    __name__: str = field(init=False, default="per cost")

    def __post_init__(self) -> None:
        if self.measure not in _UNITS:
            raise OptionError(f"measure='{self.measure}': expected one of {', '.join(_UNITS)}")
        name = self.by if isinstance(self.by, str) else name_of(self.by)
        object.__setattr__(self, "__name__", f"{name}-per-{_UNITS[self.measure]}")

    def gating(self, sensitivity: Sensitivity) -> Gating | None:
        """The gates of the criterion whose importances it divides."""
        return gating_of(criterion_of(self.by), sensitivity)

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores:
        """Scores the channels: importance per multiply-accumulate or parameter, float64, shape ``(channels,)``.

        Raises:
            OptionError: an importance is negative, or no group saves anything.
        """
        dependencies = program[Dependencies]
        scores = scores_of(criterion_of(self.by), program, sensitivity)
        importance = scores.importance.double().clone()
        lowest = float(importance.min()) if len(importance) else 0.0
        if lowest < 0:
            raise OptionError(
                f"criterion {self.__name__}: the importances of {scores.criterion} go down to {lowest:.3g}; a quotient "
                "by cost has a meaning only for those that are not negative. Give another criterion as by="
            )
        savings = savings_of(program, self.measure)
        for group, saved in zip(dependencies.groups, savings, strict=True):
            importance[group.start : group.stop] /= max(saved, 1)
        unrated = [group for group, saved in zip(dependencies.groups, savings, strict=True) if saved <= 0]
        why = f"removing their channels saves no {self.measure}"
        put_last(importance, unrated, dependencies.groups, self.__name__, why, sensitivity.warned)
        return replace(scores, importance=importance, criterion=self.__name__)


def savings_of(program: Program, measure: Measure) -> list[int]:
    """MACs per sample, or parameters, that the program saves without one channel of a group, for each group."""
    dependencies, costs = program[Dependencies], costs_of(program)
    cost: Callable[[KeepSet], int] = getattr(costs, measure)
    everything = KeepSet.everything(dependencies)
    before = cost(everything)
    # all channels of a group have as many indices in the same members, so the first one stands for them
    return [before - cost(everything.without(slice(group.start, group.start + 1))) for group in dependencies.groups]


CRITERIA.register("elasticity-per-mac")(PerCost())
CRITERIA.register("elasticity-per-param")(PerCost(measure="params"))
