"""The record of a selection, and what is left once it is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from graphprune.costs.measures import MEASURES, Measure
from graphprune.costs.model import CostModel, costs_of
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.pass_manager.invariants import invariant
from graphprune.program.facts import Fact
from graphprune.program.program import Program


@dataclass(frozen=True)
class Selection(Fact):
    """Channels and weights to keep.

    Attributes:
        keep: Channels to keep, bool, shape ``(channels,)``.
        bound: Groups that had to keep a channel that the ranking alone would have removed, and why.
        masks: Weights to keep, by parameter, bool, of its shape; a parameter without a mask keeps all.
    """

    provided_by: ClassVar[tuple[str, ...]] = (
        "select-channels", "select-weights", "select-jointly", "select-widths", "remove-dead-paths",
    )  # fmt: skip

    keep: Tensor
    bound: tuple[str, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict)


def keep_set_of(selected: Program) -> KeepSet:
    """The keep set of a program's selection."""
    return KeepSet.of(selected[Dependencies], selected[Selection].keep)


def weights_left(selected: Program) -> int:
    """Number of weights of the pool that are left and live once a selection is carried out."""
    masked, dependencies = selected.masked(selected[Selection].masks), selected[Dependencies]
    return CostModel(masked, dependencies).weights(keep_set_of(selected))


def costs_under(selected: Program) -> dict[Measure, int]:
    """All costs of a program once its selection is carried out."""
    keep, costs = keep_set_of(selected), costs_of(selected)
    counted: dict[Measure, int] = {name: getattr(costs, name)(keep) for name in MEASURES if name != "weights"}
    return counted | {"weights": weights_left(selected)}


@invariant(Dependencies, Selection)
def selection_keeps_every_group(program: Program) -> list[str]:
    """A selection names every channel, and empties no group."""
    keep, dependencies = program[Selection].keep, program[Dependencies]
    if len(keep) != dependencies.channels:
        return [f"the selection has {len(keep)} channels of {dependencies.channels}"]
    return [
        f"group {group.id} ({group.name}) keeps no channel"
        for group, left in zip(dependencies.groups, KeepSet.of(dependencies, keep).left_of_groups, strict=True)
        if not left
    ]
