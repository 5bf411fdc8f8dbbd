"""Finds the channels and groups of a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from graphprune.coupling.analysis import analyse
from graphprune.coupling.first_analysis import analysed_first, shapes_in
from graphprune.coupling.shapes import RecordedShapes
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.facts import Fact, FirstAnalysis
from graphprune.program.program import Program
from graphprune.rewrite.literals import can_resize


@dataclass(frozen=True)
class BuildDependencies(Pass):
    """Runs the program on labels, which shows the channels and the groups.

    The first time, it also tries out a prune: if a node cannot follow (because a size is hidden in Python, say), its
    labels are frozen and the reason is kept.

    Attributes:
        choices: Decisions of op rules, by name of the node, for nodes at which the rules must not decide by themselves.
    """

    choices: Mapping[str, bool] = field(default_factory=dict)
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies, FirstAnalysis, RecordedShapes})

    def run(self, program: Program) -> PassResult:
        """Adds the dependencies, the recorded shapes, and the nodes that cannot be rewritten to the program's facts."""
        if (first := program.get(FirstAnalysis)) is None:
            program = analysed_first(program, self.choices)
        else:
            dependencies = analyse(program, can_resize, first.pins)
            program = program.knowing(dependencies, shapes_in(dependencies))
        return PassResult(program, True, _remarks(program))


def _remarks(program: Program) -> tuple[str, ...]:
    dependencies, pins = program[Dependencies], program[FirstAnalysis].pins
    found = f"{len(dependencies.groups)} groups, {dependencies.channels} channels"
    return (found, *(f"%{name} frozen: {reason}" for name, reason in pins))
