"""The dependency graph as a networkx graph, and why a dim is frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import torch
from torch import Tensor, fx

from graphprune.labels.dependencies import Dependencies, leaf_operands
from graphprune.labels.labels import PINNED, Cause, LabelSpace, Owner
from graphprune.labels.planes import channel_planes, squash
from graphprune.program.nodes import source_line
from graphprune.program.program import Program

FROZEN = "frozen"
"""The node that every frozen dim is connected to."""


@dataclass(frozen=True)
class Step:
    """One tie on the way from a dim to what freezes it."""

    owner: str
    cause: Cause


def why_frozen(dependencies: Dependencies, name: str, dim: int) -> list[Step]:
    """The shortest chain of ties from a frozen dim to the cause, nearest tie first; empty where nothing is frozen."""
    space = dependencies.space
    owner = next((owner for owner in dependencies.stored if (owner.name, owner.dim) == (name, dim)), None)
    if owner is None:
        return []
    parent = _tree(dependencies)
    label = next((label for label in owner.labels.tolist() if label in parent), None)
    steps = []
    while label is not None and label != PINNED:
        towards, cause = parent[label]
        steps.append(Step(_owner_name(space, label), space.causes[cause]))
        label = towards
    return steps


def path_to_cause(program: Program, name: str, dim: int) -> list[Step]:
    """The steps of `why_frozen`; if they end at an operand that cannot shrink, one more step says why it cannot."""
    steps = why_frozen(program[Dependencies], name, dim)
    if not steps or steps[-1].cause.origin != "operand":
        return steps
    return steps + [Step(f"%{cause.node}", cause) for cause in behind(program, steps[-1].cause)[:1]]


def described(steps: Sequence[Step]) -> tuple[str, ...]:
    """Describes each tie between two dims in one line, nearest first, and the cause in the last line."""
    lines = [
        f"{step.owner} goes with {after.owner}: {step.cause}"
        if step.cause.origin != "operand"
        else f"{step.owner}: {step.cause}"
        for step, after in pairwise(steps)
        if step.owner != after.owner
    ]
    return (*lines, *(f"{step.owner}: {step.cause}" for step in steps[-1:]))


def behind(program: Program, cause: Cause) -> list[Cause]:
    """Why the operand that a cause names cannot shrink: the causes that end channels before it, nearest first."""
    dependencies = program[Dependencies]
    pins = pinning_causes(dependencies.space)
    found: dict[Cause, None] = {}
    queue = [node for node in program.module.graph.nodes if node.name == cause.node]
    seen = set(queue)
    while queue:
        for source in queue.pop(0).all_input_nodes:
            if source in seen or not _is_stiff(dependencies, source):
                continue
            seen.add(source)
            own = [pin for pin in pins if pin.node == source.name and pin.origin != "operand"]
            gaps = [pin for pin in own if pin.origin == "gap"]
            if not gaps and any(_is_stiff(dependencies, argument) for argument in source.all_input_nodes):
                queue.append(source)
            else:
                found.update(dict.fromkeys(gaps or own or [_end(source)]))
    return list(found)


def pinning_causes(space: LabelSpace) -> list[Cause]:
    """The distinct causes that froze something directly, in the order of the program."""
    first, second, cause = space.edges()
    indices = cause[(first == PINNED) | (second == PINNED)].unique().tolist()
    return list(dict.fromkeys(space.causes[index] for index in indices))


def _is_stiff(dependencies: Dependencies, node: fx.Node) -> bool:
    """Whether a node's result is a tensor from which nothing can be removed."""
    operands = leaf_operands(dependencies.values.get(node.name))
    return any(max(operand.shape, default=1) > 1 and not channel_planes(operand.planes) for operand in operands)


def _end(node: fx.Node) -> Cause:
    if node.op == "placeholder":
        return Cause(node.name, "input", "enters the program")
    op = str(getattr(node.target, "__name__", node.target))
    return Cause(node.name, op, "is a constant" if node.op == "get_attr" else "carries no channels", source_line(node))


def _tree(dependencies: Dependencies) -> dict[int, tuple[int, int]]:
    """Breadth-first tree from the pinned label; maps each frozen label to its parent and the index of the cause."""
    cached: dict[int, tuple[int, int]] | None = dependencies.__dict__.get("_frozen_tree")
    if cached is not None:
        return cached
    first, second, cause = dependencies.space.edges()
    source, target, cause = torch.cat([first, second]), torch.cat([second, first]), torch.cat([cause, cause])
    seen = torch.zeros(dependencies.space.size, dtype=torch.bool)
    seen[PINNED] = True
    front = seen.clone()
    parent: dict[int, tuple[int, int]] = {}
    while bool(front.any()):
        reached = front[source] & ~seen[target]
        for label, towards, why in zip(
            target[reached].tolist(), source[reached].tolist(), cause[reached].tolist(), strict=True
        ):
            parent.setdefault(label, (towards, why))
        front = torch.zeros_like(seen)
        front[target[reached]] = True
        seen |= front
    dependencies.__dict__["_frozen_tree"] = parent
    return parent


def dependency_graph(program: Program, dependencies: Dependencies) -> nx.Graph[str]:
    """A graph with dims of parameters and values as nodes, and ties as edges.

    Nodes have ``kind``: "stored" (``name[dim]``, with ``size`` and ``group``), "value" (``%node``) or "frozen". Edges
    have ``causes``, the distinct reasons of the tie.
    """
    graph: nx.Graph[str] = nx.Graph()
    graph.add_node(FROZEN, kind="frozen")
    space = dependencies.space
    groups = {(member.name, member.dim): group.id for group in dependencies.groups for member in group.members}
    for owner in space.owners:
        kind = "stored" if owner.stored else "value"
        group = groups.get((owner.name, owner.dim), "")
        graph.add_node(_key(owner), kind=kind, size=owner.size, group=group)
    for first, second, cause in _distinct_ties(space):
        _tie(graph, first, second, str(space.causes[cause]))
    for node in program.module.graph.nodes:
        for operand in leaf_operands(dependencies.values.get(node.name)):
            for plane in channel_planes(operand.planes):
                _attach_value(graph, space, f"%{node.name}", squash(plane))
    return graph


def _attach_value(graph: nx.Graph[str], space: LabelSpace, value: str, plane: Tensor) -> None:
    graph.add_node(value, kind="value")
    for owner in _owners_at(space, plane.flatten()).unique().tolist():
        if owner > 0:
            _tie(graph, value, _key(space.owners[owner - 1]), "carries")


def _tie(graph: nx.Graph[str], first: str, second: str, cause: str) -> None:
    if first != second:
        causes = graph.get_edge_data(first, second, {}).get("causes", ())
        graph.add_edge(first, second, causes=causes if cause in causes else (*causes, cause))


def _distinct_ties(space: LabelSpace) -> list[tuple[str, str, int]]:
    first, second, cause = space.edges()
    rows = torch.stack([_owners_at(space, first), _owners_at(space, second), cause]).unique(dim=1)
    return [(_owner_key(space, low), _owner_key(space, high), why) for low, high, why in rows.t().tolist()]


def _owners_at(space: LabelSpace, labels: Tensor) -> Tensor:
    """Index of each label's owner plus one; 0 for the pinned label."""
    starts = torch.tensor([owner.start for owner in space.owners])
    return torch.bucketize(labels.contiguous(), starts, right=True)


def _owner_key(space: LabelSpace, owner: int) -> str:
    return FROZEN if owner == 0 else _key(space.owners[owner - 1])


def _owner_name(space: LabelSpace, label: int) -> str:
    return _owner_key(space, int(_owners_at(space, torch.tensor([label]))))


def _key(owner: Owner) -> str:
    return f"{owner.name}[{owner.dim}]" if owner.stored else owner.name
