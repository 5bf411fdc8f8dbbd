"""Sets the running statistics of batch norms to those of the compact program's own activations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.facts import Fact
from graphprune.program.program import Program
from graphprune.repair.recalibrate import recalibrate
from graphprune.repair.record import Repair, changes_elsewhere
from graphprune.repair.samples import Split
from graphprune.verification.record import Verification


@dataclass(frozen=True)
class RecalibrateNorms(Pass):
    """Takes mean and variance of what each batch norm reads, in the order of the graph.

    Attributes:
        dense: The dense program, by whose outputs the result is judged.
        samples: Samples of which the statistics are taken, and samples that are held out.
    """

    dense: Program = field(repr=False)
    samples: Split = field(repr=False)
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Repair})
    drops: ClassVar[frozenset[type[Fact]]] = frozenset({Verification})

    def run(self, program: Program) -> PassResult:
        """Adds what was done to the program's facts; statistics change only if that brings its outputs nearer."""
        recalibrated, record = recalibrate(program, self.dense, self.samples)
        return PassResult(recalibrated.without(Verification).knowing(record), True, (str(record),))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """Only the statistics of batch norms have changed, and no shape has."""
        return changes_elsewhere(before, result.program)
