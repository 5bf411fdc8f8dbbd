"""Each invariant has a program that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import fx, nn

from graphprune.coupling.shapes import RecordedShapes
from graphprune.criteria.scores import Scores
from graphprune.errors import InvariantError
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.invariants import violations
from graphprune.pass_manager.runner import check
from graphprune.program.facts import FirstAnalysis
from graphprune.program.program import Program
from graphprune.program.surgery import copy_sharing_tensors
from graphprune.selection.record import Selection
from tests.small_models import Residual, analysed, images


def sound() -> Program:
    program, _ = analysed(Residual(), images())
    return replace(program, module=copy_sharing_tensors(program.module))


def dependencies_of(program: Program) -> Dependencies:
    return program[Dependencies]


def node_of(program: Program, name: str) -> fx.Node:
    found: fx.Node = next(node for node in program.module.graph.nodes if node.name == name)
    return found


def test_a_sound_program_breaks_nothing() -> None:
    assert violations(sound()) == []


def malformed_graph() -> Program:
    program = sound()
    node_of(program, "stem").args = (node_of(program, "fc"),)  # uses a value before it is there
    return program


def unresolved_module() -> Program:
    program = sound()
    del program.module._modules["conv1"]
    return program


def missing_tensor() -> Program:
    program = sound()
    program.module.get_submodule("conv1").weight = None  # type: ignore[assignment]
    return program


def unresolved_tensor() -> Program:
    program = sound()
    with program.module.graph.inserting_before(node_of(program, "fc")):
        program.module.graph.create_node("get_attr", "nowhere.at_all")
    return program


def kept_out_of_order() -> Program:
    program = sound()
    return replace(
        program, history=replace(program.history, kept={("stem.weight", 0): torch.tensor([0, 2, 1, 3, 4, 5])})
    )


def kept_negative() -> Program:
    return replace(sound(), history=replace(sound().history, kept={("stem.weight", 0): torch.arange(-1, 5)}))


def kept_of_another_length() -> Program:
    return replace(sound(), history=replace(sound().history, kept={("stem.weight", 0): torch.arange(4)}))


def kept_of_nothing() -> Program:
    return replace(sound(), history=replace(sound().history, kept={("stam.weight", 0): torch.arange(4)}))


def overlapping_groups() -> Program:
    program = sound()
    found = dependencies_of(program)
    groups = (found.groups[0], replace(found.groups[1], start=found.groups[1].start - 1), *found.groups[2:])
    return program.knowing(replace(found, groups=groups))


def too_few_groups() -> Program:
    program = sound()
    found = dependencies_of(program)
    return program.knowing(replace(found, groups=found.groups[:-1]))


def tensor_of_another_size() -> Program:
    program = sound()
    program.module.get_submodule("conv1").weight = nn.Parameter(torch.zeros(3, 6, 3, 3))
    return program


def too_few_scores() -> Program:
    return sound().knowing(Scores(torch.zeros(5), "test"))


def scores_that_are_not_finite() -> Program:
    program = sound()
    return program.knowing(Scores(torch.full((dependencies_of(program).channels,), torch.nan), "test"))


def selection_of_another_length() -> Program:
    return sound().knowing(Selection(torch.ones(5, dtype=torch.bool)))


def selection_that_empties_a_group() -> Program:
    program = sound()
    keep = torch.ones(dependencies_of(program).channels, dtype=torch.bool)
    keep[: dependencies_of(program).groups[0].stop] = False
    return program.knowing(Selection(keep))


def other_shapes_than_recorded() -> Program:
    program = sound()
    return program.knowing(RecordedShapes(program[RecordedShapes].by_node | {"relu": ((2, 5, 6, 6),)}))


def classes_of_another_length() -> Program:
    program = sound()
    return program.knowing(
        replace(program[FirstAnalysis], classes=program[FirstAnalysis].classes | {("stem.weight", 0): torch.arange(4)})
    )


def shapes_that_cannot_be_found() -> Program:
    program = sound()
    node_of(program, "mean").args = (node_of(program, "relu_3"), (2, 7))
    return program


BROKEN: dict[Callable[[], Program], str] = {
    malformed_graph: "graph: .*stem",
    unresolved_module: r"node %conv1: 'conv1' does not exist",
    missing_tensor: "conv1.weight dim 0: 4 labels for no tensor",
    unresolved_tensor: "node %nowhere_at_all: 'nowhere.at_all' does not exist",
    kept_out_of_order: "kept indices of stem.weight dim 0 are empty, negative, or not ascending",
    kept_negative: "kept indices of stem.weight dim 0 are empty, negative, or not ascending",
    kept_of_another_length: r"kept 4 indices of stem.weight dim 0, found \(6, 2, 3, 3\)",
    kept_of_nothing: "kept 4 indices of stam.weight dim 0, found no tensor",
    classes_of_another_length: r"stem.weight dim 0: 4 classes for \(6, 2, 3, 3\)",
    overlapping_groups: "group g1 is 5:10, expected to start at 6",
    too_few_groups: "groups hold 10 channels, labels name 18",
    tensor_of_another_size: r"conv1.weight dim 0: 4 labels for \(3, 6, 3, 3\)",
    too_few_scores: "5 scores for 18 channels",
    scores_that_are_not_finite: "scores are not finite",
    selection_of_another_length: "the selection has 5 channels of 18",
    selection_that_empties_a_group: r"group g0 \(stem.weight\) keeps no channel",
    other_shapes_than_recorded: r"node %relu: shape \(\(\d, 6, 6, 6\),\), expected \(\(2, 5, 6, 6\),\)",
    shapes_that_cannot_be_found: "shapes: .*%mean",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_each_invariant_finds_what_breaks_it(broken: Callable[[], Program]) -> None:
    with pytest.raises(InvariantError, match=f"after test:(.|\n)*{BROKEN[broken]}"):
        check(broken(), "after test")


def test_every_violation_is_named_at_once() -> None:
    program = kept_of_another_length().knowing(Scores(torch.zeros(5), "test"), Selection(torch.ones(5).bool()))
    del program.module._modules["conv1"]
    with pytest.raises(InvariantError) as caught:
        check(program, "after test")
    for part in ("'conv1' does not exist", "kept 4 indices", "5 scores", "the selection has 5 channels"):
        assert part in str(caught.value)
