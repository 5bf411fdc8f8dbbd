"""Verifies the last prune: the compact program computes what the masked one computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.facts import Fact
from graphprune.program.program import Origin, Program
from graphprune.selection.record import Selection, keep_set_of
from graphprune.verification.equivalence import MaskedProgram, verify_compact
from graphprune.verification.record import Verification


@dataclass(frozen=True)
class VerifyPrune(Pass):
    """Compares the program with the masked program that it was made from, and then drops that one."""

    seed: int = 0
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Origin})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Verification})
    drops: ClassVar[frozenset[type[Fact]]] = frozenset({Origin})

    def run(self, program: Program) -> PassResult:
        """Adds the result of the comparison to the program's facts.

        Raises:
            VerificationError: the programs differ.
        """
        origin = program[Origin].program
        masked = MaskedProgram.of(origin, keep_set_of(origin), origin[Selection].masks)
        verification = verify_compact(masked, program, self.seed)
        remark = f"max abs error {verification.max_abs_error:.2g} at scale {verification.scale:.2g}"
        return PassResult(program.without(Origin).knowing(verification), True, (remark,))
