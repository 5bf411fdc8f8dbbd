"""What leads from channel to channel: weights, and ops in which channels depend on each other without any.

Channels have the indices of the dependencies. One more stands for what is frozen, and the next ones for *bundles*: the
channels of a dim of a parameter all of which are frozen (one channel alone has no label and is, too), taken together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


def any_along(mask: Tensor, dim: int) -> Tensor:
    """`Tensor.any` along a dim, for large masks: torch finds the largest of bytes up to a hundred times as fast."""
    return mask.view(torch.uint8).amax(dim).view(torch.bool) if mask.shape[dim] else mask.any(dim)


@dataclass(frozen=True)
class WeightPath:
    """A weight that leads from the channels of its columns to those of its rows.

    Attributes:
        name: The parameter.
        row: Its dim of output channels.
        column: Its dim of input channels.
        rows: Channel of each index of that dim, int64.
        columns: Channels along the other dim.
    """

    name: str
    row: int
    column: int
    rows: Tensor
    columns: Tensor

    def flat(self, live: Tensor) -> Tensor:
        """Which pairs have a live weight, bool ``(rows, columns)``, given the live weights."""
        pairs = live.movedim((self.row, self.column), (0, 1))
        return any_along(pairs.flatten(2), 2) if pairs.dim() > 2 else pairs

    def spread(self, pairs: Tensor, like: Tensor) -> Tensor:
        """Undoes `flat`: each pair for all weights that it has."""
        moved = pairs.reshape(*pairs.shape, *[1] * (like.dim() - 2)).movedim((0, 1), (self.row, self.column))
        return moved.expand(like.shape)


@dataclass(frozen=True)
class PerChannel:
    """A parameter that acts on each channel by itself (depthwise).

    Attributes:
        name: The parameter.
        channels: Channel of each index of dim 0.
    """

    name: str
    channels: Tensor


@dataclass(frozen=True)
class Hub:
    """Channels that get into others without weights: a normalisation over channels, a softmax, a gate, an outer sum.

    What is frozen is always reached and always useful; so is what it gets into, and what gets into it.

    Attributes:
        before: What goes in.
        after: What all of it gets into.
    """

    before: Tensor
    after: Tensor


Step = WeightPath | PerChannel | Hub


def distinct(parts: Iterable[Tensor]) -> Tensor:
    """The distinct integers of some tensors, ascending; none of none."""
    found: Tensor = torch.cat([torch.empty(0, dtype=torch.long), *parts]).unique()
    return found
