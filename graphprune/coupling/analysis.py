"""Analysis of a program: one run on labels, then the unions that it found are solved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.coupling.interpret import interpret, meta_tensors, operands_of
from graphprune.coupling.labelled import LabelRun
from graphprune.coupling.protection import protected_dims
from graphprune.errors import WRITES, CaptureError
from graphprune.labels.dependencies import Dependencies, leaf_operands
from graphprune.labels.groups import NOT_PRUNABLE, number_channels
from graphprune.labels.labels import PINNED, Cause, LabelSpace, look_up, merged
from graphprune.labels.planes import channel_planes, squash, thin, varying
from graphprune.program.facts import FirstAnalysis
from graphprune.program.nodes import source_line
from graphprune.program.program import Program, device_of
from graphprune.program.tensors import stored_parameters

CHOICES = ("more of what is flattened", "outer of what is broadcast", "whole entries", "whole groups of a convolution")
"""Kinds of choices that op rules make, in the order in which the analysis tries the opposite decision."""


def analyse(
    program: Program,
    rewritable: Callable[[fx.Node], bool],
    pins: Sequence[tuple[str, str]] = (),
    choices: Mapping[str, bool] | None = None,
) -> Dependencies:
    """Runs a program on labels and solves the unions.

    Where a choice turns out to be in vain (no whole head can be removed, but perhaps the same indices of every head),
    the opposite choice is tried, and kept if it gives more channels.

    Args:
        program: The program; it is not changed.
        rewritable: Whether positions in a node can be rewritten; other nodes freeze the channels that they address by
            position.
        pins: Names of nodes whose labels are frozen as well, each with the reason.
        choices: Decisions of op rules, by node, for a first analysis; later analyses keep the decisions of the first.
    """
    if (first := program.get(FirstAnalysis)) is not None:
        return _analyse(program, rewritable, pins, first.choices)[0]
    found, in_vain = _analyse(program, rewritable, pins, choices or {})
    for kind in CHOICES:
        changed = {choice: not found.choices[choice] for choice in in_vain if choice.endswith(kind)}
        if changed:
            other, still_in_vain = _analyse(program, rewritable, pins, found.choices | changed)
            if other.channels > found.channels:
                found, in_vain = other, still_in_vain
    return found


def _analyse(
    program: Program,
    rewritable: Callable[[fx.Node], bool],
    pins: Sequence[tuple[str, str]],
    choices: Mapping[str, bool],
) -> tuple[Dependencies, list[str]]:
    """Dependencies under some choices, and the choices in vain: the channels that they hoped for are not prunable."""
    run = LabelRun(LabelSpace(), device=device_of(program), choices=dict(choices), attention=program.attention)
    values: dict[str, Any] = {}

    def record(node: fx.Node, result: Any) -> None:
        values[node.name] = operands_of(result)

    interpret(program, run, meta_tensors(program.module), program.example, record)
    _refuse_writes(program, run)
    _freeze_outputs(program, run, values)
    _freeze_protected(program, run)
    _tie_first_classes(program, run)
    for index, (node, reason) in enumerate(pins):
        repeats = sum(1 for earlier, _ in pins[:index] if earlier == node)
        _freeze_node(program, run, values, node, reason, reach=2**repeats)
    root = _solve(program, run, rewritable)
    channel_of, groups = number_channels(run.space, root, [plane for plane, _ in run.moved_planes()])
    in_vain = [choice for choice, plane, wanted in run.hopes if _classes(look_up(root, squash(plane))) < wanted]
    return Dependencies(
        run.space, channel_of, groups, values, tuple(run.contractions), frozenset(run.normalised), run.choices,
        run.rewritten(), frozenset(run.views) - {node for node, _ in run.writes},
    ), in_vain  # fmt: skip


def _refuse_writes(program: Program, run: LabelRun) -> None:
    """Refuses a program that writes to a parameter, even if the write changed nothing during capture.

    Raises:
        CaptureError: a parameter is written to; the message says what to do instead.
    """
    parameters = stored_parameters(program.module)
    for node, memory in run.writes:
        if (name := run.stored.get(memory)) in parameters:
            raise CaptureError(WRITES.format(f"the model writes, in node %{node},", name))


def _freeze_outputs(program: Program, run: LabelRun, values: dict[str, Any]) -> None:
    output = next(node for node in program.module.graph.nodes if node.op == "output")
    for node in output.all_input_nodes:
        cause = Cause(output.name, "output", "leaves the program", source_line(node))
        for operand in leaf_operands(values[node.name]):
            for plane in channel_planes(operand.planes):
                run.space.pin(squash(plane), cause)


def _freeze_protected(program: Program, run: LabelRun) -> None:
    owners = {(owner.name, owner.dim): owner for owner in run.space.owners if owner.stored}
    for key, pattern in protected_dims(program.module, program.protect).items():
        if key in owners:
            run.space.pin(owners[key].labels, Cause("", "protect", f"protected by '{pattern}'", origin="request"))


def _tie_first_classes(program: Program, run: LabelRun) -> None:
    """Restores the ties and freezes of the user's model, even where a layer is now so small that it needs none."""
    if (first := program.get(FirstAnalysis)) is None:
        return
    owners = [owner for owner in run.space.owners if owner.stored]
    labels = torch.cat([owner.labels for owner in owners])
    classes = torch.cat([first.classes[owner.name, owner.dim] for owner in owners])
    cause = Cause("", "round", "was so in the user's model")
    run.space.pin(labels[classes == NOT_PRUNABLE], cause)
    labels, classes = labels[classes != NOT_PRUNABLE], classes[classes != NOT_PRUNABLE]
    order = torch.argsort(classes, stable=True)
    labels, classes = labels[order], classes[order]
    together = classes[1:] == classes[:-1]
    run.space.union(labels[1:][together], labels[:-1][together], cause)


def _freeze_node(
    program: Program, run: LabelRun, values: dict[str, Any], name: str, reason: str, *, reach: int
) -> None:
    """Pins the labels that a node carries, and those that the nodes up to ``reach`` steps before it carry."""
    node = next(node for node in program.module.graph.nodes if node.name == name)
    cause = Cause(name, str(getattr(node.target, "__name__", node.target)), reason, source_line(node), "gap")
    touched = front = {node: None}
    for _ in range(min(reach, len(program.module.graph.nodes))):
        front = {source: None for user in front for source in user.all_input_nodes if source not in touched}
        touched = touched | front
    for each in touched:
        for operand in leaf_operands(values[each.name]):
            for plane in channel_planes(operand.planes):
                run.space.pin(squash(plane), cause)


def _solve(program: Program, run: LabelRun, rewritable: Callable[[fx.Node], bool]) -> Tensor:
    """Solves the unions, and freezes channels that are addressed by position in nodes that cannot be rewritten."""
    root = _solve_with_product_sets(run)
    followed = {node.name for node in program.module.graph.nodes if rewritable(node)}
    stuck = [
        (plane, cause)
        for node, plane, cause in run.positional
        if node not in followed and bool((look_up(root, squash(plane)) != PINNED).any())
    ]
    for plane, cause in stuck:
        run.space.pin(squash(plane), cause)
    return _solve_with_product_sets(run) if stuck else root


def _solve_with_product_sets(run: LabelRun) -> Tensor:
    """Solves the unions so that the kept elements of a tensor are always a product of index sets: a smaller tensor."""
    layouts = [(plane, cause) for plane, cause in run.moved_planes() if len(varying(plane)) > 1]
    root = run.space.solve()
    settled = False
    while not settled:
        settled = True
        # the layouts come in the order of the program, and each builds on the ties before it: otherwise two layouts of
        # one tensor (a channel shuffle) would each keep a different dim free, and together leave none free
        for plane, cause in layouts:
            if (tie := _product_tie(plane, root, cause)) is not None:
                run.space.union(*tie)
                first, second = torch.broadcast_tensors(*tie[:2])
                root = merged(root, first.reshape(-1), second.reshape(-1))
                settled = False
    return root


def _product_tie(plane: Tensor, root: Tensor, cause: Cause) -> tuple[Tensor, Tensor, Cause] | None:
    """The union that makes a plane vary along one dim only; None if it does so already.

    Channels stay free along the innermost dim in which they differ; along the other dims they are tied.
    """
    classes = look_up(root, plane)
    live = [dim for dim in range(plane.dim()) if plane.shape[dim] > 1 and _differs(classes, dim)]
    if len(live) <= 1:
        return None
    tied = cause.__class__(cause.node, cause.op, "what is kept must stay a full block of this shape", cause.source)
    return plane, thin(plane, live[:-1]), tied


def _classes(roots: Tensor) -> int:
    """Number of channels among some roots; all frozen ones count as one."""
    return len(roots.unique())


def _differs(classes: Tensor, dim: int) -> bool:
    return not bool((classes == classes.narrow(dim, 0, 1)).all())
