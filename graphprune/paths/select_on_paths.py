"""Finds the selection with as many weights on paths as a budget allows; dead ones are extra and removed later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphprune.costs.pool import live_of, pool_of
from graphprune.paths.connectivity import connected_masks
from graphprune.program.program import Program
from graphprune.selection.record import Selection
from graphprune.selection.weights import Ranks

_NEAR = 1000
"""The search ends when two selections differ by one in so many of the allowed weights, or by less."""

_TRIES = 100
"""Largest number of removals that trimming tries. A few are enough where there are many paths; a network in which a
weight is the only way to a few others is so small that this many take a fraction of a second."""

_HALVINGS = 12
"""Number of halvings of the share that is removed from each parameter: it is exact to a fortieth of a per cent."""


def select_on_paths(program: Program, allowed: int, choose: Callable[[int], Selection]) -> Selection:
    """Finds the selection with as many weights on paths as are allowed.

    Dead weights make room for the next in the ranking. The next weight may join many dead ones to input and output at
    once, so that there are too many; then less important weights on paths are removed instead, see `_trimmed`. If the
    number cannot be met, the selection has the largest smaller number that was found.

    Args:
        program: The program, with its weights scored.
        allowed: Number of weights of the whole pool that may stay on paths.
        choose: Function from a number of weights to the selection of that many.
    """
    fewer, found, more = _around(program, allowed, choose)
    if found == allowed or more is None:
        return fewer
    trimmed, count = _trimmed(program, more, allowed)
    return trimmed if count > found else fewer


def _around(
    program: Program, allowed: int, choose: Callable[[int], Selection]
) -> tuple[Selection, int, Selection | None]:
    """Finds two neighbouring selections, with at most and with more than the allowed number of weights on paths.

    Steps double until there are too many. Then the number to select comes from linear interpolation and from bisection
    in turns, because the number on paths rises in leaps.

    Returns:
        The selection with at most the allowed number, that number, and the other selection, if there is one.
    """
    ceiling, low, fewer, more = _can_stay(program), allowed, choose(allowed), None
    found, above, too_many = _on_paths(program, fewer), ceiling + 1, 0
    step, halve = allowed - found, False
    while found < allowed and low < ceiling and above - low > max(1, allowed // _NEAR):
        if more is None:
            count = min(ceiling, low + step)
        elif halve:
            count = (low + above) // 2
        else:
            count = low + max(1, (above - low) * (allowed - found) // (too_many - found))
        halve = more is not None and not halve
        selection = choose(count)
        on_paths = _on_paths(program, selection)
        if on_paths > allowed:
            above, more, too_many = count, selection, on_paths
        else:
            low, fewer, found, step = count, selection, on_paths, 2 * step
    return fewer, found, more


@dataclass(frozen=True, eq=False)
class _Pool:
    """The weights of the pool in one row, to find which of them are on paths.

    Attributes:
        program: The program, with its weights scored.
        selection: Selection of the channels.
        ranks: Ranks of the weights.
    """

    program: Program
    selection: Selection
    ranks: Ranks

    def on_paths(self, live: Tensor) -> Tensor:
        """Weights that are on paths if only those of ``live`` are live; both bool, shape ``(weights,)``."""
        return self.ranks.row(connected_masks(self.program.masked(self.ranks.masks(~live))))

    def selected(self, live: Tensor) -> Selection:
        """The selection that keeps the weights of ``live``, bool, shape ``(weights,)``."""
        return replace(self.selection, masks=self.ranks.masks(~live))


def _trimmed(program: Program, selection: Selection, allowed: int) -> tuple[Selection, int]:
    """Removes the least important weights from a selection with more weights on paths than are allowed.

    Weights are removed in order of importance as long as no fewer than the allowed number are left on paths, so a
    weight that all paths lead through is passed over. Each one in a row doubles how many are passed over, because the
    weights of a narrow layer are often all less important than the others. If the number is not met in the end, the
    result is the largest selection with fewer: one that was tried, or the one without the same share of each parameter.

    Returns:
        The selection, and its number of weights on paths.
    """
    pool = _Pool(program, selection, Ranks.of(program))
    live = pool.on_paths(pool.ranks.row(dict(selection.masks)))
    left, fewer = _count(live), torch.zeros_like(live)
    order = pool.ranks.own.where(live, float("inf")).argsort()[:left]
    place, chunk, skipped = 0, left - allowed, 1
    for _ in range(_TRIES):
        if left == allowed or place >= len(order):
            break
        without = live.clone()
        without[order[place : place + chunk]] = False
        joined = pool.on_paths(without)
        found = _count(joined)
        if found >= allowed:
            live, left, place, chunk, skipped = joined, found, place + chunk, min(2 * chunk, found - allowed), 1
            continue
        fewer = max(fewer, joined, key=_count)
        if chunk == 1:
            place, skipped = place + skipped, 2 * skipped
        chunk = max(1, chunk // 2)
    if left != allowed:
        live = max(fewer, _evenly(pool, live, allowed), key=_count)
    return pool.selected(live), _count(live)


def _evenly(pool: _Pool, live: Tensor, allowed: int) -> Tensor:
    """Removes the same share of each parameter's weights, the least important, until no more than allowed are on paths.

    A ranking in which a whole narrow layer comes last cuts the network there; this does not.
    """
    places, least, most, best = pool.ranks.places_within(live), 0.0, 1.0, torch.zeros_like(live)
    for _ in range(_HALVINGS):
        share = (least + most) / 2
        joined = pool.on_paths(live & (places > share))
        if _count(joined) > allowed:
            least = share
        else:
            most, best = share, max(best, joined, key=_count)
    return best


def _count(row: Tensor) -> int:
    return int(row.count_nonzero())


def _on_paths(program: Program, selection: Selection) -> int:
    return sum(map(_count, connected_masks(program.masked(selection.masks)).values()))


def _can_stay(program: Program) -> int:
    """Number of weights of the pool that are live or can come back."""
    return sum(
        weight.numel() if name in program.history.dormant else _count(live_of(program, name, weight))
        for name, weight in pool_of(program).items()
    )
