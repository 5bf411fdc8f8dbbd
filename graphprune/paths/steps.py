"""Steps from channel to channel: weights, and ops without weights in which channels depend on each other.

Channels have the indices of the dependencies. The next index stands for all that is frozen, and those after it for
*bundles*: a bundle stands for all indices of a dim of a parameter if none of them can be pruned. The index of a dim of
size 1 has no label, so it is a bundle too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


def any_along(mask: Tensor, dim: int) -> Tensor:
    """`Tensor.any` along a dim for large masks; torch finds the maximum of bytes up to a hundred times as fast."""
    return mask.view(torch.uint8).amax(dim).view(torch.bool) if mask.shape[dim] else mask.any(dim)


@dataclass(frozen=True)
class WeightPath:
    """A weight that leads from the channels of its columns to those of its rows.

    Attributes:
        name: Name of the parameter.
        row: Its dim of output channels.
        column: Its dim of input channels.
        rows: Channel of each index of dim ``row``, int64.
        columns: Channel of each index of dim ``column``, int64.
    """

    name: str
    row: int
    column: int
    rows: Tensor
    columns: Tensor

    def flat(self, live: Tensor) -> Tensor:
        """The pairs of row and column that have a live weight, bool, shape ``(rows, columns)``.

        Args:
            live: Live weights, bool, of the parameter's shape.
        """
        pairs = live.movedim((self.row, self.column), (0, 1))
        return any_along(pairs.flatten(2), 2) if pairs.dim() > 2 else pairs

    def spread(self, pairs: Tensor, like: Tensor) -> Tensor:
        """The inverse of `flat`: each weight has the value of its pair, in the shape of ``like``."""
        moved = pairs.reshape(*pairs.shape, *[1] * (like.dim() - 2)).movedim((0, 1), (self.row, self.column))
        return moved.expand(like.shape)


@dataclass(frozen=True)
class PerChannel:
    """A parameter that acts on each channel by itself (depthwise).

    Attributes:
        name: Name of the parameter.
        channels: Channel of each index of dim 0, int64.
    """

    name: str
    channels: Tensor


@dataclass(frozen=True)
class Hub:
    """Channels that influence others without weights: a normalisation over channels, a softmax, a gate, an outer sum.

    What is frozen is always reached and always useful; so what it influences is reached, and what influences it useful.

    Attributes:
        before: Channels that influence all channels of ``after``, int64.
        after: Channels that are influenced, int64.
    """

    before: Tensor
    after: Tensor


Step = WeightPath | PerChannel | Hub


def distinct(parts: Iterable[Tensor]) -> Tensor:
    """The distinct integers of some tensors, ascending; empty without tensors."""
    found: Tensor = torch.cat([torch.empty(0, dtype=torch.long), *parts]).unique()
    return found
