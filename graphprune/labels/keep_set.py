"""What is kept of a program: as channels, labels, sizes, indices, and counts per group."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from graphprune.labels.dependencies import Dependencies
from graphprune.labels.planes import KnownSizes
from graphprune.program.tensors import Kept


@dataclass(frozen=True, eq=False)
class KeepSet:
    """The channels of a program that stay, and what follows for labels, stored dims and groups.

    Attributes:
        dependencies: The channels of the program.
        channels: Which channels stay, bool, shape ``(channels,)``.
        known_sizes: Kept sizes of planes that were looked up before; later look-ups add their own.
    """

    dependencies: Dependencies
    channels: Tensor
    known_sizes: KnownSizes = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, dependencies: Dependencies, channels: Tensor) -> KeepSet:
        """The keep set of some channels; for the same tensor the same one, since several passes ask for it in turn."""
        version = None if channels.is_inference() else channels._version  # counts what is written to it in place
        remembered = vars(dependencies)
        last, last_version = remembered.get("_last_keep_set", (None, None))
        if last is None or version is None or last.channels is not channels or last_version != version:
            last = cls(dependencies, channels)
            remembered["_last_keep_set"] = last, version
        found: KeepSet = last
        return found

    @classmethod
    def everything(cls, dependencies: Dependencies) -> KeepSet:
        """The keep set in which nothing is removed."""
        return cls(dependencies, torch.ones(dependencies.channels, dtype=torch.bool))

    @classmethod
    def of_indices(cls, dependencies: Dependencies, kept: Kept) -> KeepSet:
        """The keep set without the channels that lose an index.

        If ``kept`` removes only a part of a channel, or frozen indices, the `indices` of the keep set differ from it.

        Args:
            dependencies: The channels of the program.
            kept: Kept indices of stored dims of the program.
        """
        channels = torch.ones(dependencies.channels + 1, dtype=torch.bool)  # the last one stands for all that is frozen
        for owner in dependencies.stored:
            if (indices := kept.get((owner.name, owner.dim))) is not None:
                removed = torch.ones(owner.size, dtype=torch.bool)
                removed[indices] = False
                channels[dependencies.channel_of[owner.start : owner.start + owner.size][removed]] = False
        return cls(dependencies, channels[:-1])

    def without(self, channels: slice) -> KeepSet:
        """The keep set in which some consecutive channels are removed as well."""
        left = self.channels.clone()
        left[channels] = False
        return KeepSet(self.dependencies, left)

    @property
    def removed(self) -> int:
        """Number of channels that are removed."""
        return int((~self.channels).sum())

    @cached_property
    def labels(self) -> Tensor:
        """Which labels stay, bool, shape ``(labels,)``; frozen labels and labels of no channel always stay."""
        with_frozen = torch.cat([self.channels, torch.ones(1, dtype=torch.bool)])
        return with_frozen.index_select(0, self.dependencies.channel_or_last)

    @cached_property
    def sizes(self) -> Tensor:
        """Kept size of each stored dim, in the order of `Dependencies.stored`, shape ``(dims,)``."""
        bounds = self.dependencies.bounds
        left = torch.cat([torch.zeros(1, dtype=torch.long), self.labels.cumsum(0)])
        return left.index_select(0, bounds[:, 1]) - left.index_select(0, bounds[:, 0])

    @cached_property
    def indices(self) -> Kept:
        """Kept indices of each parameter or buffer dim that shrinks."""
        # all dims at once: a network has thousands
        starts, labels = self.dependencies.bounds[:, 0], self.labels.nonzero().flatten()
        first = torch.searchsorted(labels, starts[:1])
        labels = labels[int(first) : int(first) + int(self.sizes.sum())] if len(first) else labels[:0]
        of_dims = (labels - starts.repeat_interleave(self.sizes)).split(self.sizes.tolist())
        return {
            (owner.name, owner.dim): indices
            for owner, indices in zip(self.dependencies.stored, of_dims, strict=True)
            if len(indices) < owner.size
        }

    @property
    def left_of_groups(self) -> list[int]:
        """Number of channels that stay in each group."""
        left = torch.cat([torch.zeros(1, dtype=torch.long), self.channels.cumsum(0)])
        groups = self.dependencies.groups
        bounds = torch.tensor([(group.start, group.stop) for group in groups], dtype=torch.long).reshape(-1, 2)
        counts: list[int] = (left[bounds[:, 1]] - left[bounds[:, 0]]).tolist()
        return counts
