"""Sets the weights that a selection does not keep to zero."""

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
    """Sets dead weights to zero, and gives weights that come back their former values.

    Attributes:
        resurrect: Whether the values of dead weights are kept, so that the weights can come back.
    """

    resurrect: bool = False
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, Selection})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Origin})

    def run(self, program: Program) -> PassResult:
        """Returns a program whose module has zeros in place of dead weights; other tensors are shared."""
        masks, full = dict(program[Selection].masks), full_weights(program)
        touched = masks.keys() | program.history.masks.keys()
        if not touched:
            return PassResult(program, False)
        module = copy_sharing_tensors(program.module)
        # filling a clone keeps the memory format, such as channels last; multiplying by the mask would not
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
        """Dead weights are zero, and weights that stay live have not changed."""
        now, then = stored_parameters(result.program.module), stored_parameters(before.module)
        problems = []
        for name, mask in result.program.history.masks.items():
            same = mask & before.history.masks[name] if name in before.history.masks else mask
            # comparisons, because indexing would copy most of a large parameter
            if bool(((now[name] != 0) & ~mask).any()) or bool(((now[name] != then[name]) & same).any()):
                problems.append(f"{name}: dead weights are not zero, or live ones changed")
        return problems
