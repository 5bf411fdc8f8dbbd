"""What every regression test does: prune a minimal program at random and compare with the user's own zeroed model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphprune.capture import capture
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.program.example import Example
from graphprune.program.program import Attention, Program
from tests.ops.case import randomised
from tests.property.checks import dependencies_of, pruned, zeroed_equals_compact


def analysed(model: nn.Module, example: Any, attention: Attention = "heads") -> Program:
    """The program of a model in float64, with its dependencies."""
    torch.manual_seed(0)
    model = randomised(model).double().eval()
    double = Example.of(example).mapped(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    return Runner().run(pipelines.analysis(), capture(model, double, attention=attention))


def prunable(program: Program, name: str, dim: int = 0) -> int:
    """How many indices of a dim can go."""
    owner = next(owner for owner in dependencies_of(program).stored if (owner.name, owner.dim) == (name, dim))
    return int((dependencies_of(program).channel_of[owner.start : owner.start + owner.size] >= 0).sum())


def assert_prunes_right(
    model: nn.Module, example: Any, attention: Attention = "heads", *, mixing: bool = False
) -> None:
    """Some keep sets, each with verification and all invariants.

    Args:
        model: The minimal program.
        example: Its input.
        attention: What goes of attention.
        mixing: Statistics over channels are taken, so that the zeroed model is no oracle.
    """
    program = analysed(model, example, attention)
    dependencies = dependencies_of(program)
    assert dependencies.groups, "there is nothing to prune, so nothing is tested"
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        keep = torch.zeros(dependencies.channels, dtype=torch.bool)
        for group in dependencies.groups:
            # the first time, one channel of each group is all that stays
            keep[group.start : group.stop] = torch.rand(group.channels, generator=generator) < (0.6 if seed else 0.0)
            keep[group.start + int(torch.randint(group.channels, (), generator=generator))] = True
        compact = pruned(program, keep)
        if not mixing:
            zeroed_equals_compact(model, compact)
