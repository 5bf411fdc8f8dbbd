"""Dead paths of a selection: how many there are, and the selection without them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from graphprune.criteria.scores import Scores
from graphprune.labels.dependencies import Dependencies
from graphprune.paths.connectivity import connected_masks, connectivity_of
from graphprune.program.program import Program
from graphprune.request.limits import Limits
from graphprune.selection.record import Selection, weights_left
from graphprune.selection.weights import held_back


@dataclass(frozen=True)
class DeadPaths:
    """What is left of a network and does nothing, for live weights that do not cancel.

    Attributes:
        weights: Live weights on no path from an input to an output.
        unreached: Channels that depend on no input: their values are constants, of biases.
        useless: Channels that no output depends on.
        outputs: Outputs of the network that rows of weights make.
        cut: Outputs that depend on no input.
    """

    weights: int
    unreached: int
    useless: int
    outputs: int
    cut: int

    def __str__(self) -> str:
        """A line for a report."""
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


def dead_paths_of(selected: Program) -> DeadPaths:
    """What a selection keeps that does nothing.

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
    """What is wrong with the number of weights that a selection keeps; nothing if it is the one that is allowed.

    Args:
        selected: A program with its dependencies and its selection.
        allowed: Weights that should stay, of the whole pool.
        on_paths: Whether those on paths alone count, of which fewer will do.
    """
    left = weights_left(selected)
    if on_paths:
        left -= dead_paths_of(selected).weights
    is_met = left <= allowed if on_paths else left == allowed
    return [] if is_met else [f"{left} weights left, {allowed} allowed"]


def without_dead_paths(selected: Program, limits: Limits | None) -> Selection:
    """The selection without weights on no path and without channels that are not between input and output.

    Of a group that floors or the alignment hold back the most important dead channels stay, without weights.

    Args:
        selected: A program with its dependencies, its selection, and its channels scored if they may go.
        limits: Limits of the channels; None where all of them stay.
    """
    selection, masked = _masked(selected)
    joined = connected_masks(masked)
    masks = {name: mask for name, mask in joined.items() if not bool(mask.all())}
    if limits is None:
        return replace(selection, masks=masks)
    # a channel may be reached in one tensor and seen in another, and lose both with weights that are dead
    keep = selection.keep & connectivity_of(masked.masked(joined)).alive
    importance = torch.where(selection.keep, selected[Scores].importance.double(), float("-inf"))
    keep[held_back(selected[Dependencies].groups, ~keep, importance, limits)] = True
    return replace(selection, keep=keep, masks=masks)


def _masked(selected: Program) -> tuple[Selection, Program]:
    """The selection, and the program with its masks as if they were carried out."""
    selection = selected[Selection]
    return selection, selected.masked(selection.masks)
