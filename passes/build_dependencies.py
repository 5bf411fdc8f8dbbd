"""Finds the channels and groups of a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from graphprune.coupling.analysis import analyse
from graphprune.coupling.shapes import RecordedShapes, propagate_shapes, shapes_of
from graphprune.errors import InputError, RewriteError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.labels.operand import Operand
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.example import Example
from graphprune.program.facts import Fact, FirstAnalysis
from graphprune.program.module_state import run_program
from graphprune.program.program import Program
from graphprune.program.surgery import as_many, copy_sharing_tensors, slice_tensors
from graphprune.program.tensors import Layers
from graphprune.rewrite.channel_sizes import with_fixed_channel_sizes
from graphprune.rewrite.compact import foretold_shapes, resize_nodes
from graphprune.rewrite.literals import can_resize
from graphprune.rewrite.sizeless import is_sizeless

Pins = tuple[tuple[str, str], ...]


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
            program, dependencies, pins = _first_analysis(program, self.choices)
            classes, choices = dependencies.classes(), dependencies.choices
            first = FirstAnalysis(pins, classes, choices, dependencies.channels)
        else:
            dependencies = analyse(program, can_resize, first.pins)
        shapes = RecordedShapes({name: shapes_of(value) for name, value in dependencies.values.items()})
        remarks = [f"{len(dependencies.groups)} groups, {dependencies.channels} channels"]
        remarks += [f"%{name} frozen: {reason}" for name, reason in first.pins]
        return PassResult(program.knowing(dependencies, shapes, first), True, tuple(remarks))


def _first_analysis(program: Program, choices: Mapping[str, bool]) -> tuple[Program, Dependencies, Pins]:
    """Analyses the program on two samples, because a batch dim of size 1 could be any other dim of size 1.

    If the model accepts only the example's batch size, it is analysed on its example. The program is returned with the
    example of the analysis.
    """
    small = replace(program, example=program.example.resized(2))
    try:
        _check_positions(program.example, small)
        return small, *_with_pins_for_what_cannot_follow(small, choices)
    except InputError:
        return program, *_with_pins_for_what_cannot_follow(program, choices)


def _check_positions(example: Example, small: Program) -> None:
    """Runs the program if its inputs may be positions among the samples (edges of a graph), which shapes do not show.

    Raises:
        InputError: the program fails, because a position lies outside of the small example.
    """
    positions = [tensor for tensor in example.tensors() if not tensor.is_floating_point() and tensor.dim() > 0]
    if all(map(example.is_batched, positions)):
        return
    try:
        run_program(small, small.example)
    except (RuntimeError, IndexError, ValueError, AssertionError) as error:
        raise InputError(str(error)) from error


def _with_pins_for_what_cannot_follow(program: Program, choices: Mapping[str, bool]) -> tuple[Dependencies, Pins]:
    """Analyses, and freezes nodes that cannot follow, until a trial prune of all groups gives the predicted shapes."""
    pins: Pins = ()
    while True:
        dependencies = analyse(program, can_resize, pins, choices)
        found = _trial(program, dependencies)
        if not found:
            return dependencies, pins
        (name, reason), nodes = found[0], program.module.graph.nodes
        in_vain = sum(earlier == name for earlier, _ in pins) > len(nodes).bit_length()
        # all that leads to the node is frozen and it still does not fit: nothing is certain, so every node is frozen
        pins += tuple((node.name, reason) for node in nodes) if in_vain else found


def _trial(program: Program, dependencies: Dependencies) -> Pins:
    """Prunes half of every group and runs the result on shapes; returns the first node that does not fit, if any."""
    layers = Layers(program.module)
    if not dependencies.groups or all(
        is_sizeless(layers, node) or _returns_its_argument(node, dependencies) for node in program.module.graph.nodes
    ):
        return ()
    keep = KeepSet.of(dependencies, _every_second(dependencies))
    fixed, _ = with_fixed_channel_sizes(program.module, dependencies)
    module = copy_sharing_tensors(fixed)
    slice_tensors(module, keep.indices, as_many)
    try:
        resize_nodes(module, keep)
    except RewriteError as error:
        return ((error.node, f"its sizes cannot be rewritten: {error}"),)
    expected = foretold_shapes(keep)
    return _first_misfit(program.with_module(module), expected)


def _returns_its_argument(node: fx.Node, dependencies: Dependencies) -> bool:
    """Whether a node is a layer that does nothing in evaluation mode (stochastic depth)."""
    sources = [dependencies.values.get(source.name) for source in node.all_input_nodes]
    result = dependencies.values.get(node.name)
    if node.op != "call_module" or node.name not in dependencies.views or len(sources) != 1:
        return False
    return isinstance(result, Operand) and isinstance(sources[0], Operand) and result.planes is sources[0].planes


def _every_second(dependencies: Dependencies) -> Tensor:
    keep = torch.ones(dependencies.channels, dtype=torch.bool)
    for group in dependencies.groups:
        keep[group.start + 1 : group.stop : 2] = False
    return keep


def _first_misfit(compact: Program, expected: dict[str, Any]) -> Pins:
    found, failure = propagate_shapes(compact)
    for node in compact.module.graph.nodes:
        if node.name in expected and expected[node.name] != found.get(node.name):
            return ((node.name, f"its sizes cannot be rewritten{': ' + failure if failure else ''}"),)
    return ()
