"""The variants of ranking: each way to accumulate gradients, with at most one other choice changed, and baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from graphprune.criteria.elasticity import Elasticity
from graphprune.criteria.evenly import Evenly

Granularity = Literal["channel", "weight"]


@dataclass(frozen=True)
class Variant:
    """One way to rank.

    Attributes:
        granularity: What is removed, channels or weights.
        criterion: ``"elasticity"``, or the name of a baseline.
        accumulate: How samples add up, see `graphprune.compile`.
        training: Whether to score with batch statistics and dropout.
        before: Whether gates come before normalisations.
        published: Whether to score with the published code's loss.
        schedule: Schedule, iterated (``"halving"``) or ``"one-shot"``.
    """

    granularity: Granularity
    criterion: str = "elasticity"
    accumulate: str = "signed"
    training: bool = False
    before: bool = False
    published: bool = False
    schedule: str = "halving"

    @property
    def name(self) -> str:
        """Name with the accumulation, the schedule and all changes from the paper; for a baseline, its own name."""
        if self.criterion != "elasticity":
            return self.criterion
        turned = {
            "training mode": self.training, "gates before normalisation": self.before, "published loss": self.published,
        }  # fmt: skip
        return ", ".join([self.accumulate, self.schedule, *(name for name, is_so in turned.items() if is_so)])

    def ranking(self) -> Any:
        """Returns the criterion as `graphprune.compile` takes it."""
        if self.criterion.endswith(", evenly"):
            return Evenly(self.criterion.removesuffix(", evenly"))
        if self.criterion == "elasticity" and (self.training or self.before):
            return Elasticity(self.training, self.before)
        return self.criterion


BASELINES: Mapping[Granularity, tuple[str, ...]] = {
    "channel": ("random", "random, evenly", "l1-norm", "l1-norm, evenly"), "weight": ("random", "magnitude"),
}  # fmt: skip


def variants(granularity: Granularity, schedule: str) -> list[Variant]:
    """Returns each way to accumulate, alone and with one other choice changed, then the baselines.

    The mode and the place of gates are changed for channels only. The two changes are not combined, because in training
    mode a gate before a normalisation has no gradient.
    """
    other = "one-shot" if schedule == "halving" else "halving"
    turns: list[dict[str, Any]] = [{}, {"published": True}, {"schedule": other}]
    if granularity == "channel":
        turns += [{"training": True}, {"before": True}]
    found = [
        Variant(granularity, **({"accumulate": accumulate, "schedule": schedule} | turned))
        for accumulate in ("signed", "absolute", "squared")
        for turned in turns
    ]
    if granularity == "channel":  # the published code's differences from the paper, all at once
        found.append(Variant(granularity, before=True, published=True, schedule=schedule))
    return found + [Variant(granularity, name, schedule=schedule) for name in BASELINES[granularity]]
