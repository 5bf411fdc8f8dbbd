"""Contractions as nests of loops, from which multiply-accumulates and latency are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from graphprune.labels.planes import Planes, varying


@dataclass(frozen=True)
class Window:
    """How a convolution moves over positions; each tuple has one entry per spatial dim."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool


@dataclass(frozen=True)
class Contraction:
    """One contraction.

    The loops of a convolution are sample, group, output and input channel within the group, and position times kernel.

    Attributes:
        node: Name of the node that holds the contraction.
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
        """Number of multiply-accumulates."""
        return prod(self.loops)

    @property
    def summed_planes(self) -> Planes:
        """The planes that vary along no other loops than those that are summed over."""
        return tuple(plane for plane in self.planes if varying(plane) <= self.summed)


def loops_of(shape: Sequence[int]) -> frozenset[int]:
    """The loops that an operand has, given its shape in the space of all loops, with size 1 for the others."""
    return frozenset(loop for loop, size in enumerate(shape) if size > 1)
