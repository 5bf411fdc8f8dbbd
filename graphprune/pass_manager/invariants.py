"""What holds of every program between passes, one named function each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from graphprune.coupling.protection import protected_tensors
from graphprune.coupling.shapes import RecordedShapes, propagate_shapes
from graphprune.labels.dependencies import Dependencies
from graphprune.program.facts import Fact, FirstAnalysis
from graphprune.program.liveness import dead_nodes, tensors_read_by
from graphprune.program.program import Program
from graphprune.program.tensors import Layers, stored_parameters, stored_tensors

Invariant = Callable[[Program], list[str]]
"""Returns a message for each place where something that must hold does not."""

Subject = Literal["module", "history"] | type[Fact]
"""A part of a program: its module, its history, or its fact of a given type."""

INVARIANTS: dict[Invariant, tuple[Subject, ...]] = {}
"""Each invariant with the parts of a program that it is about.

`shapes_are_as_recorded` is not among them: it is checked last, because it runs the module.
"""


def invariant(*subjects: Subject) -> Callable[[Invariant], Invariant]:
    """Registers an invariant with the parts of a program that it is about; without one of them it is not checked."""

    def register(function: Invariant) -> Invariant:
        INVARIANTS[function] = subjects
        return function

    return register


@invariant("module")
def graph_is_well_formed(program: Program) -> list[str]:
    """The graph passes the lint of torch.fx."""
    try:
        program.module.graph.lint()
    except (RuntimeError, ValueError) as error:
        return [f"graph: {error}"]
    return []


@invariant("module")
def references_resolve(program: Program) -> list[str]:
    """Every module and tensor that the graph names exists."""
    problems = []
    for node in program.module.graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        value: Any = program.module
        for part in str(node.target).split("."):
            value = getattr(value, part, None)
        if value is None:
            problems.append(f"node %{node.name}: '{node.target}' does not exist")
    return problems


@invariant(Dependencies)
def groups_partition_channels(program: Program) -> list[str]:
    """Each channel belongs to one group; groups are consecutive ranges."""
    dependencies = program[Dependencies]
    expected, problems = 0, []
    for group in dependencies.groups:
        if group.start != expected or group.stop <= group.start:
            problems.append(f"group {group.id} is {group.start}:{group.stop}, expected to start at {expected}")
        expected = group.stop
    highest = int(dependencies.channel_of.max()) + 1
    if highest != expected:
        problems.append(f"groups hold {expected} channels, labels name {highest}")
    return problems


@invariant("module", Dependencies)
def label_maps_fit_tensors(program: Program) -> list[str]:
    """The labelled dims of each parameter and buffer have the sizes that the tensors have."""
    shapes = {name: tensor.shape for name, tensor in stored_tensors(program.module).items()}
    return [
        f"{owner.name} dim {owner.dim}: {owner.size} labels for "
        f"{tuple(shapes[owner.name]) if owner.name in shapes else 'no tensor'}"
        for owner in program[Dependencies].stored
        if owner.name not in shapes or shapes[owner.name][owner.dim] != owner.size
    ]


@invariant("module", Dependencies)
def every_parameter_is_read(program: Program) -> list[str]:
    """Each parameter of an analysed program is read by a node that is not dead; see `dead_nodes`."""
    if references_resolve(program):
        return []
    layers, protected = Layers(program.module), protected_tensors(program.module, program.protect)
    dead = set(dead_nodes(program.module, protected))
    alive = [node for node in program.module.graph.nodes if node not in dead]
    read = {id(tensor) for node in alive for tensor in tensors_read_by(layers, node)}
    parameters = stored_parameters(program.module).items()
    return [f"parameter {name} is read by nobody" for name, parameter in parameters if id(parameter) not in read]


@invariant("module", FirstAnalysis)
def classes_fit_tensors(program: Program) -> list[str]:
    """Each remaining index has a class: the channel that it belonged to in the user's model."""
    shapes = {name: tensor.shape for name, tensor in stored_tensors(program.module).items()}
    return [
        f"{name} dim {dim}: {len(classes)} classes for {tuple(shapes[name])}"
        for (name, dim), classes in program[FirstAnalysis].classes.items()
        if name in shapes and shapes[name][dim] != classes.shape[0]
    ]


@invariant("module", "history")
def kept_indices_are_valid(program: Program) -> list[str]:
    """Kept indices are ascending, unique, not negative, and as many as the tensor has along the dim."""
    tensors = stored_tensors(program.module)
    problems = [
        f"kept indices of {name} dim {dim} are empty, negative, or not ascending"
        for (name, dim), ascending in zip(
            program.history.kept, _ascend(list(program.history.kept.values())), strict=True
        )
        if not ascending
    ]
    for (name, dim), indices in program.history.kept.items():
        if name not in tensors or tensors[name].shape[dim] != len(indices):
            size = tuple(tensors[name].shape) if name in tensors else "no tensor"
            problems.append(f"kept {len(indices)} indices of {name} dim {dim}, found {size}")
    return problems


def _ascend(runs: list[Tensor]) -> list[bool]:
    """Whether each run of indices is not empty and ascends from zero or more."""
    # a -1 in front turns "not negative" into "ascending", and one comparison serves all runs
    start = torch.tensor([-1])
    joined = torch.cat([piece for run in runs for piece in (start, run)] + [start])
    ends = torch.tensor([len(run) + 1 for run in runs], dtype=torch.long).cumsum(0)
    wrong = (joined[1:] <= joined[:-1]).long()
    wrong[ends - 1] = 0  # compares the last index of a run with the -1 of the next
    below = torch.cat([torch.zeros(1, dtype=torch.long), wrong.cumsum(0)])
    bad = below[ends] - below[torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]])]
    return [len(run) > 0 and not count for run, count in zip(runs, bad.tolist(), strict=True)]


def shapes_are_as_recorded(program: Program) -> list[str]:
    """Running the program on shapes gives the shapes that were recorded or, after a prune, predicted."""
    if (shapes := program.get(RecordedShapes)) is None:
        return []
    found, failure = propagate_shapes(program)
    return ([f"shapes: {failure}"] if failure else []) + [
        f"node %{name}: shape {found[name]}, expected {shape}"
        for name, shape in shapes.by_node.items()
        if name in found and found[name] != shape
    ]


def violations(program: Program, since: Program | None = None) -> list[str]:
    """Messages about every violated invariant; shapes are checked only if all else holds.

    Args:
        program: The program.
        since: A program that was checked before; parts that are the same objects are not checked again.
    """

    def is_new(subject: Subject) -> bool:
        return since is None or _part(program, subject) is not _part(since, subject)

    def is_due(subjects: tuple[Subject, ...]) -> bool:
        return any(map(is_new, subjects)) and all(_part(program, subject) is not None for subject in subjects)

    due = [invariant for invariant, subjects in INVARIANTS.items() if is_due(subjects)]
    found = [problem for invariant in due for problem in invariant(program)]
    return found if found or not is_new("module") else shapes_are_as_recorded(program)


def _part(program: Program, subject: Subject) -> object:
    return getattr(program, subject) if isinstance(subject, str) else program.get(subject)
