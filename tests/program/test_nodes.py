"""Nodes: one name for an op however it is called, and its arguments however they are given."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional

from graphprune.program.nodes import (
    IN_PLACE_OPERATORS,
    KINDS,
    Kind,
    argument,
    kind_of,
    op_name,
    set_argument,
    source_line,
)

aten = torch.ops.aten


def function_node(target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
    """A node that calls a function on an input."""
    graph = fx.Graph()
    return graph.call_function(target, (graph.placeholder("x"), *args), kwargs)


def method_node(name: str, *args: Any, **kwargs: Any) -> fx.Node:
    graph = fx.Graph()
    return graph.call_method(name, (graph.placeholder("x"), *args), kwargs)


NAMES: list[tuple[fx.Node, str]] = [
    (function_node(torch.flatten), "flatten"),
    (function_node(functional.relu), "relu"),
    (function_node(torch.relu_), "relu_"),
    (function_node(operator.add, 1), "add"),
    (function_node(operator.getitem, 0), "getitem"),
    (function_node(operator.iadd, 1), "iadd"),
    (function_node(getattr, "shape"), "getattr"),
    (function_node(math.prod), "prod"),
    (method_node("flatten", 1), "flatten"),
    (method_node("add_", 1), "add_"),
    (function_node(aten.relu.default), "relu"),
    (function_node(aten.relu_.default), "relu_"),
    (function_node(aten.add.Tensor, 1), "add"),
    (function_node(aten.add.Scalar, 1), "add"),
    (function_node(aten.transpose.int, 0, 1), "transpose"),
    (function_node(aten.split_with_sizes.default, [1, 2]), "split_with_sizes"),
]


@pytest.mark.parametrize(("node", "name"), NAMES, ids=[f"{place}-{name}" for place, (_, name) in enumerate(NAMES)])
def test_functions_methods_and_aten_ops_have_one_name(node: fx.Node, name: str) -> None:
    assert op_name(node) == name


@pytest.mark.parametrize(("node", "name"), NAMES, ids=[f"{place}-{name}" for place, (_, name) in enumerate(NAMES)])
def test_the_kind_of_an_op_goes_by_its_name(node: fx.Node, name: str) -> None:
    assert kind_of(node) == KINDS.get(name, Kind.UNKNOWN)


def test_what_the_kinds_say() -> None:
    """Of one op each; an op that picks elements at positions moves, and so on."""
    moves, sizeless, reads = Kind.MOVES, Kind.SIZELESS, Kind.READS_SHAPE
    assert kind_of(method_node("permute", 1, 0)) == moves | sizeless | reads
    assert kind_of(function_node(torch.reshape, (-1,))) == moves | Kind.READS_SHAPE_IN_ORDER
    assert kind_of(function_node(functional.relu)) == kind_of(function_node(aten.relu.default)) == sizeless
    assert kind_of(method_node("size", 0)) == reads
    assert kind_of(function_node(torch.roll, 1)) == Kind.UNKNOWN


class Named(nn.Module):
    """Layers, inputs and tensors that have the names of ops."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.flatten = nn.Linear(3, 3), nn.Parameter(torch.zeros(3))

    def forward(self, add: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.relu(add) - self.flatten
        return out


def test_nothing_is_known_of_what_only_has_the_name_of_an_op() -> None:
    nodes = {str(node.target): node for node in fx.symbolic_trace(Named()).graph.nodes}
    assert {"add", "relu", "flatten"} < nodes.keys()
    for name in ("add", "relu", "flatten", "output"):
        assert kind_of(nodes[name]) == Kind.UNKNOWN, name


# --- arguments --------------------------------------------------------------------------------------------------------

NAMED = ("input", "dim", "keepdim", "dtype")


@st.composite
def calls(draw: st.DrawFn) -> tuple[fx.Node, dict[int, Any]]:
    """A node with some arguments by position and others by name, and all of them by position."""
    count = draw(st.integers(0, 4))
    values: dict[int, Any] = {place: f"value{place}" for place in range(count)}
    by_name = {place: f"value{place}" for place in draw(st.sets(st.integers(0, 3))) if place >= count}
    graph = fx.Graph()
    kwargs = {NAMED[place]: value for place, value in by_name.items()}
    return graph.call_function(torch.sum, tuple(values.values()), kwargs), values | by_name  # type: ignore[arg-type]


@given(calls(), st.integers(0, 3))
def test_arguments_are_found_by_position_and_by_name(call: tuple[fx.Node, dict[int, Any]], place: int) -> None:
    node, values = call
    assert argument(node, place, NAMED[place], default="none") == values.get(place, "none")
    assert argument(node, place, "other", NAMED[place]) == values.get(place)


@given(calls(), st.integers(0, 3))
def test_what_is_set_is_what_is_found(call: tuple[fx.Node, dict[int, Any]], place: int) -> None:
    node, values = call
    positional = len(node.args)
    set_argument(node, place, NAMED[place], "new")
    expected = values | {place: "new"}
    assert {other: argument(node, other, NAMED[other]) for other in expected} == expected
    assert len(node.args) == positional, "and given as it was before"


def test_arguments_that_are_none_or_zero_are_given() -> None:
    node = function_node(torch.sum, None, keepdim=0)
    assert argument(node, 1, "dim", default=3) is None
    assert argument(node, 2, "keepdim", default=True) == 0
    assert argument(node, 3, "dtype") is None


def test_the_first_name_that_is_given_counts() -> None:
    node = function_node(torch.sum, axis=1, dim=2)
    assert argument(node, 1, "dim", "axis") == 2 and argument(node, 1, "axis", "dim") == 1


def test_nodes_among_arguments_are_users_from_then_on() -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    node = graph.call_function(torch.add, (x,), {"other": x})
    set_argument(node, 1, "other", y)
    assert list(y.users) == [node] and node.all_input_nodes == [x, y]
    set_argument(node, 0, "input", y)
    assert not x.users and node.all_input_nodes == [y]


def test_source_lines() -> None:
    node = function_node(torch.relu)
    assert source_line(node) == ""
    node.meta["source"] = "net.py:7"
    assert source_line(node) == "net.py:7"


@pytest.mark.parametrize("in_place", IN_PLACE_OPERATORS, ids=lambda function: function.__name__)
def test_an_operator_that_writes_gives_what_the_other_gives(in_place: Callable[..., Any]) -> None:
    is_matrix = in_place is operator.imatmul
    first = torch.arange(1.0, 10).view(3, 3) if is_matrix or in_place is operator.itruediv else torch.arange(1, 10)
    written = first.clone()
    second = torch.eye(3) + 1 if is_matrix else 2
    assert torch.equal(in_place(written, second), IN_PLACE_OPERATORS[in_place](first, second))
    assert not torch.equal(first, written) or in_place is operator.imatmul  # tensors have no product in place


def test_no_operator_of_python_that_writes_is_missing() -> None:
    binary = {name for name in dir(operator) if f"i{name.rstrip('_')}" in dir(operator) and not name.startswith("__")}
    assert {f"i{name.rstrip('_')}" for name in binary} - {function.__name__ for function in IN_PLACE_OPERATORS} == {
        "iconcat"
    }
