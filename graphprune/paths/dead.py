"""Counts the dead paths of a selection, and removes them from it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from graphprune.criteria.scores import Scores
from graphprune.labels.dependencies import Dependencies
from graphprune.paths.connectivity import connected_masks, connectivity_of
from graphprune.program.program import Program
from graphprune.request.limits import Limits
from graphprune.selection.record import Selection, weights_left
from graphprune.selection.weights import held_back

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeadPaths:
    """Counts of what is left of a network but does nothing, provided that live weights do not cancel.

    Attributes:
        weights: Number of live weights on no path from an input to an output.
        unreached: Number of channels that depend on no input; their values are constants that come from biases.
        useless: Number of channels that no output depends on.
        outputs: Number of outputs of the network that rows of weights make.
        cut: Number of these outputs that depend on no input.
    """

    weights: int
    unreached: int
    useless: int
    outputs: int
    cut: int

    def __str__(self) -> str:
        """The counts in one line for a report."""
        return (
            f"{self.weights:,} live weights on no path, {self.unreached:,} channels reached by no input, "
            f"{self.useless:,} seen by no output; {self._reached()}"
        )

    def _reached(self) -> str:
        if not self.outputs:
            return "what leaves the network is not made by rows of weights alone, and was not looked at"
        if self.cut:
            return f"{self.cut} of {self.outputs} outputs are cut off from every input"
        return f"all {self.outputs} outputs are reached"

    def warn(self, number: int, model: str, earlier: Iterable[DeadPaths | None]) -> None:
        """Warns if an output is newly cut off from every input.

        Args:
            number: Number of the round, from 1.
            model: Class name of the user's model.
            earlier: What earlier rounds found.
        """
        known = max((found.cut for found in earlier if found is not None), default=0)
        if self.cut > known:
            log.warning(
                "round %d: %d of %d outputs of %s are cut off from every input and constant; ask for less, or for "
                "smaller steps (schedule), or protect the layer that is cut", number, self.cut, self.outputs, model,
            )  # fmt: skip


def dead_paths_of(selected: Program) -> DeadPaths:
    """Counts what a selection keeps although it does nothing.

    Args:
        selected: A program with its dependencies and its selection, which is not carried out yet.
    """
    selection, masked = _masked(selected)
    found = connectivity_of(masked)
    on_paths = selected.knowing(replace(selection, masks=connected_masks(masked)))
    return DeadPaths(
        weights_left(selected) - weights_left(on_paths),
        int((selection.keep & ~found.reached).sum()),
        int((selection.keep & ~found.useful).sum()),
        found.outputs,
        found.cut_outputs,
    )


def wrong_number(selected: Program, allowed: int, *, on_paths: bool) -> list[str]:
    """Says what is wrong with the number of weights that a selection keeps; empty if the number is right.

    Args:
        selected: A program with its dependencies and its selection.
        allowed: Number of weights of the whole pool that should stay.
        on_paths: Whether only weights on paths count; fewer than ``allowed`` are right then, too.
    """
    left = weights_left(selected)
    if on_paths:
        left -= dead_paths_of(selected).weights
    is_met = left <= allowed if on_paths else left == allowed
    return [] if is_met else [f"{left} weights left, {allowed} allowed"]


def without_dead_paths(selected: Program, limits: Limits | None) -> Selection:
    """Removes weights on no path, and channels that are not between input and output, from the selection.

    If a floor or the alignment requires a group to keep dead channels, the most important of them stay, without
    weights.

    Args:
        selected: A program with its dependencies, its selection, and its channels scored if they may be removed.
        limits: Limits of the channels; None if all of them stay.
    """
    selection, masked = _masked(selected)
    joined = connected_masks(masked)
    masks = {name: mask for name, mask in joined.items() if not bool(mask.all())}
    if limits is None:
        return replace(selection, masks=masks)
    # a channel may be reached in one tensor and useful in another, and become neither once dead weights are removed
    keep = selection.keep & connectivity_of(masked.masked(joined)).alive
    importance = torch.where(selection.keep, selected[Scores].importance.double(), float("-inf"))
    keep[held_back(selected[Dependencies].groups, ~keep, importance, limits)] = True
    return replace(selection, keep=keep, masks=masks)


def _masked(selected: Program) -> tuple[Selection, Program]:
    """The selection, and the program with the selection's masks, as if they were carried out."""
    selection = selected[Selection]
    return selection, selected.masked(selection.masks)
