"""Contractions as nests of loops: what multiply-accumulates and latency are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from graphprune.labels.planes import Planes, varying


@dataclass(frozen=True)
class Window:
    """How a convolution moves over positions; each with an entry per spatial dim."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool


@dataclass(frozen=True)
class Contraction:
    """One contraction.

    A convolution has the loops sample, group, output and input channel within the group, position times kernel.

    Attributes:
        node: The node that holds it.
        loops: Size of each loop.
        planes: Planes in the space of the loops: what shrinks them.
        summed: The loops that are summed over.
        operands: The loops that each operand has.
        window: Window of a convolution.
    """

    node: str
    loops: tuple[int, ...]
    planes: Planes
    summed: frozenset[int]
    operands: tuple[frozenset[int], ...]
    window: Window | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return prod(self.loops)

    @property
    def summed_planes(self) -> Planes:
        """The planes of what is summed over."""
        return tuple(plane for plane in self.planes if varying(plane) <= self.summed)


def loops_of(shape: Sequence[int]) -> frozenset[int]:
    """The loops that an operand in the space of the loops has."""
    return frozenset(loop for loop, size in enumerate(shape) if size > 1)
