"""Removes from a selection the weights and channels that would do nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from graphprune.criteria.scores import Scores
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.paths.connectivity import connectivity_of, useful_masks
from graphprune.paths.dead import dead_paths_of, without_dead_paths
from graphprune.process_state import private_random_state
from graphprune.program.facts import Fact
from graphprune.program.program import Program
from graphprune.request.limits import Limits
from graphprune.selection.record import Selection
from graphprune.verification.comparison import TOLERANCES, difference, scale_of
from graphprune.verification.equivalence import MaskedProgram


@dataclass(frozen=True)
class RemoveDeadPaths(Pass):
    """Removes weights and channels that lie on no path from an input to an output.

    Removing what no output depends on changes no output, and this is verified. What depends on no input is a constant;
    it is removed like anything that is pruned, so what biases and normalisations add to the outputs there is lost.

    Attributes:
        limits: Limits of the channels; None if channels stay and only weights are removed.
        verify: Whether to verify that removing what no output depends on changes no output.
        seed: Seed of the inputs for that check.
    """

    limits: Limits | None = None
    verify: bool = True
    seed: int = 0
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, Selection})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Selection})

    def requires(self, program: Program) -> list[str]:
        """Channels are scored if they have limits, because a floor may have to choose among dead channels."""
        return ["channels are not scored"] if self.limits is not None and Scores not in program else []

    def run(self, program: Program) -> PassResult:
        """Adds a selection without dead paths to the program's facts; nothing changes if there are none."""
        selection = program[Selection]
        dead, live = dead_paths_of(program), without_dead_paths(program, self.limits)
        channels = int((selection.keep & ~live.keep).sum())
        if not dead.weights and not channels:
            return PassResult(program, False)
        remark = f"{dead.weights} weights and {channels} channels on no path go"
        return PassResult(program.knowing(live), True, (remark,))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """Every live weight is on a path, and the outputs do not change without what they do not depend on."""
        left = dead_paths_of(result.program).weights
        problems = [f"{left} live weights are on no path"] if left else []
        if result.modified and self.verify:
            problems += self._changes_of_outputs(before, result.program)
        return problems

    def _changes_of_outputs(self, before: Program, after: Program) -> list[str]:
        """Compares, on a fresh input, the masked program with and without what no output depends on."""
        selection = before[Selection]
        masked = before.masked(selection.masks)
        keep = selection.keep & (connectivity_of(masked).useful | after[Selection].keep)
        useful = Selection(keep, masks=useful_masks(masked))
        for expected, found in zip(self._outputs(before, selection), self._outputs(before, useful), strict=True):
            error, scale = difference(expected, found), scale_of(expected)
            # the sums are the same but for terms that are zero; another order of the terms changes the rounding
            if not error <= TOLERANCES.get(expected.dtype, 0.0) * scale:
                return [f"what no output should depend on changes one by {error:.3g} at scale {scale:.3g}"]
        return []

    def _outputs(self, program: Program, selection: Selection) -> list[Tensor]:
        masked = MaskedProgram.of(program, KeepSet.of(program[Dependencies], selection.keep), selection.masks)
        example = program.example.fresh(program.example.batch_size, torch.Generator().manual_seed(self.seed))
        with private_random_state(self.seed), torch.no_grad():
            leaves = tree_leaves(masked.run(example))
        return [getattr(leaf, "value", leaf) for leaf in leaves if isinstance(leaf, Tensor)]
