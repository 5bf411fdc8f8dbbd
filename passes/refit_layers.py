"""Refits the layers of a compact program to what the dense one computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.facts import Fact
from graphprune.program.program import Program
from graphprune.repair.record import Repair, changes_elsewhere
from graphprune.repair.refit import refit
from graphprune.repair.samples import Split
from graphprune.verification.record import Verification


@dataclass(frozen=True)
class RefitLayers(Pass):
    """Fits each layer by least squares on the activations of the compact program, in the order of the graph.

    Attributes:
        dense: The dense program, with its dependencies.
        samples: Samples to fit to, and samples that are held out.
        seed: Chooses the positions of the activations that are fitted to.
    """

    dense: Program = field(repr=False)
    samples: Split = field(repr=False)
    seed: int = 0
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Repair})
    drops: ClassVar[frozenset[type[Fact]]] = frozenset({Verification})

    def run(self, program: Program) -> PassResult:
        """Adds what was done to the program's facts; weights change only if that brings its outputs nearer."""
        keep = KeepSet.of_indices(self.dense[Dependencies], program.history.kept)
        repaired, record = refit(program, self.dense, keep, self.samples, self.seed)
        return PassResult(repaired.without(Verification).knowing(record), True, (str(record),))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """Only the tensors of fitted layers have changed, and no shape has."""
        return changes_elsewhere(before, result.program)
