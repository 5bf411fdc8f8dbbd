"""The first analysis of a program: its channels, and by a trial prune the nodes that cannot follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.coupling.analysis import analyse
from graphprune.coupling.shapes import RecordedShapes, propagate_shapes, shapes_of
from graphprune.errors import InputError, RewriteError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.labels.operand import Operand
from graphprune.program.example import Example
from graphprune.program.facts import FirstAnalysis
from graphprune.program.module_state import run_program
from graphprune.program.program import Program
from graphprune.program.surgery import as_many, copy_sharing_tensors, slice_tensors
from graphprune.program.tensors import Layers
from graphprune.rewrite.channel_sizes import with_fixed_channel_sizes
from graphprune.rewrite.compact import foretold_shapes, resize_nodes
from graphprune.rewrite.literals import can_resize
from graphprune.rewrite.sizeless import is_sizeless

Pins = tuple[tuple[str, str], ...]
"""Names of nodes that are frozen, each with the reason."""


def analysed_first(program: Program, choices: Mapping[str, bool]) -> Program:
    """Finds the channels of a program that nothing is known of, and what cannot follow a prune.

    It is analysed on two samples, because a batch dim of size 1 could be any other dim of size 1; if the model accepts
    only the example's batch size, on its example. The program is returned with the example of the analysis.

    Args:
        program: The program; facts that it has are not looked at.
        choices: Decisions of op rules, by name of the node, for nodes at which the rules must not decide by themselves.
    """
    small = replace(program, example=program.example.resized(2))
    try:
        _check_positions(program.example, small)
        dependencies, pins = _with_pins_for_what_cannot_follow(small, choices)
        program = small
    except InputError:
        dependencies, pins = _with_pins_for_what_cannot_follow(program, choices)
    first = FirstAnalysis(pins, dependencies.classes(), dependencies.choices, dependencies.channels)
    return program.knowing(dependencies, shapes_in(dependencies), first)


def shapes_in(dependencies: Dependencies) -> RecordedShapes:
    """The shapes of all values that dependencies were found on."""
    return RecordedShapes({name: shapes_of(value) for name, value in dependencies.values.items()})


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
