"""The dependency graph as a networkx graph, and why a dim is frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx
import torch
from torch import Tensor

from graphprune.dependencies import Dependencies, leaf_operands
from graphprune.labels import PINNED, Cause, LabelSpace, Owner
from graphprune.planes import channel_planes, squash

if TYPE_CHECKING:
    from graphprune.program import Program

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


def _tree(dependencies: Dependencies) -> dict[int, tuple[int, int]]:
    """Breadth-first tree from the pinned label: for each frozen label the next one towards it, and the cause."""
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
    """Dims of parameters and values as nodes, ties as edges.

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
    return [
        (_owner_key(space, low), _owner_key(space, high), why)
        for low, high, why in rows.t().tolist()
    ]


def _owners_at(space: LabelSpace, labels: Tensor) -> Tensor:
    """Index of each label's owner plus one; 0 for pinned and sample labels."""
    starts = torch.tensor([owner.start for owner in space.owners])
    return torch.bucketize(labels.contiguous(), starts, right=True)


def _owner_key(space: LabelSpace, owner: int) -> str:
    return FROZEN if owner == 0 else _key(space.owners[owner - 1])


def _owner_name(space: LabelSpace, label: int) -> str:
    return _owner_key(space, int(_owners_at(space, torch.tensor([label]))))


def _key(owner: Owner) -> str:
    return f"{owner.name}[{owner.dim}]" if owner.stored else owner.name
