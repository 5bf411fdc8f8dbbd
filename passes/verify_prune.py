"""Proves the last prune: compact equals masked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphprune.equivalence import MaskedProgram, verify_compact
from graphprune.pass_protocol import Pass, PassResult
from graphprune.program import Program


@dataclass(frozen=True)
class VerifyPrune(Pass):
    """Compares the program with the masked program that it came from, then lets that one go."""

    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"origin"})
    drops: ClassVar[frozenset[str]] = frozenset({"origin"})

    def run(self, program: Program) -> PassResult:
        """Verifies.

        Raises:
            VerificationError: the programs differ.
        """
        origin = program.origin
        assert origin is not None and origin.dependencies is not None and origin.selection is not None
        masked = MaskedProgram.of(origin, origin.dependencies, origin.selection.keep, origin.selection.masks)
        verification = verify_compact(masked, program, self.seed)
        remark = f"max abs error {verification.max_abs_error:.2g} at scale {verification.scale:.2g}"
        return PassResult(replace(program, origin=None, verification=verification), True, (remark,))
