"""Removes the channels that a selection does not keep from the module."""

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
from graphprune.selection.record import Selection, keep_set_of


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Shrinks parameters, buffers, module attributes and literal sizes to the channels of the selection."""

    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, Selection})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Origin, RecordedShapes})
    drops: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, Scores, WeightScores, Selection})

    def run(self, program: Program) -> PassResult:
        """Returns the compact program; nothing changes in the module if the selection keeps everything."""
        keep = keep_set_of(program)
        compact = program.pruned(compact_module(program, keep), keep.indices, keep.removed)
        compact = compact.knowing(RecordedShapes(foretold_shapes(keep)), program.get(Origin) or Origin(program))
        return PassResult(compact, True, (f"{keep.removed} channels removed",))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """The number of parameters is the one that the cost model predicts."""
        foretold = costs_of(before).params(keep_set_of(before))
        found = count_parameters(result.program.module)
        return [] if found == foretold else [f"{found} parameters, foretold {foretold}"]
