"""Dead nodes: nothing that is used depends on them, and they do no more than give a result."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional

from graphprune.program.liveness import dead_nodes, has_effects, tensors_read_by
from graphprune.program.nodes import IN_PLACE_OPERATORS
from graphprune.program.tensors import Layers

aten = torch.ops.aten


def traced(forward: Callable[..., Any], **parts: Any) -> fx.GraphModule:
    """A module with some layers, parameters or buffers, traced through a function of it and an input."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return forward(self, x)

    model = Model()
    for name, part in parts.items():
        if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
            model.register_buffer(name, part)
        else:
            setattr(model, name, part)
    return fx.symbolic_trace(model)


def dead_in(module: fx.GraphModule, *wanted: Tensor) -> list[str]:
    return [node.name for node in dead_nodes(module, [id(tensor) for tensor in wanted])]


# --- what is dead -----------------------------------------------------------------------------------------------------


def test_a_graph_without_dead_nodes() -> None:
    module = traced(
        lambda self, x: self.fc(x).relu() + self.bias, fc=nn.Linear(3, 3), bias=nn.Parameter(torch.zeros(3))
    )
    assert dead_in(module) == []


def test_chains_die_from_their_end() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = self.first(x)
        torch.relu(self.second(y))
        return y

    module = traced(forward, first=nn.Linear(3, 3), second=nn.Linear(3, 3))
    assert dead_in(module) == ["relu", "second"], "each before what it reads"


def test_what_a_live_node_reads_lives() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y, z = self.first(x), self.second(x)
        torch.sigmoid(y), torch.sigmoid(z)
        return torch.relu(y)

    module = traced(forward, first=nn.Linear(3, 3), second=nn.Linear(3, 3))
    assert dead_in(module) == ["sigmoid_1", "sigmoid", "second"]


def test_stored_tensors_that_nobody_reads_are_dead() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        self.weight * self.scale
        return x

    module = traced(forward, weight=nn.Parameter(torch.ones(3)), scale=torch.ones(3))
    assert dead_in(module) == ["mul", "scale", "weight"]


def test_inputs_and_outputs_are_never_dead() -> None:
    graph = fx.Graph()
    graph.placeholder("x")
    graph.output(())
    assert dead_in(fx.GraphModule(nn.Module(), graph)) == []


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3), min_size=1, max_size=12), st.integers(0, 99))
def test_in_graphs_without_effects_the_dead_are_those_without_a_path_to_the_output(
    reads: list[list[int]], out: int
) -> None:
    graph = fx.Graph()
    nodes = [graph.placeholder("x")]
    for places in reads:
        nodes.append(graph.call_function(torch.cat, ([nodes[place % len(nodes)] for place in places],)))
    graph.output(nodes[out % len(nodes)])
    alive, waiting = set[fx.Node](), [node for node in graph.nodes if node.op == "output"]
    while waiting:
        alive.add(waiting[-1])
        waiting.extend(read for read in waiting.pop().all_input_nodes if read not in alive)
    dead = dead_nodes(fx.GraphModule(nn.Module(), graph))
    assert set(dead) == {node for node in nodes[1:] if node not in alive}
    for place, node in enumerate(dead):
        assert not set(dead[:place]) & set(node.all_input_nodes), "each before those that it reads"
    for node in dead:
        graph.erase_node(node)  # raises where a node is still read
    graph.lint()


# --- what does more than give a result --------------------------------------------------------------------------------


def function_has_effects(target: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    graph = fx.Graph()
    x = graph.placeholder("x")
    args, kwargs = fx.node.map_aggregate((args, kwargs), lambda each: x if each is X else each)
    node = graph.call_function(target, (x, *args), kwargs)
    graph.output(x)
    return has_effects(Layers(fx.GraphModule(nn.Module(), graph)), node)


X = object()
"""Stands for the input where an argument is a tensor."""


def mine(x: Tensor) -> Tensor:
    """A function of the user's: whatever it does."""
    return x


PURE: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (torch.relu, (), {}),
    (torch.add, (1,), {}),
    (functional.relu, (), {}),
    (functional.relu, (), {"inplace": False}),
    (functional.relu, (False,), {}),
    (functional.dropout, (0.5, True, False), {}),
    (functional.linear, (), {"weight": X}),
    (operator.add, (1,), {}),
    (operator.getitem, (0,), {}),
    (operator.__add__, (1,), {}),
    (getattr, ("shape",), {}),
    (math.floor, (), {}),
    (aten.relu.default, (), {}),
    (aten.add.Tensor, (1,), {}),
    (aten.view.default, ([-1],), {}),
]


@pytest.mark.parametrize(("target", "args", "kwargs"), PURE)
def test_functions_that_only_give_a_result(
    target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert not function_has_effects(target, *args, **kwargs)


IMPURE: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (torch.relu_, (), {}),
    (functional.relu, (), {"inplace": True}),
    (functional.relu, (True,), {}),
    (functional.leaky_relu, (0.1, True), {}),
    (functional.dropout, (0.5, True, True), {}),
    (functional.hardtanh, (-1.0, 1.0, True), {}),
    (functional.relu_, (), {}),
    (torch.add, (1,), {"out": X}),
    (operator.setitem, (0, 1), {}),
    (operator.delitem, (0,), {}),
    *[(operator_in_place, (1,), {}) for operator_in_place in IN_PLACE_OPERATORS],
    (operator.iconcat, (X,), {}),
    (aten.relu_.default, (), {}),
    (aten.add_.Tensor, (1,), {}),
    (aten.copy_.default, (X,), {}),
    (aten.add.out, (1,), {"out": X}),
    (torch._assert, ("no",), {}),
    (mine, (), {}),
]


@pytest.mark.parametrize(("target", "args", "kwargs"), IMPURE)
def test_functions_that_do_more(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert function_has_effects(target, *args, **kwargs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("relu", False), ("add_", True), ("zero_", True), ("__add__", False), ("clamp_min_", True), ("_is_view", False)],
)
def test_methods_in_place_end_with_an_underscore(name: str, expected: bool) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    node = graph.call_method(name, (x,))
    graph.output(x)
    assert has_effects(Layers(fx.GraphModule(nn.Module(), graph)), node) == expected


class Mine(nn.Module):
    """A layer of the user's: whatever it does."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Quiet(nn.Linear):
    """A layer of torch's with another name."""


class Loud(nn.Linear):
    """A layer of torch's that works in another way."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


def hooked(register: str) -> nn.Module:
    layer = nn.Linear(3, 3)
    getattr(layer, register)(lambda *arguments: None)
    return layer


LAYERS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "linear": (lambda: nn.Linear(3, 3), False),
    "relu": (nn.ReLU, False),
    "relu in place": (lambda: nn.ReLU(inplace=True), True),
    "dropout in place": (lambda: nn.Dropout(inplace=True), True),
    "of torch by another name": (lambda: Quiet(3, 3), False),
    "of torch in another way": (lambda: Loud(3, 3), True),
    "of the user's": (Mine, True),
    "forward hook": (lambda: hooked("register_forward_hook"), True),
    "forward pre-hook": (lambda: hooked("register_forward_pre_hook"), True),
}


class Leaves(fx.Tracer):
    """Takes every layer as it is."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_do_more_than_give_a_result_are_not_dead(name: str) -> None:
    factory, expected = LAYERS[name]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = factory()

        def forward(self, x: Tensor) -> Tensor:
            self.layer(x)
            return x

    model = Model()
    module = fx.GraphModule(model, Leaves().trace(model))
    assert dead_in(module) == ([] if expected else ["layer"])


def test_a_write_keeps_alive_what_it_writes_to() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    first, second = (graph.call_function(function, (x,)) for function in (torch.relu, torch.sigmoid))
    graph.call_function(operator.setitem, (first, 0, x))
    graph.call_method("add_", (second, 1))
    graph.output(x)
    assert dead_in(fx.GraphModule(nn.Module(), graph)) == []


def test_a_read_of_what_was_written_is_dead_all_the_same() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        x.add_(1).sigmoid()
        return x

    assert dead_in(traced(forward)) == ["sigmoid"]


# --- what is wanted ---------------------------------------------------------------------------------------------------


class Parts(nn.Module):
    """Two dead layers, and a dead parameter and buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        self.norm(self.first(x))
        torch.mul(self.weight, self.get_buffer("scale"))
        return x


ALL = ["mul", "scale", "weight", "norm", "first"]


@pytest.mark.parametrize(
    ("name", "dead"),
    [
        ("first.bias", ["mul", "scale", "weight", "norm"]),
        ("norm.weight", ["mul", "scale", "weight"]),
        ("norm.running_mean", ["mul", "scale", "weight"]),
        ("weight", ["mul", "scale", "norm", "first"]),
        ("scale", ["mul", "weight", "norm", "first"]),
    ],
)
def test_readers_of_wanted_tensors_are_not_dead(name: str, dead: list[str]) -> None:
    module = fx.symbolic_trace(Parts())
    assert dead_in(module) == ALL
    wanted = dict([*module.named_parameters(), *module.named_buffers()])[name]
    assert dead_in(module, wanted) == dead
    assert dead_in(module, torch.ones(3)) == ALL, "by identity, not by value"


def test_tensors_that_nodes_read() -> None:
    module = fx.symbolic_trace(Parts())
    layers, nodes = Layers(module), {node.name: node for node in module.graph.nodes}
    for name, expected in {
        "first": ["first.weight", "first.bias"],
        "norm": ["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"],
        "weight": ["weight"],
        "scale": ["scale"],
        "mul": [],
        "x": [],
        "output": [],
    }.items():
        stored = dict([*module.named_parameters(), *module.named_buffers()])
        assert [id(tensor) for tensor in tensors_read_by(layers, nodes[name])] == [
            id(stored[each]) for each in expected
        ]
