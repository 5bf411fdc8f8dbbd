"""Why something is frozen, the dependency graph, and protection by name."""

from __future__ import annotations

import re

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

from graphprune.coupling.explain import FROZEN, dependency_graph, described, path_to_cause, why_frozen
from graphprune.coupling.protection import protected_dims
from graphprune.errors import OptionError
from graphprune.labels.labels import Cause
from tests.small_models import CLASSES, Chain, Residual, Transformer, analysed, group_of, images
from tests.unknown_op import unknown


def test_the_last_layer_is_frozen_because_it_leaves_the_program() -> None:
    _, dependencies = analysed(Chain(), images())
    (step, *_) = why_frozen(dependencies, "fc.weight", 0)[-1:]
    assert step.cause.reason == "leaves the program"
    assert step.cause.op == "output"


def test_the_way_to_the_cause_leads_through_ties() -> None:
    class Add(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 4), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = torch.relu(self.first(x) + self.second(x))
            return out

    _, dependencies = analysed(Add(), torch.randn(2, 5))
    steps = why_frozen(dependencies, "second.weight", 0)
    assert steps[0].owner == "second.weight[0]"
    assert steps[-1].cause.reason == "leaves the program"
    reasons = {step.cause.op for step in why_frozen(dependencies, "second.bias", 0)}
    assert "output" in reasons


def test_what_meets_the_input_is_frozen_by_it() -> None:
    _, dependencies = analysed(Chain(), images())
    (step, *_) = why_frozen(dependencies, "conv.weight", 1)
    assert step.owner == "conv.weight[1]" and step.cause.node == "conv"


def test_what_is_not_frozen_has_no_reason() -> None:
    _, dependencies = analysed(Chain(), images())
    assert why_frozen(dependencies, "conv.weight", 0) == []
    assert why_frozen(dependencies, "no.such.weight", 0) == []


def test_protection_is_a_reason() -> None:
    _, dependencies = analysed(Chain(), images(), protect=("norm",))
    ops = [step.cause.op for step in why_frozen(dependencies, "conv.weight", 0)]
    assert ops[-1] == "protect"
    assert not dependencies.groups


class Depthwise(nn.Module):
    """An op without a rule, whose result a depthwise convolution takes."""

    def __init__(self, *, by_export: bool = False) -> None:
        super().__init__()
        self.conv, self.depth, self.fc = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 1, groups=6), nn.Linear(6, CLASSES)
        self.by_export = by_export

    def forward(self, x: Tensor) -> Tensor:
        if self.by_export and len(x) < 1:
            return x
        out: Tensor = self.fc(self.depth(unknown(self.conv(x))).mean((2, 3)))
        return out


@pytest.mark.parametrize("by_export", [False, True])
def test_a_cause_names_op_node_and_source_line_by_either_route(by_export: bool) -> None:
    program, dependencies = analysed(Depthwise(by_export=by_export), images())
    assert program.captured_by.route == ("torch.export" if by_export else "torch.fx")
    text = str(why_frozen(dependencies, "conv.weight", 0)[-1].cause)
    # torch.export knows the line of forward alone, torch.fx the one in the function that it calls
    line = r"test_explain" if by_export else r"unknown_op"
    assert re.search(rf"unknown in node %unknown at .*/{line}\.py:\d+: no rule for this op$", text)
    assert "test_explain.py:" in str(why_frozen(dependencies, "fc.weight", 0)[-1].cause)


def test_behind_an_operand_that_cannot_shrink_is_what_holds_it() -> None:
    program, dependencies = analysed(Depthwise(), images())
    assert why_frozen(dependencies, "depth.weight", 0)[-1].cause.origin == "operand"
    steps = path_to_cause(program, "depth.weight", 0)
    assert [step.owner for step in steps] == ["depth.weight[0]", "%unknown"]
    assert [step.cause.origin for step in steps] == ["operand", "gap"]
    (*_, entry) = path_to_cause(program, "conv.weight", 1)
    assert (entry.owner, entry.cause.reason, entry.cause.source) == ("%x", "enters the program", "")


def test_a_path_as_text_names_both_ends_of_each_tie() -> None:
    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 4), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            first = self.first(x)
            return first, torch.relu(first) + self.second(x)

    program, _ = analysed(Twin(), torch.randn(2, 5))
    direct = described(path_to_cause(program, "first.weight", 0))
    assert len(direct) == 1 and direct[0].startswith("first.weight[0]: output in node %output at ")
    joined, last = described(path_to_cause(program, "second.bias", 0))[-2:]
    assert "goes with" in joined and "add" in joined and "test_explain.py:" in joined
    assert last.endswith(": leaves the program")


def test_the_line_of_an_installed_package_is_named_from_the_package_on() -> None:
    cause = Cause("add", "add", "elementwise", "/somewhere/site-packages/torchvision/models/swin.py:7")
    assert str(cause) == "add in node %add at torchvision/models/swin.py:7: elementwise"
    assert str(Cause("", "protect", "protected by 'fc'")) == "protect: protected by 'fc'"


def test_nodes_edges_and_kinds_of_the_graph() -> None:
    program, dependencies = analysed(Residual(), images())
    graph = dependency_graph(program, dependencies)
    kinds = nx.get_node_attributes(graph, "kind")
    assert set(kinds.values()) == {"stored", "value", "frozen"}
    assert kinds["stem.weight[0]"] == "stored" and kinds["%add"] == "value" and kinds[FROZEN] == "frozen"
    assert graph.nodes["stem.weight[0]"]["size"] == 6
    assert graph.nodes["stem.weight[0]"]["group"] == group_of(dependencies, "stem.weight").id
    assert graph.nodes["fc.weight[0]"]["group"] == ""
    assert all(data["causes"] for _, _, data in graph.edges(data=True))


def test_groups_are_connected_and_apart_from_what_is_frozen() -> None:
    program, dependencies = analysed(Residual(), images())
    graph = dependency_graph(program, dependencies)
    frozen = nx.node_connected_component(graph, FROZEN)
    assert "fc.weight[0]" in frozen and "stem.weight[1]" in frozen
    for group in dependencies.groups:
        members = {f"{member.name}[{member.dim}]" for member in group.members}
        reached = nx.node_connected_component(graph, f"{group.name}[{group.members[0].dim}]")
        assert members <= reached
        assert not members & frozen


def test_the_graph_can_be_written_and_read() -> None:
    program, dependencies = analysed(Transformer(), torch.randn(2, 5, 4))
    graph = dependency_graph(program, dependencies)
    assert nx.utils.graphs_equal(graph, dependency_graph(program, dependencies)), "deterministic"
    plain = nx.node_link_data(graph, edges="edges")
    assert len(nx.node_link_graph(plain, edges="edges")) == len(graph)


PROTECTED = {
    "conv1": {("conv1.weight", 0)},
    "norm1": {("norm1.weight", 0), ("norm1.bias", 0), ("norm1.running_mean", 0), ("norm1.running_var", 0)},
    "conv1.weight": {("conv1.weight", 0), ("conv1.weight", 1), ("conv1.weight", 2), ("conv1.weight", 3)},
    "conv[12]": {("conv1.weight", 0), ("conv2.weight", 0)},
    "*.bias": {(f"{name}.bias", 0) for name in ("stem_norm", "norm1", "norm2", "norm3", "short_norm", "fc")},
}


@pytest.mark.parametrize("pattern", PROTECTED)
def test_patterns(pattern: str) -> None:
    assert protected_dims(Residual(), [pattern]) == {key: pattern for key in PROTECTED[pattern]}


def test_a_parent_protects_what_it_holds() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(5, 4), nn.ReLU()), nn.Linear(4, CLASSES))
    assert protected_dims(model, ["0"]).keys() == {("0.0.weight", 0), ("0.0.bias", 0)}


def test_the_output_dim_of_transposed_convolutions_and_embeddings() -> None:
    model = nn.ModuleDict({"up": nn.ConvTranspose2d(4, 6, 2), "table": nn.Embedding(9, 5)})
    assert protected_dims(model, ["*"]).keys() >= {("up.weight", 1), ("up.bias", 0), ("table.weight", 1)}
    assert protected_dims(model, ["up", "table"]).keys() == {("up.weight", 1), ("up.bias", 0), ("table.weight", 1)}


def test_a_tied_parameter_is_protected_under_each_of_its_names() -> None:
    model = nn.ModuleDict({"first": nn.Linear(4, 4, bias=False), "second": nn.Linear(4, 4, bias=False)})
    model["second"].weight = model["first"].weight
    assert protected_dims(model, ["second"]) == {("first.weight", 0): "second"}
    assert protected_dims(model, ["second.weight"]).keys() == {("first.weight", 0), ("first.weight", 1)}


def test_protected_channels_stay() -> None:
    _, dependencies = analysed(Residual(), images(), protect=("norm2",))
    assert [group.name for group in dependencies.groups] == ["conv1.weight", "conv3.weight"]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["conv9"], "protect: 'conv9' matches no module, parameter or buffer; did you mean 'conv"),
        (["Stem"], "did you mean 'stem"),
        (["xyzzy"], "'xyzzy' matches no module, parameter or buffer$"),
        (["conv1", "conv8", "norm7"], "'conv8' matches no(.|\n)*'norm7' matches no"),
        (["pool"], "'pool' matches only modules without parameters; name the layer before them"),
    ],
)
def test_patterns_that_match_nothing(patterns: list[str], message: str) -> None:
    model = Residual()
    model.add_module("pool", nn.MaxPool2d(2))
    with pytest.raises(OptionError, match=message):
        protected_dims(model, patterns)
