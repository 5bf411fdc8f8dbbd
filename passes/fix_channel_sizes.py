"""Turns channel sizes that the program reads from shapes into literals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.coupling.dead_code import removable_nodes, without_nodes
from graphprune.coupling.first_analysis import analysed_first
from graphprune.coupling.shapes import RecordedShapes
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.facts import Fact, FirstAnalysis
from graphprune.program.program import Program
from graphprune.rewrite.channel_sizes import with_fixed_channel_sizes


@dataclass(frozen=True)
class FixChannelSizes(Pass):
    """Replaces ``x.shape[1]`` by its value where dim 1 holds channels.

    What is computed from it (the width of a head, a scale) then keeps its value when channels are removed; sizes that
    have to shrink are rewritten from the labels. Batch and spatial sizes stay dynamic.

    A parameter or layer of which nothing but such a size was read is dead then. It is dropped, and the channels, which
    it no longer has a part in, are found again.
    """

    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies})

    def run(self, program: Program) -> PassResult:
        """Replaces the size reads by literals, and folds arithmetic on them."""
        module, fixed = with_fixed_channel_sizes(program.module, program[Dependencies])
        if not fixed:
            return PassResult(program, False, ("no channel sizes read",))
        remarks = (f"{fixed} sizes became literals",)
        changed = program.with_module(module)
        if dead := removable_nodes(changed):
            smaller, gone = without_nodes(changed, dead)
            found = analysed_first(smaller, program[Dependencies].choices)
            return PassResult(found, True, (*remarks, *(f"only a size of {name} is read" for name in gone)))
        still_true = (program[Dependencies], program[RecordedShapes], program[FirstAnalysis])
        return PassResult(changed.knowing(*still_true), True, remarks)
