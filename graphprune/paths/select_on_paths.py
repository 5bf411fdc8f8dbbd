"""The selection that has as many weights on paths as a budget allows; dead ones are besides, and are to be removed."""

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
"""Share of the weights, one in so many, by which two selections differ when there is no use in a third in between."""

_TRIES = 100
"""Of removals while trimming; a few do where paths are many, and where every weight is the only way of another few
weights, this many are a fraction of a second for a network so small."""

_HALVINGS = 12
"""Halvings of the share that goes of each parameter: to a fortieth of a per cent."""


def select_on_paths(program: Program, allowed: int, choose: Callable[[int], Selection]) -> Selection:
    """The selection that has as many weights on paths as are allowed.

    What is dead makes room for the next in the ranking. There, one weight may join many dead ones to input and output
    at once and exceed the number; then less important ones on paths go instead, see `_trimmed`. Where the number
    cannot be met there are fewer, as many as were found.

    Args:
        program: The program, with its weights scored.
        allowed: Weights on paths that may stay, of the whole pool.
        choose: From a number of weights to the selection of so many.
    """
    fewer, found, more = _around(program, allowed, choose)
    if found == allowed or more is None:
        return fewer
    trimmed, count = _trimmed(program, more, allowed)
    return trimmed if count > found else fewer


def _around(
    program: Program, allowed: int, choose: Callable[[int], Selection]
) -> tuple[Selection, int, Selection | None]:
    """The selection with no more on paths than allowed, how many that are, and the one with more that comes next.

    Steps double until there are too many; then the number to select is guessed from a line between the two that are
    known and by halves in turns, for the number on paths rises in leaps.
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
    """The weights of the pool in one row, and what of them is on paths.

    Attributes:
        program: The program, with its weights scored.
        selection: Selection of the channels.
        ranks: Ranks of the weights.
    """

    program: Program
    selection: Selection
    ranks: Ranks

    def on_paths(self, live: Tensor) -> Tensor:
        """Those that are on paths if so many are live; both bool, shape ``(weights,)``."""
        return self.ranks.row(connected_masks(self.program.masked(self.ranks.masks(~live))))

    def selected(self, live: Tensor) -> Selection:
        """The selection of these."""
        return replace(self.selection, masks=self.ranks.masks(~live))


def _trimmed(program: Program, selection: Selection, allowed: int) -> tuple[Selection, int]:
    """A selection with more weights on paths than are allowed, without the least important ones; and how many are left.

    Those go, in their order, that leave as many as allowed on paths, so none that all paths lead through: of such, the
    more are passed over the more follow each other, for a narrow layer's are often all less important than the others.
    Where the number is not met in the end, the removal counts that leaves the most of fewer, be it one of these or the
    same share of each parameter.
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
    """Weights on paths without the least important of each parameter, the same share of each; no more than allowed.

    A ranking that has the whole of a narrow layer last cuts the network there; this does not.
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
    """Weights of the pool that are live or can come back."""
    return sum(
        weight.numel() if name in program.history.dormant else _count(live_of(program, name, weight))
        for name, weight in pool_of(program).items()
    )
