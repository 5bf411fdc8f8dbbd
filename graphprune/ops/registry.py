"""The one table of op rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from graphprune.errors import InternalError
from graphprune.labels.planes import Planes
from graphprune.ops.call import OpCall

Rule = Callable[[OpCall], Sequence[Planes]]
"""Takes an op call, ties the labels that must go together, and returns the planes of each output tensor."""

RULES: dict[Any, Rule] = {}


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Registers a rule for ATen overloads, for all overloads of a packet, or for an op of another library by its name.

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
    """The rule of an ATen overload: its own, that of its packet, or that of one of its tags; None if there is none."""
    packet = func.overloadpacket
    found = RULES.get(func) or RULES.get(packet) or RULES.get(packet._qualified_op_name)
    if found is None:
        tag = _tag_with_rule(func)
        return None if tag is None else RULES[tag]
    return found


@cache
def _tag_with_rule(func: Any) -> torch.Tag | None:
    """The tag that says which rule an op has; None if there is none.

    For an op that writes in place, the tags of the op that returns a new tensor count as well, because torch does not
    tag all in-place ops.
    """
    name, _, overload = str(func).removeprefix("aten.").partition(".")
    pure = getattr(getattr(torch.ops.aten, name.removesuffix("_"), None), overload, None)
    tags = {*func.tags, *(pure.tags if name.endswith("_") and pure is not None else ())}
    return next((tag for tag in _TAGS if tag in tags), None)


_TAGS = (torch.Tag.nondeterministic_seeded, torch.Tag.pointwise)
