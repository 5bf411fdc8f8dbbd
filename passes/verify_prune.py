"""Proves the last prune: compact equals masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.coupling.dependencies import Dependencies
from graphprune.equivalence import MaskedProgram, Verification, verify_compact
from graphprune.pass_protocol import Pass, PassResult
from graphprune.program import Fact, Origin, Program
from graphprune.selection import Selection


@dataclass(frozen=True)
class VerifyPrune(Pass):
    """Compares the program with the masked program that it came from, then lets that one go."""

    seed: int = 0
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Origin})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Verification})
    drops: ClassVar[frozenset[type[Fact]]] = frozenset({Origin})

    def run(self, program: Program) -> PassResult:
        """Verifies.

        Raises:
            VerificationError: the programs differ.
        """
        origin = program[Origin].program
        selection = origin[Selection]
        masked = MaskedProgram.of(origin, origin[Dependencies], selection.keep, selection.masks)
        verification = verify_compact(masked, program, self.seed)
        remark = f"max abs error {verification.max_abs_error:.2g} at scale {verification.scale:.2g}"
        return PassResult(program.without(Origin).knowing(verification), True, (remark,))
