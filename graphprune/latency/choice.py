"""The choice of widths: the least squared elasticity lost for each millisecond of predicted latency gained."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphprune.costs.widths import Counts
from graphprune.labels.groups import Group
from graphprune.latency.model import LatencyModel

Enough = Callable[[Counts, float], bool]
"""Tells whether the channels of each group are few enough, and the predicted latency in milliseconds low enough."""

_ALIKE = 0.01
"""Relative difference below which two prices count as the same."""


@dataclass(frozen=True, order=True)
class Move:
    """A narrower width of a group; moves sort by price, and at the same price by the share that they remove.

    Attributes:
        price: Squared importance lost per millisecond gained.
        removed: Share of the group's channels that is gone then.
        index: Place of the group.
        count: Channels that it keeps.
    """

    price: float
    removed: float
    index: int
    count: int


@dataclass
class _Choice:
    """The widths while they are chosen; at first they are those of the present network."""

    model: LatencyModel
    groups: Sequence[Group]
    permitted: Sequence[NDArray[np.int64]]
    lost: Sequence[NDArray[np.float64]]
    counts: Counts
    ms: float = field(init=False)

    def __post_init__(self) -> None:
        self.ms = float(self.model.ms(self.counts))

    def gained(self, index: int, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Milliseconds that other widths of a group would save, one for each of the counts."""
        rows = np.repeat(self.counts[None], len(counts) + 1, axis=0)
        rows[1:, index] = counts
        ms = self.model.part_ms(index, rows)
        saved: NDArray[np.float64] = ms[0] - ms[1:]
        return saved

    def best_move(self, index: int) -> Move | None:
        """The best move to any narrower width of a group, as a single step may gain nothing; None if no move gains."""
        counts = self.permitted[index]
        counts = counts[counts < self.counts[index]]
        if not len(counts):
            return None
        gained = self.gained(index, counts)
        lost = self.lost[index][counts] - self.lost[index][self.counts[index]]
        with np.errstate(divide="ignore", invalid="ignore"):
            price = np.where(gained > 0, lost / gained, np.inf)
        best = float(price.min())
        if np.isinf(best):
            return None
        # takes the widest of those with about the same price, so that all groups shrink evenly
        count = int(counts[price <= best + _ALIKE * abs(best)].max())
        return Move(best, 1 - count / self.groups[index].channels, index, count)

    def set(self, index: int, count: int) -> None:
        """Sets the width of a group."""
        self.counts, self.ms = self.with_count(index, count)

    def narrow(self, is_enough: Enough) -> tuple[int, int] | None:
        """Makes the best moves until the widths are enough or no move is left.

        The gains of one group fall as others shrink, so a price that was found earlier is a lower bound, and only the
        best move has to be priced again. (Prices below 0, of channels that are better removed, fall too; they come
        first in any order.)

        Returns:
            The group of the last move and its width before; None if there was no move.
        """
        moves = [self.best_move(index) for index in range(len(self.groups))]
        queue = [move for move in moves if move is not None]
        heapq.heapify(queue)
        last: tuple[int, int] | None = None
        while queue and not is_enough(self.counts, self.ms):
            found = heapq.heappop(queue)
            move = self.best_move(found.index)
            if move is not None and (not queue or move <= queue[0]):
                last = move.index, int(self.counts[move.index])
                self.set(move.index, move.count)
                move = self.best_move(found.index)
            if move is not None:
                heapq.heappush(queue, move)
        return last

    def replace_last(self, last: tuple[int, int], is_enough: Enough) -> None:
        """Replaces the last move by the one that loses least, among all that are enough after the earlier moves."""
        index, count = last
        taken = self.counts[index]
        self.set(index, count)
        best = self.lost[index][taken] - self.lost[index][count], index, int(taken)
        for other, permitted in enumerate(self.permitted):
            narrower = permitted[permitted < self.counts[other]]
            lost = self.lost[other][narrower] - self.lost[other][self.counts[other]]
            narrower = narrower[lost < best[0]]
            # the widths ascend, and those that are enough come first
            fit = bisect_left(narrower, True, key=lambda count: not is_enough(*self.with_count(other, int(count))))
            if fit:
                widest = int(narrower[fit - 1])
                best = self.lost[other][widest] - self.lost[other][self.counts[other]], other, widest
        self.set(*best[1:])

    def with_count(self, index: int, count: int) -> tuple[Counts, float]:
        """The counts, and the predicted latency in milliseconds, with another width of a group."""
        counts = self.counts.copy()
        counts[index] = count
        return counts, self.ms - float(self.gained(index, np.array([count]))[0])

    def widen(self, is_enough: Enough) -> None:
        """Gives back what the moves took in excess: the most important step that fits, as often as one fits."""
        narrow = {index for index, group in enumerate(self.groups) if self.counts[index] < group.channels}
        while narrow:
            index = max(sorted(narrow), key=self.regained)
            count = self.next_wider(index)
            if self.regained(index) < 0 or not is_enough(*self.with_count(index, count)):
                narrow.remove(index)  # it will not fit later either, when other groups are wider
                continue
            self.set(index, count)
            if count == self.groups[index].channels:
                narrow.remove(index)

    def regained(self, index: int) -> float:
        """Squared importance that the next wider width of a group brings back."""
        return float(self.lost[index][self.counts[index]] - self.lost[index][self.next_wider(index)])

    def next_wider(self, index: int) -> int:
        """The next wider width of a group that is permitted."""
        wider = self.permitted[index][self.permitted[index] > self.counts[index]]
        return int(wider.min()) if len(wider) else self.groups[index].channels


def choose_widths(
    model: LatencyModel,
    importance: Tensor,
    is_enough: Enough,
    permitted: Sequence[Sequence[int]],
    *,
    at_least: bool = True,
) -> Counts:
    """Chooses how many channels each group keeps.

    The choice is greedy: the group whose narrower width costs the least squared importance for the latency that it
    gains is narrowed, until the widths are enough.

    Args:
        model: Predicts latency.
        importance: Importance of each channel, shape ``(channels,)``; its squares add up.
        is_enough: Tells by the channels of each group, and by the predicted latency in milliseconds; what is enough
            stays so when groups are narrower.
        permitted: For each group the numbers of channels that it may keep besides all.
        at_least: Stop where it is enough; otherwise before.

    Returns:
        Number of channels of each group; where this is not enough, no permitted move gains anything more.
    """
    groups = model.dependencies.groups
    choice = _Choice(
        model, groups, [np.array(sorted(counts), dtype=np.int64) for counts in permitted],
        [_lost(importance[group.start : group.stop]) for group in groups], model.full,
    )  # fmt: skip
    last = choice.narrow(is_enough)
    if not is_enough(choice.counts, choice.ms):
        return choice.counts
    if last is not None and not at_least:
        choice.set(*last)
    elif last is not None:
        choice.replace_last(last, is_enough)
        choice.widen(is_enough)
    return choice.counts


def _lost(importance: Tensor) -> NDArray[np.float64]:
    """Importance lost when only the most important channels stay, by their number, shape ``(channels + 1,)``.

    The squares of the other channels' importances add up. First-order sensitivities do not add up to a change of the
    loss once many channels go. Their squares estimate it to second order, with the diagonal of the Fisher matrix (Theis
    et al. 2018), and spare narrow layers whose few channels matter much. Where a negative importance says that a
    channel is better removed than kept, the square keeps that sign.
    """
    importance = importance.double()
    ascending = (importance * importance.abs()).sort().values
    lost: NDArray[np.float64] = torch.cat([torch.zeros(1, dtype=torch.float64), ascending.cumsum(0)]).flip(0).numpy()
    return lost


@dataclass(frozen=True)
class Keeping:
    """Makes keep sets with the most important channels of each group.

    Attributes:
        places: Place of each channel in its group by importance, 0 for the most important, shape ``(channels,)``.
        channels: Channels of each group, shape ``(groups,)``.
    """

    places: Tensor
    channels: Tensor

    @classmethod
    def of(cls, groups: Sequence[Group], importance: Tensor) -> Keeping:
        """Ranks channels by their importance, shape ``(channels,)``."""
        places = torch.empty(len(importance), dtype=torch.long)
        for group in groups:
            order = torch.argsort(importance[group.start : group.stop], descending=True, stable=True)
            places[group.start + order] = torch.arange(group.channels)
        return cls(places, torch.tensor([group.channels for group in groups]))

    def keep(self, counts: Counts) -> Tensor:
        """Returns the keep set with so many channels of each group, bool, shape ``(channels,)``."""
        return self.places < torch.from_numpy(counts).repeat_interleave(self.channels)
