"""Predicted latency of a program, as a function of how many channels each group keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from graphprune.costs.widths import Counts, Widths
from graphprune.labels.contractions import Contraction
from graphprune.labels.dependencies import Dependencies, leaf_operands
from graphprune.labels.planes import is_sample, varying
from graphprune.latency.curves import Curve, Family, curve_of
from graphprune.latency.kernels import Kernel, KernelLoops
from graphprune.latency.profiles import Profile
from graphprune.program.program import Program

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Factor:
    """A size as a product of a fixed number and the widths at some places."""

    fixed: int
    places: tuple[int, ...]

    def of(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The size for given widths, shape ``(...)`` for widths of the shape ``(..., widths)``."""
        size: NDArray[np.int64] = self.fixed * widths[..., list(self.places)].prod(-1)
        return size


@dataclass(frozen=True)
class Term:
    """The operator of one contraction, and its free sizes."""

    node: str
    curve: Curve
    sizes: tuple[Factor, ...]

    def ms(self, widths: NDArray[np.int64]) -> Times:
        """Latency of the operator in milliseconds, shape ``(...)`` for widths of the shape ``(..., widths)``."""
        return self.curve.ms(np.stack([size.of(widths) for size in self.sizes], axis=-1))


@dataclass(frozen=True)
class Calibration:
    """What turns the sum of single operators into the latency of a program.

    Attributes:
        scale: Scale of contractions, at most 1: in a program they may do without changes of layout, say.
        rest_ms_per_element: Milliseconds that all other ops take for each element that they write.
    """

    scale: float = 1.0
    rest_ms_per_element: float = 0.0


class LatencyModel:
    """Predicts contractions by the curves of a profile, other ops in proportion to the elements that they write.

    Args:
        program: An analysed program.
        profile: Profile of the target.
        calibration: See `calibrated`.
    """

    def __init__(self, program: Program, profile: Profile, calibration: Calibration | None = None) -> None:
        self.dependencies: Dependencies = program[Dependencies]
        self.widths = Widths(self.dependencies)
        self.profile = profile
        self.calibration = calibration or Calibration()
        self._example_batch = program.example.batch_size
        self.terms, self.fixed_kernels = self._terms()
        self.results = self._results(program)

    def calibrated(self, measured_ms: float) -> Calibration:
        """Returns the calibration under which the program has its measured latency, in milliseconds."""
        contractions, elements = float(self._contractions_ms(self.full)), float(self.elements(self.full))
        scale = min(1.0, measured_ms / contractions) if contractions else 1.0
        return Calibration(scale, (measured_ms - scale * contractions) / max(elements, 1.0))

    @property
    def full(self) -> Counts:
        """Counts with all channels of every group, shape ``(groups,)``."""
        return np.array([group.channels for group in self.dependencies.groups], dtype=np.int64)

    def ms(self, counts: Counts) -> Times:
        """Predicted latency in milliseconds, shape ``(...)`` for counts of the shape ``(..., groups)``."""
        others_ms = self.calibration.rest_ms_per_element * self.elements(counts)
        return self.calibration.scale * self._contractions_ms(counts) + others_ms

    def part_ms(self, group: int, counts: Counts) -> Times:
        """Predicts as `ms` does, but only operators whose latency depends on one group, by its index."""
        widths = self.widths.sizes(counts)
        terms, results = self._of_group[group]
        contractions_ms: Times = np.zeros(counts.shape[:-1])
        for term in terms:
            contractions_ms = contractions_ms + term.ms(widths)
        elements = _sum(results, widths)
        return self.calibration.scale * contractions_ms + self.calibration.rest_ms_per_element * elements

    @cached_property
    def _of_group(self) -> list[tuple[list[Term], list[Factor]]]:
        """For each group, the terms and the results that depend on it."""
        found: list[tuple[list[Term], list[Factor]]] = [([], []) for _ in self.dependencies.groups]
        for term in self.terms:
            for group in self._groups_of(*term.sizes):
                found[group][0].append(term)
        for result in self.results:
            for group in self._groups_of(result):
                found[group][1].append(result)
        return found

    def _groups_of(self, *sizes: Factor) -> set[int]:
        return {group for size in sizes for place in size.places for group in self.widths.groups_of(place)}

    def elements(self, counts: Counts) -> Times:
        """Number of elements that ops other than contractions write in a run, at the target's batch size."""
        return _sum(self.results, self.widths.sizes(counts))

    @cached_property
    def _fixed_ms(self) -> float:
        """Kernels of contractions that cannot shrink."""
        return sum(self.profile.ms(self.fixed_kernels))

    def _contractions_ms(self, counts: Counts) -> Times:
        widths = self.widths.sizes(counts)
        total: Times = np.full(counts.shape[:-1], self._fixed_ms)
        for term in self.terms:
            total = total + term.ms(widths)
        return total

    def steps(self) -> list[int]:
        """For each group, the multiple of channels at which the operators that have it as a width run well.

        It is at most a quarter of the group's channels: a narrow group is part of something wider, or has little
        choice.
        """
        steps = [1] * len(self.dependencies.groups)
        for term in self.terms:
            for size, step in zip(term.sizes, term.curve.steps, strict=True):
                for place in size.places:
                    for group in self.widths.groups_of(place):
                        per_channel = self.widths.per_channel(place, group) * size.fixed
                        steps[group] = max(steps[group], step // gcd(step, per_channel))
        return [
            min(step, 1 << max(0, (group.channels // 4).bit_length() - 1))
            for step, group in zip(steps, self.dependencies.groups, strict=True)
        ]

    def _terms(self) -> tuple[list[Term], list[Kernel]]:
        found: dict[Family, list[tuple[str, tuple[Factor, ...]]]] = defaultdict(list)
        fixed: list[Kernel] = []
        for contraction in self.dependencies.contractions:
            kernel, sizes = self._sizes(contraction)
            free = [bool(size.places) for size in sizes]
            if not any(free):
                first, second, third, fourth = (size.fixed for size in sizes)
                fixed.append(Kernel(kernel.op, (first, second, third, fourth), kernel.window))
                continue
            entries, rows, columns, summed = (None if size.places else size.fixed for size in sizes)
            family = Family(kernel.op, (entries, rows, columns, summed), kernel.window)
            found[family].append((contraction.node, tuple(size for size in sizes if size.places)))
        terms = []
        for family, members in found.items():
            widths = self.widths.sizes(self.full)
            largest = np.array([[int(size.of(widths)) for size in sizes] for _, sizes in members]).max(0)
            curve = curve_of(family, tuple(largest.tolist()), self.profile)
            terms += [Term(node, curve, sizes) for node, sizes in members]
        return terms, fixed

    def _sizes(self, contraction: Contraction) -> tuple[KernelLoops, list[Factor]]:
        kernel = KernelLoops.of(contraction)
        places = self.widths.places(contraction.planes, len(contraction.loops))
        samples = frozenset(
            loop for plane in contraction.planes if is_sample(plane) for loop in varying(plane)
        ) | ({0} if contraction.window else frozenset())  # fmt: skip
        return kernel, [self._factor(contraction.loops, places, loops, samples) for loops in kernel.loops]

    def _factor(
        self, shape: Sequence[int], places: Sequence[int | None], dims: frozenset[int], samples: frozenset[int]
    ) -> Factor:
        free = tuple(place for dim in sorted(dims) if (place := places[dim]) is not None)
        fixed = prod(shape[dim] for dim in dims if places[dim] is None)
        if samples & dims:
            fixed = fixed * self.profile.target.batch_size // self._example_batch
        return Factor(fixed, free)

    def _results(self, program: Program) -> list[Factor]:
        """Sizes of what nodes write that are neither contractions nor views; those of the same widths are added up."""
        passed = {contraction.node for contraction in self.dependencies.contractions} | self.dependencies.views
        found: dict[tuple[int, ...], int] = defaultdict(int)
        for node in program.module.graph.nodes:
            if node.op in ("placeholder", "get_attr", "output") or node.name in passed:
                continue
            for operand in leaf_operands(self.dependencies.values[node.name]):
                rank = len(operand.shape)
                places = self.widths.places(operand.planes, rank)
                written = self._factor(operand.shape, places, frozenset(range(rank)), frozenset({0}))
                found[written.places] += written.fixed
        return [Factor(fixed, places) for places, fixed in found.items()]


def _sum(sizes: Sequence[Factor], widths: NDArray[np.int64]) -> Times:
    total: Times = np.zeros(widths.shape[:-1])
    for size in sizes:
        total = total + size.of(widths)
    return total
