"""Removes channels for real."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphprune.costs import costs_of, count_parameters
from graphprune.pass_protocol import Pass, PassResult
from graphprune.program import Program
from graphprune.rewrite.compact import compact_module, foretold_shapes


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Makes parameters, buffers, module attributes and literal sizes smaller as the selection says."""

    needs: ClassVar[frozenset[str]] = frozenset({"dependencies", "selection"})
    provides: ClassVar[frozenset[str]] = frozenset({"origin"})
    drops: ClassVar[frozenset[str]] = frozenset({"dependencies", "scores", "weight_scores", "selection"})

    def run(self, program: Program) -> PassResult:
        """Gives the compact program; nothing changes where the selection keeps everything."""
        dependencies, selection = program.dependencies, program.selection
        assert dependencies is not None and selection is not None and program.channels_left is not None
        removed = int((~selection.keep).sum())
        module = compact_module(program, dependencies, selection.keep)
        compact = program.pruned(
            module,
            dependencies.kept(selection.keep),
            shapes=foretold_shapes(dependencies, selection.keep),
            channels_left=program.channels_left - removed,
            origin=program.origin or replace(program, origin=None),
        )
        return PassResult(compact, True, (f"{removed} channels removed",))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """Parameters are as many as the cost model foretold."""
        assert before.selection is not None
        foretold = costs_of(before).params(before.selection.keep)
        found = count_parameters(result.program.module)
        return [] if found == foretold else [f"{found} parameters, foretold {foretold}"]
