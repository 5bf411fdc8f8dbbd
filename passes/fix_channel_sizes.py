"""Turns channel sizes that the program reads from shapes into literals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.pass_protocol import Pass, PassResult
from graphprune.program import Program
from graphprune.rewrite.channel_sizes import with_fixed_channel_sizes


@dataclass(frozen=True)
class FixChannelSizes(Pass):
    """Replaces ``x.shape[1]`` by its value where dim 1 holds channels.

    What is computed from it (the width of a head, a scale) then stays what it was when channels go; sizes that have to
    shrink are rewritten from the labels. Batch and spatial sizes stay dynamic.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"dependencies"})

    def run(self, program: Program) -> PassResult:
        """Rewrites size reads, and folds arithmetic on the literals."""
        assert program.dependencies is not None
        module, fixed = with_fixed_channel_sizes(program.module, program.dependencies)
        if not fixed:
            return PassResult(program, False, ("no channel sizes read",))
        changed = program.with_module(module, dependencies=program.dependencies, shapes=program.shapes)
        return PassResult(changed, True, (f"{fixed} sizes became literals",))
