"""Sizes as functions of the number of channels that each group keeps, for models of costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphprune.labels.dependencies import Dependencies
from graphprune.labels.planes import Planes, channel_planes, squash, thin, varying

Counts = NDArray[np.int64]
"""Number of channels that each group keeps, shape ``(groups,)`` or ``(candidates, groups)``."""


@dataclass
class Widths:
    """All widths of a program: each is a frozen part plus a multiple of the number of channels of each group."""

    dependencies: Dependencies
    _places: dict[tuple[Any, ...], int | None] = field(default_factory=dict)
    _fixed: list[int] = field(default_factory=list)
    _per_channel: list[NDArray[np.int64]] = field(default_factory=list)

    def place(self, plane: Tensor, dim: int) -> int | None:
        """The place in `sizes` of the size that a plane has along a dim; None if it cannot shrink."""
        key = (plane.data_ptr(), plane.shape, plane.stride(), dim)
        if key not in self._places:
            self._places[key] = self._entered(plane, dim)
        return self._places[key]

    def _entered(self, plane: Tensor, dim: int) -> int | None:
        channels = self.dependencies.channel_of[squash(plane)]
        along = thin(channels, [other for other in range(channels.dim()) if other != dim])
        if bool((along == along.flatten()[0]).all()):  # all have the same channel, so another dim shrinks
            return None
        groups = self._group_of_channel[along.flatten()]
        counted = torch.bincount(groups, minlength=len(self.dependencies.groups) + 1).numpy()
        of_group = np.array([group.channels for group in self.dependencies.groups], dtype=np.int64)
        self._fixed.append(int(counted[-1]))
        self._per_channel.append(counted[:-1] // of_group)
        return len(self._fixed) - 1

    @cached_property
    def _group_of_channel(self) -> Tensor:
        sizes = torch.tensor([group.channels for group in self.dependencies.groups] + [1])
        return torch.arange(len(sizes)).repeat_interleave(sizes)  # NOT_PRUNABLE, -1, is the last entry

    def places(self, planes: Planes, rank: int) -> tuple[int | None, ...]:
        """`place` of each dim of a tensor; None for a dim that cannot shrink."""
        found: list[int | None] = [None] * rank
        for plane in channel_planes(planes):
            for dim in varying(plane):
                found[dim] = self.place(plane, dim) if found[dim] is None else found[dim]
        return tuple(found)

    def sizes(self, counts: Counts) -> NDArray[np.int64]:
        """Every width that has a `place`, shape ``(..., widths)``."""
        if not self._fixed:
            return np.zeros((*counts.shape[:-1], 0), dtype=np.int64)
        found: NDArray[np.int64] = counts @ np.stack(self._per_channel, axis=1) + np.array(self._fixed)
        return found

    def groups_of(self, place: int) -> list[int]:
        """The groups that a width depends on."""
        return [int(group) for group in self._per_channel[place].nonzero()[0]]

    def per_channel(self, place: int, group: int) -> int:
        """Number of indices of a width that are removed with one channel of a group."""
        return int(self._per_channel[place][group])
