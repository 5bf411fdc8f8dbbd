"""Makes the weights zero that a selection does not keep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphprune.costs.pool import full_weights
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.facts import Fact
from graphprune.program.program import Origin, Program
from graphprune.program.surgery import copy_sharing_tensors, replace_tensors
from graphprune.program.tensors import stored_parameters
from graphprune.selection.record import Selection


@dataclass(frozen=True)
class MaskWeights(Pass):
    """Gives parameters zeros for dead weights, and their former values to those that come back.

    Attributes:
        resurrect: Whether values of dead weights are remembered, so that they can come back.
    """

    resurrect: bool = False
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, Selection})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Origin})

    def run(self, program: Program) -> PassResult:
        """Gives a program whose module has zeros in place of dead weights; other tensors are shared."""
        masks, full = dict(program[Selection].masks), full_weights(program)
        touched = masks.keys() | program.history.masks.keys()
        if not touched:
            return PassResult(program, False)
        module = copy_sharing_tensors(program.module)
        # a copy that is filled keeps the memory format, channels last say; one that is made by the mask does not
        values = {
            name: full[name].clone().masked_fill_(~masks[name], 0) if name in masks else full[name] for name in touched
        }
        replace_tensors(module, values)
        dormant = full if self.resurrect else {}
        history, origin = replace(program.history, masks=masks, dormant=dormant), Origin(program.without(Origin))
        masked = replace(program, module=module, history=history).knowing(origin)
        zeros = sum(mask.numel() - int(mask.count_nonzero()) for mask in masks.values())
        return PassResult(masked, True, (f"{zeros} weights are zero",))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """Dead weights are zero, and live ones that were live before are what they were."""
        now, then = stored_parameters(result.program.module), stored_parameters(before.module)
        problems = []
        for name, mask in result.program.history.masks.items():
            same = mask & before.history.masks[name] if name in before.history.masks else mask
            # comparisons, not indexing: that would copy most of a large parameter
            if bool(((now[name] != 0) & ~mask).any()) or bool(((now[name] != then[name]) & same).any()):
                problems.append(f"{name}: dead weights are not zero, or live ones changed")
        return problems
