"""Which weights to keep: an exact number of them by one global ranking, alone or together with channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.costs.pool import live_of, pool_of
from graphprune.criteria.scores import Scores, WeightScores
from graphprune.errors import BudgetError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import Group
from graphprune.program.program import Program
from graphprune.program.tensors import Masks
from graphprune.request.limits import Limits
from graphprune.selection.norms import best_of_empty, norms_of
from graphprune.selection.record import Selection
from graphprune.selection.threshold import kth_lowest

_GONE = float("-inf")
"""Rank of weights that are dead for good: they go first."""

_STAYS = float("inf")


def select_weights(program: Program, allowed: int) -> Selection:
    """Keeps the most important weights; of equally important ones those that come last.

    Args:
        program: The program, with its weights scored. Dead ones stay dead unless they can come back.
        allowed: Weights that may stay, of the whole pool.

    Raises:
        BudgetError: more have to stay.
    """
    dependencies, ranks = program[Dependencies], Ranks.of(program)
    everything = torch.ones(dependencies.channels, dtype=torch.bool)
    while True:  # ends: every time round at least one weight more stays
        dead, _ = ranks.lowest(ranks.own, len(ranks.own) - allowed)
        missing, _ = ranks.missing(dead, dependencies, torch.full((dependencies.channels,), _STAYS), ~everything)
        if not len(missing):
            return Selection(everything, masks=ranks.masks(dead))
        ranks.own[missing] = _STAYS


def select_jointly(program: Program, allowed: int, limits: Limits) -> Selection:
    """Removes channels and weights under one threshold, until exactly so many weights are left.

    A weight goes with its channel. A channel that would take more weights than should go stays, and so do those that
    floors or the alignment hold back; the next in the ranking go instead.

    Source: CNIP-it, section 3.3 of the SNIP-it paper.

    Args:
        program: The program, with channels and weights scored on the same samples.
        allowed: Weights that may stay, of the whole pool.
        limits: Floors and alignment of the channels.

    Raises:
        BudgetError: more have to stay.
    """
    dependencies, ranks = program[Dependencies], Ranks.of(program)
    groups, importance = dependencies.groups, program[Scores].importance.double().clone()
    for group in groups:
        importance[_most_important(importance, group, limits.floor(group))] = _STAYS
    count = len(ranks.own) - allowed
    while True:  # ends: every time round at least one channel or weight more stays
        effective = ranks.with_channels(dependencies, importance)
        dead, threshold = ranks.lowest(effective, count)
        removed = importance <= threshold
        if int((effective <= threshold).count_nonzero()) > count:
            at_threshold = (importance == threshold).nonzero().flatten()
            if len(at_threshold):
                importance[at_threshold[len(at_threshold) // 2 :]] = _STAYS
                continue
        held = held_back(groups, removed, importance, limits)
        missing, their_channels = ranks.missing(dead, dependencies, importance, removed)
        if not len(held) and not len(missing):
            return Selection(~removed, masks=ranks.masks(dead))
        importance[held] = importance[their_channels] = _STAYS
        ranks.own[missing] = _STAYS


def _most_important(importance: Tensor, group: Group, count: int) -> Tensor:
    """Indices of the so many most important channels of a group; of equal ones the last."""
    order = torch.argsort(importance[group.start : group.stop], stable=True)
    return group.start + order[group.channels - count :]


def held_back(groups: Sequence[Group], removed: Tensor, importance: Tensor, limits: Limits) -> Tensor:
    """Indices of removed channels that have to stay, so that each group has a permitted number."""
    held = [torch.empty(0, dtype=torch.long)]
    for group in groups:
        gone = removed[group.start : group.stop].nonzero().flatten() + group.start
        left = group.channels - len(gone)
        if len(gone) and left not in limits.counts(group):
            wider = min((count for count in limits.counts(group) if count > left), default=group.channels)
            order = torch.argsort(importance[gone], stable=True)
            held.append(gone[order[len(gone) - (wider - left) :]])
    return torch.cat(held)


def _along(of_channel: Tensor, frozen: float | bool, channels: Tensor, dim: int, like: Tensor) -> Tensor:
    """What is known of channels along a dim of a parameter, so that it broadcasts; another value for what is frozen."""
    values = torch.cat([of_channel, of_channel.new_tensor([frozen])])[channels]  # -1, the last one, is frozen
    return values.to(like.device).view([-1 if other == dim else 1 for other in range(like.dim())])


@dataclass(frozen=True)
class Ranks:
    """The pool in one row, ranked.

    Attributes:
        shapes: Shapes of each parameter, in the order of the row.
        own: Importance of each weight, float64, shape ``(weights,)``.
        norms: See `norms_of`.
    """

    shapes: Mapping[str, torch.Size]
    own: Tensor
    norms: Mapping[str, int | None]

    @classmethod
    def of(cls, program: Program) -> Ranks:
        """Ranks the weights of a program that has them scored; what is dead for good ranks lowest."""
        scores, pool = program[WeightScores], pool_of(program)
        shapes = {name: weight.shape for name, weight in pool.items()}
        device = scores.importance[next(iter(pool))].device if pool else None
        # filled in place: the row is the largest thing there is here
        own = torch.empty(sum(map(torch.Size.numel, shapes.values())), dtype=torch.float64, device=device)
        ranks = cls(shapes, own, norms_of(program))
        for part, (name, weight) in zip(ranks._split(own), pool.items(), strict=True):
            of_name = part.view(weight.shape).copy_(scores.importance[name].detach())
            if name not in program.history.dormant:
                of_name.masked_fill_(~live_of(program, name, weight).to(device), _GONE)
        return ranks

    def with_channels(self, dependencies: Dependencies, importance: Tensor) -> Tensor:
        """Importance of each weight or of the least important channel that it belongs to, whichever is lower."""
        classes, row = dependencies.classes(), self.own.clone()
        for part, (name, shape) in zip(self._split(row), self.shapes.items(), strict=True):
            lowest = part.view(shape)
            for dim in range(len(shape)):
                if (name, dim) in classes:
                    of_channels = _along(importance, _STAYS, classes[name, dim], dim, lowest)
                    torch.minimum(lowest, of_channels, out=lowest)
        return row

    def _split(self, row: Tensor) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = row.split([shape.numel() for shape in self.shapes.values()])
        return parts

    def lowest(self, importance: Tensor, count: int) -> tuple[Tensor, float]:
        """The so many lowest, bool, shape ``(weights,)``, of equal ones those that come first; and the highest's."""
        if count <= 0:
            return torch.zeros_like(importance, dtype=torch.bool), _GONE
        threshold = float(kth_lowest(importance, count))
        if threshold == _STAYS:
            least = int((importance == _STAYS).count_nonzero())
            raise BudgetError(
                f"the budget cannot be reached: {len(importance) - count} weights may stay, but {least} have to, one "
                "for each norm that the model divides weights by (weight norm, spectral norm). Ask for less, or "
                "remove the norms first (torch.nn.utils.parametrize.remove_parametrizations)"
            )
        dead = importance < threshold
        equal = (importance == threshold).nonzero().flatten()
        dead[equal[: count - int(dead.count_nonzero())]] = True
        return dead, threshold

    def row(self, masks: Masks) -> Tensor:
        """Live weights of all parameters, bool, shape ``(weights,)``; undoes `masks`."""
        everything = torch.ones_like(self.own, dtype=torch.bool)
        parts = zip(self._split(everything), self.shapes, strict=True)
        return torch.cat([masks[name].flatten().to(part.device) if name in masks else part for part, name in parts])

    def places_within(self, row: Tensor) -> Tensor:
        """Returns for each weight the share of its parameter that is not above it, in (0, 1]; 0 for others."""
        parts = []
        for own, chosen in zip(self._split(self.own), self._split(row), strict=True):
            of_chosen = own[chosen].argsort().argsort().double().add(1) / max(1, int(chosen.count_nonzero()))
            parts.append(torch.zeros_like(own, dtype=torch.float64).masked_scatter(chosen, of_chosen))
        return torch.cat(parts)

    def missing(
        self, dead: Tensor, dependencies: Dependencies, importance: Tensor, removed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What has to stay so that no norm is 0: indices of weights, and of the channels that they would go with.

        Args:
            dead: Weights that go, bool, shape ``(weights,)``.
            dependencies: The channels.
            importance: Importance of the channels, shape ``(channels,)``.
            removed: Channels that go, bool, shape ``(channels,)``.
        """
        classes, start = dependencies.classes(), 0
        weights, channels = [torch.empty(0, dtype=torch.long)], [torch.empty(0, dtype=torch.long)]
        for (name, shape), of_name in zip(self.shapes.items(), self._split(dead), strict=True):
            if name in self.norms:
                dim, rank = self.norms[name], self.own[start : start + len(of_name)].view(shape)
                empty, others = of_name.view(shape), [each for each in range(len(shape)) if each != dim]
                if dim is not None and (name, dim) in classes:  # without the norms of channels that go
                    empty = empty & ~_along(removed, False, classes[name, dim], dim, rank)
                for other in [each for each in others if (name, each) in classes]:
                    rank = rank.minimum(_along(importance, _STAYS, classes[name, other], other, rank))
                best = best_of_empty(rank, empty, dim).cpu()
                weights.append(start + best)
                at = dict(enumerate(torch.unravel_index(best, shape)))
                channels += [classes[name, other][at[other]] for other in others if (name, other) in classes]
            start += len(of_name)
        held = torch.cat(channels)
        return torch.cat(weights), held[held >= 0]

    def masks(self, dead: Tensor) -> Masks:
        """Live weights of each parameter that has dead ones."""
        parts = zip(self._split(~dead), self.shapes.items(), strict=True)
        views = {name: part.view(shape) for part, (name, shape) in parts}
        return {name: mask.clone() for name, mask in views.items() if not bool(mask.all())}
