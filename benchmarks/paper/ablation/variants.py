"""The ways to rank: each way of accumulating gradients, with one choice at a time turned round, and baselines."""

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
        granularity: What goes.
        criterion: ``"elasticity"``, or a baseline by name.
        accumulate: How samples add up.
        training: Score with batch statistics and dropout.
        before: Gates come before normalisations.
        published: The published code's loss.
        schedule: Iterated (``"halving"``) or ``"one-shot"``.
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
        """All choices, those that are no defaults of the paper by name."""
        if self.criterion != "elasticity":
            return self.criterion
        turned = {
            "training mode": self.training, "gates before normalisation": self.before, "published loss": self.published,
        }  # fmt: skip
        return ", ".join([self.accumulate, self.schedule, *(name for name, is_so in turned.items() if is_so)])

    def ranking(self) -> Any:
        """The criterion as `graphprune.compile` takes it."""
        if self.criterion.endswith(", evenly"):
            return Evenly(self.criterion.removesuffix(", evenly"))
        if self.criterion == "elasticity" and (self.training or self.before):
            return Elasticity(self.training, self.before)
        return self.criterion


BASELINES: Mapping[Granularity, tuple[str, ...]] = {
    "channel": ("random", "random, evenly", "l1-norm", "l1-norm, evenly"), "weight": ("random", "magnitude"),
}  # fmt: skip


def variants(granularity: Granularity, schedule: str) -> list[Variant]:
    """Each way of accumulating as it is and with one choice turned round, then the baselines.

    Modes and gates are of channels; in training mode a gate before a normalisation has no gradient, so those two are
    not put together.
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
    if granularity == "channel":  # all that the published code does at once
        found.append(Variant(granularity, before=True, published=True, schedule=schedule))
    return found + [Variant(granularity, name, schedule=schedule) for name in BASELINES[granularity]]
