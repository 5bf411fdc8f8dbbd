"""Labels and their unions: the classes are the connected components, whatever the order and shape of the unions."""

from __future__ import annotations

from itertools import product
from random import Random

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphprune.labels.labels import PINNED, Cause, LabelSpace, ReplayedSpace, look_up, merged

Edges = list[tuple[int, int]]

CAUSE = Cause("node", "op", "reason")

SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((3,), (3,)), ((), (4,)), ((2, 1), (1, 3)), ((2, 3), (3,)), ((1,), (2, 2)), ((2, 1, 2), (3, 1)), ((), ()),
    ((0,), (0,)), ((2, 0), (1,)),
]  # fmt: skip
"""Shapes of two tensors of labels that broadcast against each other."""


def smallest_connected(size: int, edges: Edges) -> list[int]:
    """The oracle: the smallest label of each connected component."""
    graph = nx.Graph(edges)
    graph.add_nodes_from(range(size))
    return [min(nx.node_connected_component(graph, label)) for label in range(size)]


def broadcast_pairs(first: Tensor, second: Tensor) -> Edges:
    """The oracle: pairs of labels that meet, by numbers of their places."""
    rank = max(first.dim(), second.dim())
    one = first.reshape((1,) * (rank - first.dim()) + first.shape)
    other = second.reshape((1,) * (rank - second.dim()) + second.shape)
    sizes = [b if a == 1 else a for a, b in zip(one.shape, other.shape, strict=True)]
    places = product(*map(range, sizes))

    def at(tensor: Tensor, place: tuple[int, ...]) -> int:
        return int(tensor[tuple(0 if size == 1 else i for i, size in zip(place, tensor.shape, strict=True))])

    return [(at(one, place), at(other, place)) for place in places]


def labels_of(data: st.DataObject, size: int, shape: tuple[int, ...]) -> Tensor:
    count = torch.Size(shape).numel()
    drawn = data.draw(st.lists(st.integers(0, size - 1), min_size=count, max_size=count))
    return torch.tensor(drawn, dtype=torch.long).view(shape)


@given(st.data(), st.integers(1, 25), st.lists(st.sampled_from(SHAPES), max_size=8))
def test_classes_are_connected_components(
    data: st.DataObject, size: int, shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    space, edges = LabelSpace(), Edges()
    space.allocate("weight", 0, size - 1, stored=True)
    for shape in shapes:
        first, second = (labels_of(data, size, each) for each in shape)
        space.union(first, second, CAUSE)
        edges += broadcast_pairs(first, second)
    assert space.solve().tolist() == smallest_connected(size, edges)


PAIRS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=60)


def columns(edges: Edges) -> tuple[Tensor, Tensor]:
    pairs = torch.tensor(edges, dtype=torch.long).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


@given(PAIRS, PAIRS)
def test_unions_can_be_merged_in_turns(edges: Edges, more: Edges) -> None:
    root = merged(torch.arange(41), *columns(edges))
    before = root.clone()
    assert merged(root, *columns(more)).tolist() == smallest_connected(41, edges + more)
    assert torch.equal(root, before), "what was known before is left as it is"


@given(PAIRS, st.randoms(use_true_random=False))
def test_neither_order_nor_direction_of_unions_matters(edges: Edges, random: Random) -> None:
    shuffled = [(b, a) for a, b in edges]
    random.shuffle(shuffled)
    first, second = (merged(torch.arange(41), *columns(each)) for each in (edges, shuffled))
    assert torch.equal(first, second)


@pytest.mark.parametrize("length", [1, 2, 1000])
def test_long_chains_are_one_class(length: int) -> None:
    """A chain, whose links come in an order that is bad for pointers."""
    order = torch.randperm(length)
    links = torch.randperm(length - 1)
    root = merged(torch.arange(length), order[links], order[links + 1])
    assert root.tolist() == [0] * length


@given(st.data(), st.lists(st.sampled_from(SHAPES), max_size=6))
def test_each_tie_names_its_cause(data: st.DataObject, shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    space, expected = LabelSpace(), list[tuple[int, int, int]]()
    space.allocate("weight", 0, 9, stored=True)
    for index, shape in enumerate(shapes):
        first, second = (labels_of(data, 10, each) for each in shape)
        space.union(first, second, Cause(f"node{index}", "op", "reason"))
        expected += [(a, b, index) for a, b in broadcast_pairs(first, second)]
    found = space.edges()
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected
    assert all(torch.equal(one, other) for one, other in zip(space.ties(), found[:2], strict=True))
    assert [cause.node for cause in space.causes] == [f"node{index}" for index in range(len(shapes))]


@given(PAIRS, st.sets(st.integers(1, 40), min_size=1, max_size=5))
def test_what_is_connected_to_a_pinned_label_is_frozen(edges: Edges, pinned: set[int]) -> None:
    space, graph = LabelSpace(), nx.Graph([*edges, *((PINNED, label) for label in pinned)])
    labels = space.allocate("weight", 0, 40, stored=True)
    space.union(*columns(edges), CAUSE)
    space.pin(labels[torch.tensor(sorted(pinned)) - 1], CAUSE)
    frozen = (space.solve() == PINNED).nonzero().flatten()
    assert set(frozen.tolist()) == nx.node_connected_component(graph, PINNED)


def test_a_pinned_plane_is_frozen_as_a_whole() -> None:
    space = LabelSpace()
    labels = space.allocate("weight", 0, 6, stored=True)
    space.pin(labels.view(2, 3)[:, 1:], CAUSE)
    assert space.solve().tolist() == [0, 1, 0, 0, 4, 0, 0]
    assert space.edges()[2].tolist() == [0] * 4, "one cause for all of them"


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 6))
def test_labels_are_handed_out_once_and_in_order(sizes: list[int], stored: int) -> None:
    space, handed = LabelSpace(), [PINNED]
    for index, size in enumerate(sizes):
        labels = space.allocate(f"tensor{index}", index, size, stored=index < stored)
        assert torch.equal(labels, space.owners[-1].labels) and labels.shape == (size,)
        handed += labels.tolist()
    assert handed == list(range(space.size))
    assert [(owner.name, owner.dim, owner.size) for owner in space.owners] == [
        (f"tensor{index}", index, size) for index, size in enumerate(sizes)
    ]
    assert space.stored_size == 1 + sum(sizes[:stored])


def test_a_space_without_unions_ties_nothing() -> None:
    space = LabelSpace()
    assert space.solve().tolist() == [PINNED] and [len(column) for column in space.edges()] == [0, 0, 0]
    space.allocate("weight", 0, 2, stored=True)
    assert space.solve().tolist() == [0, 1, 2]


@given(st.data(), st.sampled_from([(), (5,), (2, 3), (0,), (2, 1, 2)]))
def test_looking_up_is_indexing(data: st.DataObject, shape: tuple[int, ...]) -> None:
    table, labels = torch.randperm(12), labels_of(data, 12, shape)
    assert torch.equal(look_up(table, labels), table[labels])
    turned = labels.transpose(0, -1) if labels.dim() > 1 else labels
    assert torch.equal(look_up(table, turned), table[turned])


# --- a second run of the same program ---------------------------------------------------------------------------------


def recorded() -> tuple[LabelSpace, dict[str, list[Tensor]]]:
    """A space in which two names were used twice, and its labels by name."""
    space, labels = LabelSpace(), dict[str, list[Tensor]]()
    for name, size in (("conv", 3), ("norm", 2), ("conv", 4), ("zeros", 3), ("norm", 2)):
        labels.setdefault(name, []).append(space.allocate(name, 0, size, stored=name != "zeros"))
    space.union(labels["conv"][0], labels["zeros"][0], CAUSE)
    return space, labels


def test_a_replayed_space_gives_the_same_labels_whatever_comes_between() -> None:
    space, labels = recorded()
    again = ReplayedSpace(space)
    for name, index, size in (("norm", 0, 2), ("zeros", 0, 3), ("conv", 0, 3), ("norm", 1, 2), ("conv", 1, 4)):
        assert torch.equal(again.allocate(name, 0, size, stored=True), labels[name][index])
    assert again.size == space.size and len(space.owners) == 5


@pytest.mark.parametrize(("name", "dim", "size"), [("other", 0, 3), ("conv", 1, 3), ("conv", 0, 5)])
def test_what_the_recorded_run_does_not_have_is_pinned(name: str, dim: int, size: int) -> None:
    again = ReplayedSpace(recorded()[0])
    assert again.allocate(name, dim, size, stored=True).tolist() == [PINNED] * size


def test_labels_are_replayed_once() -> None:
    space, labels = recorded()
    again = ReplayedSpace(space)
    assert torch.equal(again.allocate("zeros", 0, 3, stored=False), labels["zeros"][0])
    assert again.allocate("zeros", 0, 3, stored=False).tolist() == [PINNED] * 3
    other = ReplayedSpace(space).allocate("zeros", 0, 3, stored=False)
    assert torch.equal(other, labels["zeros"][0]), "a third run starts anew"


def test_an_allocation_of_another_size_takes_the_place_of_the_recorded_one() -> None:
    space, labels = recorded()
    again = ReplayedSpace(space)
    assert again.allocate("conv", 0, 9, stored=True).tolist() == [PINNED] * 9
    assert torch.equal(again.allocate("conv", 0, 4, stored=True), labels["conv"][1])


def test_a_replayed_space_ties_nothing() -> None:
    space, labels = recorded()
    again = ReplayedSpace(space)
    again.union(labels["conv"][0], labels["zeros"][0], CAUSE)
    again.pin(labels["norm"][0], CAUSE)
    assert again.solve().tolist() == list(range(space.size)) and not again.causes
    assert len(space.causes) == 1, "nor does the recorded one"


# --- causes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (Cause("add_3", "add", "sizes differ"), "add in node %add_3: sizes differ"),
        (Cause("add_3", "add", "sizes differ", "net.py:7"), "add in node %add_3 at net.py:7: sizes differ"),
        (Cause("", "protect", "'head'", "net.py:7"), "protect: 'head'"),
        (
            Cause("n", "roll", "moves", "/usr/lib/site-packages/timm/swin.py:3"),
            "roll in node %n at timm/swin.py:3: moves",
        ),
    ],
)
def test_a_cause_says_what_where_and_why(cause: Cause, text: str) -> None:
    assert str(cause) == text
