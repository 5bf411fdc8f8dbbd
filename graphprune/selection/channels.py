"""Chooses the channels to keep: a global ranking that meets the budget under floors and alignment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.costs.model import CostModel
from graphprune.errors import BudgetError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.request.limits import Limits
from graphprune.selection.goal import Goal
from graphprune.selection.record import Selection


def select(costs: CostModel, importance: Tensor, goal: Goal, limits: Limits) -> Selection:
    """Removes the least important channels until the goal is met.

    Channels of equal importance are removed evenly from all groups. Where a floor or the alignment forbids a removal,
    the next-ranked channel is removed instead.

    Args:
        costs: Costs of the program.
        importance: Importance of each channel, shape ``(channels,)``.
        goal: The largest permitted costs.
        limits: Floors and alignment.

    Raises:
        BudgetError: not even the smallest permitted network meets the goal; the message names the limits that bind.
    """
    ranking = _Ranking.of(costs.dependencies, importance, limits)
    if goal.is_met(costs, ranking.keep(0)):
        return Selection(ranking.keep(0))
    if not goal.is_met(costs, ranking.keep(ranking.blocks)):
        raise BudgetError(_unreachable(costs, goal, limits, ranking.keep(ranking.blocks)))
    low, high = 0, ranking.blocks  # removing the first `high` blocks meets the goal, the first `low` do not
    while high - low > 1:
        middle = (low + high) // 2
        if goal.is_met(costs, ranking.keep(middle)):
            high = middle
        else:
            low = middle
    keep = _trimmed(costs, goal, ranking, high)
    return Selection(keep, _bound(costs.dependencies, importance, keep, limits))


def violations(costs: CostModel, keep: Tensor, goal: Goal, limits: Limits) -> list[str]:
    """Lists the violations of goal and limits by the channels that stay, bool, shape ``(channels,)``."""
    problems = [] if goal.is_met(costs, keep) else ["the goal is not met"]
    groups = costs.dependencies.groups
    for group, left in zip(groups, KeepSet.of(costs.dependencies, keep).left_of_groups, strict=True):
        if left != group.channels and left not in limits.counts(group):
            problems.append(f"group {group.id} keeps {left} of {group.channels} channels, which the limits forbid")
    return problems


def check_reachable(costs: CostModel, goal: Goal, limits: Limits) -> None:
    """Raises `BudgetError` if not even the smallest permitted network meets the goal."""
    smallest = torch.ones(costs.dependencies.channels, dtype=torch.bool)
    for group in costs.dependencies.groups:
        smallest[group.start + min(limits.counts(group), default=group.channels) : group.stop] = False
    if not goal.is_met(costs, smallest):
        raise BudgetError(_unreachable(costs, goal, limits, smallest))


@dataclass(frozen=True)
class _Ranking:
    """Permitted removals in the order in which they are made.

    A block is the channels whose removal takes a group from one permitted count to the next.

    Attributes:
        rank: For each channel, the place of its block in the order; the number of blocks if the channel must stay.
        group: For each block in order, its group.
        size: For each block in order, its number of channels.
    """

    rank: Tensor
    group: Tensor
    size: Tensor

    @classmethod
    def of(cls, dependencies: Dependencies, importance: Tensor, limits: Limits) -> _Ranking:
        """Ranks blocks by mean importance; those of one group stay in order, and ties spread evenly over all groups."""
        counts = [limits.counts(group) for group in dependencies.groups]
        channels = torch.tensor([group.channels for group in dependencies.groups])
        blocks, step = torch.tensor([len(count) for count in counts]), torch.tensor([-count.step for count in counts])
        group_of = torch.arange(len(counts)).repeat_interleave(channels)
        order = torch.argsort(importance, stable=True)
        order = order.index_select(0, torch.argsort(group_of.index_select(0, order), stable=True))
        place = torch.arange(len(order)) - (channels.cumsum(0) - channels).repeat_interleave(channels)
        # a group's first block is what exceeds its largest permitted count; each other block is one step
        excess = ((channels - 1) % step + 1).repeat_interleave(channels)
        block = (place - excess) // step.repeat_interleave(channels) + 1
        removable = (block < blocks.repeat_interleave(channels)).nonzero().flatten()
        members = order.index_select(0, removable)
        of_block = (block + (blocks.cumsum(0) - blocks).repeat_interleave(channels)).index_select(0, removable)
        group = torch.arange(len(counts)).repeat_interleave(blocks)
        size = torch.bincount(of_block, minlength=len(group))
        mean = torch.zeros(len(group), dtype=torch.float64)
        mean = mean.scatter_add(0, of_block, importance.index_select(0, members).double()) / size
        # means of sorted blocks ascend, and rounding must not put a later block of a group before an earlier one
        mean = torch.cat([_ascending(of_group) for of_group in mean.split(blocks.tolist())])
        removed = torch.cat([of_group.cumsum(0) for of_group in size.split(blocks.tolist())])
        evenly = torch.argsort(removed / channels.repeat_interleave(blocks), stable=True)
        ranked = evenly.index_select(0, torch.argsort(mean.index_select(0, evenly), stable=True))
        rank_of_block = torch.empty_like(ranked).index_copy(0, ranked, torch.arange(len(ranked)))
        rank = torch.full((dependencies.channels,), len(ranked))
        rank.index_copy_(0, members, rank_of_block.index_select(0, of_block))
        return cls(rank, group[ranked], size[ranked])

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.size)

    def keep(self, removed: int) -> Tensor:
        """Channels that stay when the first ``removed`` blocks are removed, bool per channel."""
        return self.rank >= removed

    def removal_of(self, block: int) -> Tensor:
        """The channels of one block, bool per channel."""
        return self.rank == block


def _ascending(means: Tensor) -> Tensor:
    return means.cummax(0).values if len(means) else means


def _trimmed(costs: CostModel, goal: Goal, ranking: _Ranking, count: int) -> Tensor:
    """Removes ``count`` blocks, the last one replaced by a smaller, next-ranked block if that meets the goal too.

    Returns:
        Channels that stay, bool, shape ``(channels,)``.
    """
    last = count - 1
    if int(ranking.size[last]) > 1:
        passed = {int(ranking.group[last])}
        for block in range(count, ranking.blocks):
            group = int(ranking.group[block])
            if group not in passed and ranking.size[block] < ranking.size[last]:
                candidate = ranking.keep(last) & ~ranking.removal_of(block)
                if goal.is_met(costs, candidate):
                    return candidate
            passed.add(group)
    return ranking.keep(count)


def _bound(dependencies: Dependencies, importance: Tensor, keep: Tensor, limits: Limits) -> tuple[str, ...]:
    """Groups that are at their floor although they keep less important channels than some that are removed."""
    removed = importance[~keep]
    if len(removed) == 0:
        return ()
    threshold = float(removed.max())
    found = []
    for group, left in zip(dependencies.groups, KeepSet.of(dependencies, keep).left_of_groups, strict=True):
        smallest = min(limits.counts(group), default=group.channels)
        if left != smallest:
            continue
        kept = importance[group.start : group.stop][keep[group.start : group.stop]]
        if bool((kept < threshold).any()):
            found.append(f"{group.id} ({group.name}) at its floor of {smallest} of {group.channels} channels")
    return tuple(found)


def _unreachable(costs: CostModel, goal: Goal, limits: Limits, smallest: Tensor) -> str:
    lines = ["the budget cannot be reached:"]
    for name, limit in goal.limits.items():
        least = getattr(costs, name)(KeepSet.of(costs.dependencies, smallest))
        if least > limit:
            lines.append(f"  {name}: at most {limit} asked for, {least} are left at the least")
    binding = []
    for group in costs.dependencies.groups:
        least = min(limits.counts(group), default=group.channels)
        if least > 1:
            step = f" in steps of {limits.step(group)}" if group.dims in limits.steps else ""
            binding.append(f"{group.id} ({group.name}): {least} of {group.channels}{step}")
    if limits.align > 1 or limits.steps or limits.min_channels != 1:
        floors = getattr(limits.min_channels, "__name__", limits.min_channels)
        align = "'auto'" if limits.steps else limits.align
        lines.append(f"  min_channels={floors}, align={align} keep " + "; ".join(binding[:8]))
    else:
        lines.append(f"  each of the {len(costs.dependencies.groups)} groups keeps one channel; the rest is frozen")
    lines.append("  Lower the budget, the floors or the alignment, or protect less.")
    return "\n".join(lines)
