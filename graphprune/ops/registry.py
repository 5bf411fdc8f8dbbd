"""The one table of op rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from graphprune.errors import InternalError
from graphprune.planes import Planes

if TYPE_CHECKING:
    from graphprune.ops.call import OpCall

Rule = Callable[["OpCall"], Sequence[Planes]]
"""Takes an op call, ties the labels that must go together, returns the planes of each output tensor."""

RULES: dict[Any, Rule] = {}


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Registers a rule for ATen overloads, or for all overloads of an overload packet.

    Raises:
        InternalError: a target has a rule already.
    """

    def register(function: Rule) -> Rule:
        for target in targets:
            if target in RULES:
                raise InternalError(f"{target} has a rule already: {RULES[target].__name__}")
            RULES[target] = function
        return function

    return register


def rule_for(func: Any) -> Rule | None:
    """The rule of an ATen overload: its own, its packet's, or the one of a tag of its; None where there is none."""
    found = RULES.get(func) or RULES.get(func.overloadpacket)
    if found is None:
        return next((RULES[tag] for tag in _TAGS if tag in func.tags), None)
    return found


_TAGS = (torch.Tag.nondeterministic_seeded, torch.Tag.pointwise)
