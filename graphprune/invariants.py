"""What holds of every program between passes, one named function each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphprune.coupling.shapes import propagate_shapes
from graphprune.program import Program, stored_tensors

Invariant = Callable[[Program], list[str]]


def graph_is_well_formed(program: Program) -> list[str]:
    """The graph lints."""
    try:
        program.module.graph.lint()
    except (RuntimeError, ValueError) as error:
        return [f"graph: {error}"]
    return []


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


def groups_partition_channels(program: Program) -> list[str]:
    """Each channel belongs to one group; groups are consecutive ranges."""
    if program.dependencies is None:
        return []
    expected, problems = 0, []
    for group in program.dependencies.groups:
        if group.start != expected or group.stop <= group.start:
            problems.append(f"group {group.id} is {group.start}:{group.stop}, expected to start at {expected}")
        expected = group.stop
    highest = int(program.dependencies.channel_of.max()) + 1
    if highest != expected:
        problems.append(f"groups hold {expected} channels, labels name {highest}")
    return problems


def label_maps_fit_tensors(program: Program) -> list[str]:
    """The labelled dims of each parameter and buffer have the sizes that the tensors have."""
    if program.dependencies is None:
        return []
    shapes = {name: tensor.shape for name, tensor in stored_tensors(program.module).items()}
    return [
        f"{owner.name} dim {owner.dim}: {owner.size} labels for "
        f"{tuple(shapes[owner.name]) if owner.name in shapes else 'no tensor'}"
        for owner in program.dependencies.stored
        if owner.name not in shapes or shapes[owner.name][owner.dim] != owner.size
    ]


def classes_fit_tensors(program: Program) -> list[str]:
    """Each index that is left has the channel that it belonged to at first."""
    if program.classes is None:
        return []
    shapes = {name: tensor.shape for name, tensor in stored_tensors(program.module).items()}
    return [
        f"{name} dim {dim}: {len(classes)} classes for {tuple(shapes[name])}"
        for (name, dim), classes in program.classes.items()
        if name in shapes and shapes[name][dim] != classes.shape[0]
    ]


def kept_indices_are_valid(program: Program) -> list[str]:
    """Kept indices are ascending, unique, not negative, and as many as the tensor has."""
    tensors = stored_tensors(program.module)
    problems = [
        f"kept indices of {name} dim {dim} are empty, negative, or not ascending"
        for (name, dim), ascending in zip(program.kept, _ascend(list(program.kept.values())), strict=True)
        if not ascending
    ]
    for (name, dim), indices in program.kept.items():
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
    wrong[ends - 1] = 0  # from the last index of a run to the -1 of the next
    below = torch.cat([torch.zeros(1, dtype=torch.long), wrong.cumsum(0)])
    bad = below[ends] - below[torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]])]
    return [len(run) > 0 and not count for run, count in zip(runs, bad.tolist(), strict=True)]


def scores_match_channels(program: Program) -> list[str]:
    """One finite importance per channel."""
    if program.scores is None or program.dependencies is None:
        return []
    importance = program.scores.importance
    if len(importance) != program.dependencies.channels:
        return [f"{len(importance)} scores for {program.dependencies.channels} channels"]
    return [] if bool(torch.isfinite(importance).all()) else ["scores are not finite"]


def selection_keeps_every_group(program: Program) -> list[str]:
    """A selection names every channel, and empties no group."""
    if program.selection is None or program.dependencies is None:
        return []
    keep = program.selection.keep
    if len(keep) != program.dependencies.channels:
        return [f"the selection has {len(keep)} channels of {program.dependencies.channels}"]
    return [
        f"group {group.id} ({group.name}) keeps no channel"
        for group, left in zip(program.dependencies.groups, program.dependencies.left_of_groups(keep), strict=True)
        if not left
    ]


def shapes_are_as_recorded(program: Program) -> list[str]:
    """Running the program on shapes gives the shapes that were recorded or, after pruning, foretold."""
    if program.shapes is None:
        return []
    found, failure = propagate_shapes(program)
    return ([f"shapes: {failure}"] if failure else []) + [
        f"node %{name}: shape {found[name]}, expected {shape}"
        for name, shape in program.shapes.items()
        if name in found and found[name] != shape
    ]


INVARIANTS: dict[Invariant, tuple[str, ...]] = {
    graph_is_well_formed: ("module",),
    references_resolve: ("module",),
    kept_indices_are_valid: ("module", "kept"),
    classes_fit_tensors: ("module", "classes"),
    groups_partition_channels: ("dependencies",),
    label_maps_fit_tensors: ("module", "dependencies"),
    scores_match_channels: ("dependencies", "scores"),
    selection_keeps_every_group: ("dependencies", "selection"),
}
"""Each with the fields of a program that it is about. `shapes_are_as_recorded` comes after, for it runs the module."""


def violations(program: Program, since: Program | None = None) -> list[str]:
    """Every violated invariant; shapes only where the structure is sound.

    Args:
        program: The program.
        since: A program that was checked before; what holds of its fields is not checked again for the same objects.
    """

    def is_new(fields: tuple[str, ...]) -> bool:
        return since is None or any(getattr(program, name) is not getattr(since, name) for name in fields)

    found = [problem for invariant, fields in INVARIANTS.items() if is_new(fields) for problem in invariant(program)]
    return found if found or not is_new(("module",)) else shapes_are_as_recorded(program)
