"""How the latency of one operator depends on the widths that pruning changes: a grid of measurements, interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from graphprune.labels.contractions import Window
from graphprune.latency.kernels import Kernel, Operator
from graphprune.latency.profiles import Profile

STEPS = (1, 2, 4, 8, 16, 32)
"""Multiples that widths may have to be, ascending."""

TOLERANCE = 0.1
"""A step is good enough if its multiples take at most this share longer than multiples of the largest step suggest."""

_PARTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
"""Shares of the largest width at which latency is measured."""

_curves: WeakKeyDictionary[Profile, dict[Family, Curve]] = WeakKeyDictionary()
"""Curves that were made for a profile: a program that became narrower needs no measurements of its own."""


def curve_of(family: Family, largest: tuple[int, ...], profile: Profile) -> Curve:
    """Returns a curve that reaches at least up to these sizes."""
    known = _curves.setdefault(profile, {})
    if family not in known or any(size > covered for size, covered in zip(largest, known[family].largest, strict=True)):
        known[family] = Curve(family, largest, profile)
    return known[family]


@dataclass(frozen=True)
class Family:
    """Kernels that differ in some sizes only.

    Attributes:
        op: See `Kernel`.
        sizes: Sizes as in `Kernel`, None for those that differ.
        window: See `Kernel`.
    """

    op: Operator
    sizes: tuple[int | None, int | None, int | None, int | None]
    window: Window | None = None

    @property
    def free(self) -> tuple[int, ...]:
        """Indices of the sizes that differ."""
        return tuple(axis for axis, size in enumerate(self.sizes) if size is None)

    def is_width(self, axis: int) -> bool:
        """Whether a size counts channels rather than whole operators side by side (heads)."""
        return axis != 0

    def kernel(self, free: Sequence[int]) -> Kernel:
        """Returns the kernel of the family with these free sizes."""
        left = iter(free)
        first, second, third, fourth = (next(left) if size is None else size for size in self.sizes)
        return Kernel(self.op, (first, second, third, fourth), self.window)


@dataclass(frozen=True)
class Curve:
    """Latency of a family on a target, up to the largest sizes."""

    family: Family
    largest: tuple[int, ...]
    profile: Profile

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """The smallest multiple of each free size that runs at full speed."""
        return tuple(self._step(place) for place in range(len(self.largest)))

    def _step(self, place: int) -> int:
        largest = self.largest[place]
        if not self.family.is_width(self.family.free[place]) or largest < 2 * STEPS[1]:
            return 1
        coarse = max(step for step in STEPS if 2 * step <= largest)
        bottom, top = coarse, 2 * coarse  # at these widths a step is a large part of the width
        between = [step for step in STEPS if step < coarse]
        sampled = sorted({bottom, top, *(top - step for step in between), *(bottom + step for step in between)})
        times = dict(zip(sampled, self._times(place, sampled), strict=True))

        def is_smooth(width: int) -> bool:
            part = (width - bottom) / coarse
            return times[width] <= (1 + TOLERANCE) * (times[bottom] + part * (times[top] - times[bottom]))

        for step in STEPS:
            if all(is_smooth(width) for width in sampled if width % step == 0):
                return step
        return coarse

    def _times(self, place: int, widths: Sequence[int]) -> list[float]:
        middle = [max(1, size // 2) for size in self.largest]
        return self.profile.ms(
            self.family.kernel([width if place == other else size for other, size in enumerate(middle)])
            for width in widths
        )

    @cached_property
    def _axes(self) -> list[NDArray[np.int64]]:
        return [
            np.array(sorted({_rounded(largest * part, step, largest) for part in _PARTS}), dtype=np.int64)
            for largest, step in zip(self.largest, self.steps, strict=True)
        ]

    @cached_property
    def _grid(self) -> NDArray[np.float64]:
        times = self.profile.ms(self.family.kernel([int(size) for size in sizes]) for sizes in product(*self._axes))
        return np.array(times).reshape([len(axis) for axis in self._axes])

    def ms(self, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Interpolates latencies in milliseconds, shape ``(...)``.

        Args:
            sizes: Sizes of the free sizes, shape ``(..., free)``.
        """
        steps = np.array(self.steps)  # a size that is not a multiple takes as long as the next multiple
        sizes = np.minimum(-(-sizes // steps) * steps, self.largest)
        lows, parts = zip(*(_between(axis, sizes[..., place]) for place, axis in enumerate(self._axes)), strict=True)
        total: Any = 0.0
        for corner in product((0, 1), repeat=len(self._axes)):
            weight: Any = 1.0
            for part, high in zip(parts, corner, strict=True):
                weight = weight * (part if high else 1 - part)
            places = tuple(low + (high and 1) for low, high in zip(lows, corner, strict=True))
            bounded = tuple(np.minimum(place, size - 1) for place, size in zip(places, self._grid.shape, strict=True))
            total = total + weight * self._grid[bounded]
        return np.asarray(total, dtype=np.float64)


def _rounded(width: float, step: int, largest: int) -> int:
    """The multiple of the step that is nearest to a width, at least one step and at most the largest width."""
    return largest if width >= largest else min(largest, max(step, round(width / step) * step))


def _between(axis: NDArray[np.int64], sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The index of the grid point below each size, and how far the size is on the way to the next one, in [0, 1]."""
    low = np.clip(np.searchsorted(axis, sizes, side="right") - 1, 0, max(len(axis) - 2, 0))
    if len(axis) == 1:
        return low, np.zeros(np.shape(sizes))
    gap = axis[low + 1] - axis[low]
    return low, np.clip((sizes - axis[low]) / gap, 0.0, 1.0)
