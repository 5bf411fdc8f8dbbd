"""Hard constraints on the widths of groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd, lcm

from graphprune.errors import OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import Group

Dims = frozenset[tuple[str, int]]
"""Names and dims of a group's members."""


@dataclass(frozen=True)
class Limits:
    """Hard constraints on every group.

    Attributes:
        min_channels: Channels that stay in each group, or a function of the group's size before the first round.
        align: Widths of the layers stay multiples of this; 1 for no constraint.
        sizes: Channels that groups had before the first round, by their members; others count as they are.
        steps: Channels that go together besides, by the members of the group.
    """

    min_channels: int | Callable[[int], int] = 1
    align: int = 1
    sizes: Mapping[Dims, int] = field(default_factory=dict, repr=False)
    steps: Mapping[Dims, int] = field(default_factory=dict, repr=False)

    def at_first(self, dependencies: Dependencies) -> Limits:
        """The limits for a model of which these are the first dependencies."""
        return replace(self, sizes={group.dims: group.channels for group in dependencies.groups})

    def with_steps(self, dependencies: Dependencies, steps: Sequence[int]) -> Limits:
        """The limits with a multiple for the channels of each group."""
        return replace(self, steps={group.dims: step for group, step in zip(dependencies.groups, steps, strict=True)})

    def floor(self, group: Group) -> int:
        """Fewest channels that stay."""
        size = self.sizes.get(group.dims, group.channels)
        wanted = self.min_channels(size) if callable(self.min_channels) else self.min_channels
        if not isinstance(wanted, int):
            raise OptionError(f"min_channels({size}) gives {wanted!r}; expected a whole number of channels")
        return min(max(1, wanted), group.channels)

    def step(self, group: Group) -> int:
        """Channels that go together, so that the width stays aligned."""
        return lcm(self.align // gcd(self.align, group.indices_per_channel), self.steps.get(group.dims, 1))

    def counts(self, group: Group) -> range:
        """Permitted numbers of channels below all of them, descending."""
        step = self.step(group)
        first = (group.channels - 1) // step * step
        return range(first, self.floor(group) - 1, -step)
