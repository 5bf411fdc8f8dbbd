"""Dead paths of a selection: how many there are, the selection without them, and one that has none to begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from graphprune.costs import weights_left
from graphprune.paths.connectivity import connected_masks, connectivity_of
from graphprune.program import Program
from graphprune.selection import Limits, Selection
from graphprune.weights.pool import Masks, live_of, pool_of
from graphprune.weights.selection import Ranks, held_back


@dataclass(frozen=True)
class DeadPaths:
    """What is left of a network and does nothing, for live weights that do not cancel.

    Attributes:
        weights: Live weights on no path from an input to an output.
        unreached: Channels that depend on no input: their values are constants, of biases.
        useless: Channels that no output depends on.
        outputs: Outputs of the network.
        cut: Outputs that depend on no input.
    """

    weights: int
    unreached: int
    useless: int
    outputs: int
    cut: int

    def __str__(self) -> str:
        """A line for a report."""
        reached = f"all {self.outputs} outputs are reached" if not self.cut else (
            f"{self.cut} of {self.outputs} outputs are cut off from every input"
        )  # fmt: skip
        return (
            f"{self.weights:,} live weights on no path, {self.unreached:,} channels reached by no input, "
            f"{self.useless:,} seen by no output; {reached}"
        )


def dead_paths_of(selected: Program) -> DeadPaths:
    """What a selection keeps that does nothing.

    Args:
        selected: With its dependencies and its selection, which is not carried out yet.
    """
    selection, masked = _masked(selected)
    found = connectivity_of(masked)
    on_paths = replace(selected, selection=replace(selection, masks=connected_masks(masked)))
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
        selected: With its dependencies and its selection.
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
        selected: With its dependencies, its selection, and its channels scored if they may go.
        limits: Of the channels; None where all of them stay.
    """
    selection, masked = _masked(selected)
    joined = connected_masks(masked)
    masks = {name: mask for name, mask in joined.items() if not bool(mask.all())}
    if limits is None:
        return replace(selection, masks=masks)
    assert selected.dependencies is not None and selected.scores is not None
    # a channel may be reached in one tensor and seen in another, and lose both with weights that are dead
    keep = selection.keep & connectivity_of(replace(masked, masks=joined)).alive
    importance = torch.where(selection.keep, selected.scores.importance.double(), float("-inf"))
    keep[held_back(selected.dependencies.groups, ~keep, importance, limits)] = True
    return replace(selection, keep=keep, masks=masks)


def select_on_paths(program: Program, allowed: int, choose: Callable[[int], Selection]) -> Selection:
    """The selection that has as many weights on paths as are allowed, besides dead ones, which are to be removed.

    What is dead makes room for the next in the ranking. There, one weight may join many dead ones to input and output
    at once and exceed the number; then less important ones on paths go instead, see `_trimmed`. How many have to be
    selected is guessed from a line between the two numbers known, and by halves every other time, down to `_NEAR`.

    Args:
        program: With its weights scored.
        allowed: Weights on paths that may stay, of the whole pool.
        choose: From a number of weights to the selection of so many.
    """
    ceiling, low, best, over = _can_stay(program), allowed, choose(allowed), None
    found = _on_paths(program, best)
    step, above, too_many, halve = allowed - found, ceiling + 1, 0, False
    while found < allowed and low < ceiling and above - low > max(1, allowed // _NEAR):
        if over is None:
            count = min(ceiling, low + step)
        elif halve:
            count = (low + above) // 2
        else:
            count = low + max(1, (above - low) * (allowed - found) // (too_many - found))
        selection = choose(count)
        on_paths = _on_paths(program, selection)
        halve = over is not None and not halve
        if on_paths > allowed:
            above, over, too_many = count, selection, on_paths
        else:
            low, best, found, step = count, selection, on_paths, 2 * step
    if found == allowed or over is None:
        return best
    trimmed = _trimmed(program, over, allowed)
    return trimmed if _on_paths(program, trimmed) > found else best


_NEAR = 1000
"""Share of the weights, one in so many, by which two selections differ when there is no use in a third in between."""

_TRIES = 200
"""Of removals while trimming; a few do where paths are many, and where every weight is the only way of another few
weights, this many are a fraction of a second for a network so small."""


def _trimmed(program: Program, selection: Selection, allowed: int) -> Selection:
    """A selection with more weights on paths than are allowed, without the least important ones.

    Those go, in their order, that leave as many as allowed on paths, so none that all paths lead through: of such, the
    more are passed over the more follow each other, for a narrow layer's are often all less important than the others.
    Where the number is not met in the end, the removal counts that leaves the most of fewer.
    """
    ranks = Ranks.of(program)
    row = ranks.row(_joined(program, selection))
    left, fewer, most = int(row.count_nonzero()), torch.zeros_like(row), 0
    order = ranks.own.where(row, float("inf")).argsort()[:left]
    place, chunk, skipped = 0, left - allowed, 1
    for _ in range(_TRIES):
        if left == allowed or place >= len(order):
            break
        without = row.clone()
        without[order[place : place + chunk]] = False
        joined = ranks.row(_joined(program, replace(selection, masks=ranks.masks(~without))))
        found = int(joined.count_nonzero())
        if found >= allowed:
            row, left, place, chunk, skipped = joined, found, place + chunk, min(2 * chunk, found - allowed), 1
            continue
        if found > most:
            fewer, most = joined, found
        if chunk == 1:
            place, skipped = place + skipped, 2 * skipped
        chunk = max(1, chunk // 2)
    return replace(selection, masks=ranks.masks(~row if left == allowed else ~fewer))


def _joined(program: Program, selection: Selection) -> Masks:
    return connected_masks(replace(program, masks=dict(selection.masks)))


def _on_paths(program: Program, selection: Selection) -> int:
    return sum(int(mask.count_nonzero()) for mask in _joined(program, selection).values())


def _can_stay(program: Program) -> int:
    """Weights of the pool that are live or can come back."""
    return sum(
        weight.numel() if name in program.dormant else int(live_of(program, name, weight).count_nonzero())
        for name, weight in pool_of(program).items()
    )


def _masked(selected: Program) -> tuple[Selection, Program]:
    """The selection, and the program with its masks as if they were carried out."""
    assert selected.selection is not None
    return selected.selection, replace(selected, masks=dict(selected.selection.masks))
