"""Which widths to take so that a predicted latency is met: the least elasticity lost for each microsecond gained."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphprune.errors import BudgetError
from graphprune.groups import Group
from graphprune.latency.model import LatencyModel
from graphprune.widths import Counts

_ALIKE = 0.01
"""Prices that differ by less count as the same."""


@dataclass(frozen=True, order=True)
class Move:
    """A narrower width of a group; the best come first, of equally good ones those that remove the smallest share.

    Attributes:
        price: Importance lost per millisecond gained.
        removed: Share of the group's channels that is gone then.
        index: Of the group.
        count: Channels that it keeps.
    """

    price: float
    removed: float
    index: int
    count: int


@dataclass
class _Choice:
    """Widths while they are chosen, dense at first."""

    model: LatencyModel
    groups: Sequence[Group]
    permitted: Sequence[NDArray[np.int64]]
    lost: Sequence[NDArray[np.float64]]
    counts: Counts
    ms: float = field(init=False)

    def __post_init__(self) -> None:
        self.ms = float(self.model.ms(self.counts))

    def best_move(self, index: int) -> Move | None:
        """The best of all narrower widths of a group, for one step alone may gain nothing; None where none does."""
        counts = self.permitted[index]
        counts = counts[counts < self.counts[index]]
        if not len(counts):
            return None
        candidates = np.repeat(self.counts[None], len(counts), axis=0)
        candidates[:, index] = counts
        gained = self.ms - self.model.ms(candidates)
        lost = self.lost[index][counts] - self.lost[index][self.counts[index]]
        with np.errstate(divide="ignore", invalid="ignore"):
            price = np.where(gained > 0, lost / gained, np.inf)
        best = float(price.min())
        if np.isinf(best):
            return None
        # of those that cost about the same the nearest width, so that all groups shrink evenly
        count = int(counts[price <= best * (1 + _ALIKE)].max())
        return Move(best, 1 - count / self.groups[index].channels, index, count)

    def set(self, index: int, count: int) -> None:
        """Gives a group a width."""
        self.counts[index] = count
        self.ms = float(self.model.ms(self.counts))

    def widen(self, limit_ms: float) -> None:
        """Gives back what the last moves took too much: the most important step that fits, again and again."""
        while True:
            best: tuple[float, int, int] | None = None
            for index, permitted in enumerate(self.permitted):
                wider = permitted[permitted > self.counts[index]]
                count = int(wider.min()) if len(wider) else self.groups[index].channels
                regained = float(self.lost[index][self.counts[index]] - self.lost[index][count])
                if count == self.counts[index] or (best is not None and regained <= best[0]):
                    continue
                candidate = self.counts.copy()
                candidate[index] = count
                if float(self.model.ms(candidate)) <= limit_ms:
                    best = (regained, index, count)
            if best is None:
                return
            self.set(*best[1:])


def choose_widths(
    model: LatencyModel, importance: Tensor, limit_ms: float, permitted: Sequence[Sequence[int]]
) -> Counts:
    """The channels that each group keeps.

    Greedy: the group whose next width costs least importance for the latency that it gains is narrowed, again and
    again. The gains of one group fall as others shrink, so a price that was found earlier is a lower bound, and only
    the best one has to be looked at again.

    Args:
        model: Predicts latency.
        importance: Of each channel, shape ``(channels,)``.
        limit_ms: Latency that must not be exceeded, in milliseconds.
        permitted: For each group the numbers of channels that it may keep besides all.

    Raises:
        BudgetError: the smallest permitted widths are too slow.
    """
    groups = model.dependencies.groups
    choice = _Choice(
        model, groups, [np.array(sorted(counts), dtype=np.int64) for counts in permitted],
        [_lost(importance[group.start : group.stop]) for group in groups], model.full,
    )  # fmt: skip
    queue = [move for index in range(len(groups)) if (move := choice.best_move(index)) is not None]
    heapq.heapify(queue)
    while choice.ms > limit_ms:
        if not queue:
            present_ms = float(model.ms(model.full))
            raise BudgetError(
                f"latency: at most {limit_ms:.4g} ms asked for; {choice.ms:.4g} ms are predicted for the narrowest "
                f"permitted widths, {present_ms:.4g} ms for the present ones. Ask for less, lower min_channels or "
                "align, or protect less"
            )
        found = heapq.heappop(queue)
        move = choice.best_move(found.index)
        if move is not None and (not queue or move <= queue[0]):
            choice.set(move.index, move.count)
            move = choice.best_move(found.index)
        if move is not None:
            heapq.heappush(queue, move)
    choice.widen(limit_ms)
    return choice.counts


def _lost(importance: Tensor) -> NDArray[np.float64]:
    """Importance that is lost when the most important so many channels stay, by their number."""
    ascending = importance.double().sort().values
    lost: NDArray[np.float64] = torch.cat([torch.zeros(1, dtype=torch.float64), ascending.cumsum(0)]).flip(0).numpy()
    return lost


def keep_of(model: LatencyModel, importance: Tensor, counts: Counts) -> Tensor:
    """The keep set with the most important channels of each group, bool, shape ``(channels,)``."""
    keep = torch.zeros(len(importance), dtype=torch.bool)
    for group, count in zip(model.dependencies.groups, counts.tolist(), strict=True):
        order = torch.argsort(importance[group.start : group.stop], descending=True, stable=True)
        keep[group.start + order[:count]] = True
    return keep
