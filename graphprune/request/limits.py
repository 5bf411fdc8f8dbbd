"""Hard constraints on the widths of groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd, lcm

from graphprune.errors import OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import Group

Dims = frozenset[tuple[str, int]]
"""Name and dim of each member of a group."""


@dataclass(frozen=True)
class Limits:
    """Hard constraints on every group.

    Attributes:
        min_channels: Number of channels that stay in each group, or a function from the group's size before the first
            round to that number.
        align: Widths of the layers stay multiples of this number; 1 for no constraint.
        sizes: Number of channels of each group before the first round, by the group's members; a group that is missing
            counts with its present size.
        steps: A further multiple for the number of channels of each group, by the group's members.
    """

    min_channels: int | Callable[[int], int] = 1
    align: int = 1
    sizes: Mapping[Dims, int] = field(default_factory=dict, repr=False)
    steps: Mapping[Dims, int] = field(default_factory=dict, repr=False)

    def at_first(self, dependencies: Dependencies) -> Limits:
        """Returns the limits with the group sizes of a model's first dependencies, before the first round."""
        return replace(self, sizes={group.dims: group.channels for group in dependencies.groups})

    def with_steps(self, dependencies: Dependencies, steps: Sequence[int]) -> Limits:
        """Returns the limits with a further multiple for the channels of each group."""
        return replace(self, steps={group.dims: step for group, step in zip(dependencies.groups, steps, strict=True)})

    def floor(self, group: Group) -> int:
        """Smallest number of channels that stays in a group.

        Raises:
            OptionError: the function of ``min_channels`` gives no whole number.
        """
        size = self.sizes.get(group.dims, group.channels)
        wanted = self.min_channels(size) if callable(self.min_channels) else self.min_channels
        if not isinstance(wanted, int):
            raise OptionError(f"min_channels({size}) gives {wanted!r}; expected a whole number of channels")
        return min(max(1, wanted), group.channels)

    def step(self, group: Group) -> int:
        """Divisor of every permitted number of channels of a group, so that its widths stay aligned."""
        return lcm(self.align // gcd(self.align, group.indices_per_channel), self.steps.get(group.dims, 1))

    def counts(self, group: Group) -> range:
        """Permitted numbers of channels below the present one, descending."""
        step = self.step(group)
        first = (group.channels - 1) // step * step
        return range(first, self.floor(group) - 1, -step)
