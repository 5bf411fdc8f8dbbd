"""Chooses the weights to keep: an exact number of them by one global ranking, alone or together with channels."""

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
"""Rank of weights that are dead for good, which are removed first."""

_STAYS = float("inf")


def select_weights(program: Program, allowed: int) -> Selection:
    """Keeps the most important weights, and of equally important ones those that come last.

    Args:
        program: The program, with its weights scored. Dead weights stay dead unless they can come back.
        allowed: Number of weights of the whole pool that may stay.

    Raises:
        BudgetError: more weights than that have to stay.
    """
    dependencies, ranks = program[Dependencies], Ranks.of(program)
    everything = torch.ones(dependencies.channels, dtype=torch.bool)
    while True:  # ends, because each iteration makes at least one more weight stay
        dead, _ = ranks.lowest(ranks.own, len(ranks.own) - allowed)
        missing, _ = ranks.missing(dead, dependencies, torch.full((dependencies.channels,), _STAYS), ~everything)
        if not len(missing):
            return Selection(everything, masks=ranks.masks(dead))
        ranks.own[missing] = _STAYS


def select_jointly(program: Program, allowed: int, limits: Limits) -> Selection:
    """Removes channels and weights under one threshold, until exactly the allowed number of weights is left.

    A weight is removed with its channel. A channel with which too many weights would be removed stays, and so do those
    that floors or the alignment hold back; the next in the ranking are removed instead.

    Source: CNIP-it, section 3.3 of the SNIP-it paper.

    Args:
        program: The program, with channels and weights scored on the same samples.
        allowed: Number of weights of the whole pool that may stay.
        limits: Floors and alignment of the channels.

    Raises:
        BudgetError: more weights than that have to stay.
    """
    dependencies, ranks = program[Dependencies], Ranks.of(program)
    groups, importance = dependencies.groups, program[Scores].importance.double().clone()
    for group in groups:
        importance[_most_important(importance, group, limits.floor(group))] = _STAYS
    count = len(ranks.own) - allowed
    while True:  # ends, because each iteration makes at least one more channel or weight stay
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
    """Indices of the ``count`` most important channels of a group; of equally important ones the last."""
    order = torch.argsort(importance[group.start : group.stop], stable=True)
    return group.start + order[group.channels - count :]


def held_back(groups: Sequence[Group], removed: Tensor, importance: Tensor, limits: Limits) -> Tensor:
    """Indices of removed channels that have to stay so that each group keeps a permitted number."""
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
    """Values of channels along a dim of a parameter, in a shape that broadcasts; frozen indices have another value."""
    values = torch.cat([of_channel, of_channel.new_tensor([frozen])])[channels]  # -1, the last one, is frozen
    return values.to(like.device).view([-1 if other == dim else 1 for other in range(like.dim())])


@dataclass(frozen=True)
class Ranks:
    """The weights of the pool in one row, with their importance.

    Attributes:
        shapes: Shape of each parameter, in the order of the row.
        own: Importance of each weight, float64, shape ``(weights,)``.
        norms: See `norms_of`.
    """

    shapes: Mapping[str, torch.Size]
    own: Tensor
    norms: Mapping[str, int | None]

    @classmethod
    def of(cls, program: Program) -> Ranks:
        """Ranks the scored weights of a program; weights that are dead for good rank lowest."""
        scores, pool = program[WeightScores], pool_of(program)
        shapes = {name: weight.shape for name, weight in pool.items()}
        device = scores.importance[next(iter(pool))].device if pool else None
        # filled in place, because the row is the largest tensor here
        own = torch.empty(sum(map(torch.Size.numel, shapes.values())), dtype=torch.float64, device=device)
        ranks = cls(shapes, own, norms_of(program))
        for part, (name, weight) in zip(ranks._split(own), pool.items(), strict=True):
            of_name = part.view(weight.shape).copy_(scores.importance[name].detach())
            if name not in program.history.dormant:
                of_name.masked_fill_(~live_of(program, name, weight).to(device), _GONE)
        return ranks

    def with_channels(self, dependencies: Dependencies, importance: Tensor) -> Tensor:
        """Importance of each weight, or of its least important channel if that is lower, shape ``(weights,)``."""
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
        """Marks the ``count`` lowest weights; of equal ones those that come first.

        Args:
            importance: Importance of each weight, shape ``(weights,)``.
            count: Number of weights to mark.

        Returns:
            The marked weights, bool, shape ``(weights,)``, and the highest importance among them.

        Raises:
            BudgetError: weights that have to stay would be marked.
        """
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
        """Live weights of all parameters in one row, bool, shape ``(weights,)``; the inverse of `masks`."""
        everything = torch.ones_like(self.own, dtype=torch.bool)
        parts = zip(self._split(everything), self.shapes, strict=True)
        return torch.cat([masks[name].flatten().to(part.device) if name in masks else part for part, name in parts])

    def places_within(self, row: Tensor) -> Tensor:
        """Returns, for each weight in ``row``, its place among those of its parameter, as a share in (0, 1].

        The most important weight has 1; weights that are not in ``row`` have 0.
        """
        parts = []
        for own, chosen in zip(self._split(self.own), self._split(row), strict=True):
            of_chosen = own[chosen].argsort().argsort().double().add(1) / max(1, int(chosen.count_nonzero()))
            parts.append(torch.zeros_like(own, dtype=torch.float64).masked_scatter(chosen, of_chosen))
        return torch.cat(parts)

    def missing(
        self, dead: Tensor, dependencies: Dependencies, importance: Tensor, removed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Finds what has to stay so that no norm is 0: indices of weights, and of the channels that they belong to.

        Args:
            dead: Weights to be removed, bool, shape ``(weights,)``.
            dependencies: The channels.
            importance: Importance of the channels, shape ``(channels,)``.
            removed: Channels to be removed, bool, shape ``(channels,)``.
        """
        classes, start = dependencies.classes(), 0
        weights, channels = [torch.empty(0, dtype=torch.long)], [torch.empty(0, dtype=torch.long)]
        for (name, shape), of_name in zip(self.shapes.items(), self._split(dead), strict=True):
            if name in self.norms:
                dim, rank = self.norms[name], self.own[start : start + len(of_name)].view(shape)
                empty, others = of_name.view(shape), [each for each in range(len(shape)) if each != dim]
                if dim is not None and (name, dim) in classes:  # leaves out norms of removed channels
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
        """Live weights of each parameter that has dead ones, bool, of the parameter's shape."""
        parts = zip(self._split(~dead), self.shapes.items(), strict=True)
        views = {name: part.view(shape) for part, (name, shape) in parts}
        return {name: mask.clone() for name, mask in views.items() if not bool(mask.all())}
