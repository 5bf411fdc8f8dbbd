"""Removes channels for real."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.costs.model import costs_of, count_parameters
from graphprune.coupling.shapes import RecordedShapes
from graphprune.criteria.scores import Scores, WeightScores
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.facts import Fact
from graphprune.program.program import Origin, Program
from graphprune.rewrite.compact import compact_module, foretold_shapes
from graphprune.selection.record import Selection


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Makes parameters, buffers, module attributes and literal sizes smaller as the selection says."""

    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, Selection})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Origin})
    drops: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, Scores, WeightScores, Selection})

    def run(self, program: Program) -> PassResult:
        """Gives the compact program; nothing changes where the selection keeps everything."""
        dependencies, selection = program[Dependencies], program[Selection]
        removed = int((~selection.keep).sum())
        module = compact_module(program, dependencies, selection.keep)
        compact = program.pruned(module, dependencies.kept(selection.keep), removed)
        shapes = RecordedShapes(foretold_shapes(dependencies, selection.keep))
        compact = compact.knowing(shapes, program.get(Origin) or Origin(program))
        return PassResult(compact, True, (f"{removed} channels removed",))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """Parameters are as many as the cost model foretold."""
        foretold = costs_of(before).params(before[Selection].keep)
        found = count_parameters(result.program.module)
        return [] if found == foretold else [f"{found} parameters, foretold {foretold}"]
