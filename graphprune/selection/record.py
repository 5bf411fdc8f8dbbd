"""What a selection is, and what is left once it is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from graphprune.costs.measures import MEASURES, Measure
from graphprune.costs.model import CostModel, costs_of
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.invariants import invariant
from graphprune.program.facts import Fact
from graphprune.program.program import Program


@dataclass(frozen=True)
class Selection(Fact):
    """Channels to keep.

    Attributes:
        keep: Bool, shape ``(channels,)``.
        bound: Groups that had to keep a channel which the ranking alone would have removed, and why.
        masks: Weights to keep, by parameter, bool, of its shape; parameters that are missing keep all.
    """

    provided_by: ClassVar[tuple[str, ...]] = (
        "select-channels", "select-weights", "select-jointly", "select-widths", "remove-dead-paths",
    )  # fmt: skip

    keep: Tensor
    bound: tuple[str, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict)


def weights_left(selected: Program) -> int:
    """Weights that are left and live once a selection is carried out."""
    selection = selected[Selection]
    return CostModel(selected.masked(selection.masks), selected[Dependencies]).weights(selection.keep)


def costs_under(selected: Program) -> dict[Measure, int]:
    """All costs of a program once its selection is carried out."""
    keep, costs = selected[Selection].keep, costs_of(selected)
    counted: dict[Measure, int] = {name: getattr(costs, name)(keep) for name in MEASURES if name != "weights"}
    return counted | {"weights": weights_left(selected)}


@invariant(Dependencies, Selection)
def selection_keeps_every_group(program: Program) -> list[str]:
    """A selection names every channel, and empties no group."""
    selection, dependencies = program.get(Selection), program.get(Dependencies)
    if selection is None or dependencies is None:
        return []
    keep = selection.keep
    if len(keep) != dependencies.channels:
        return [f"the selection has {len(keep)} channels of {dependencies.channels}"]
    return [
        f"group {group.id} ({group.name}) keeps no channel"
        for group, left in zip(dependencies.groups, dependencies.left_of_groups(keep), strict=True)
        if not left
    ]
