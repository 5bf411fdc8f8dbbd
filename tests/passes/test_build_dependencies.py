"""build-dependencies: groups, recorded shapes, and nodes that cannot follow a prune."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphprune.capture import capture
from graphprune.coupling.shapes import RecordedShapes
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.runner import Runner
from graphprune.passes.build_dependencies import BuildDependencies
from graphprune.program.facts import FirstAnalysis
from tests.small_models import CLASSES, Chain, Residual, analysed, images


def test_groups_and_their_members() -> None:
    program = Runner().run([BuildDependencies()], capture(Chain(), images()))
    (group,) = program[Dependencies].groups
    members = {(member.name, member.dim) for member in group.members}
    norm = {(f"norm.{name}", 0) for name in ("weight", "bias", "running_mean", "running_var")}
    assert members == {("conv.weight", 0), ("conv.bias", 0), ("fc.weight", 1)} | norm
    assert (group.start, group.stop) == (0, 6)
    assert program[FirstAnalysis].channels_left == 6 and program[FirstAnalysis].pins == ()


def test_shapes_are_recorded_for_every_node() -> None:
    program, _ = analysed(Residual(), images())
    assert program[RecordedShapes].by_node.keys() == {node.name for node in program.module.graph.nodes}
    assert program[RecordedShapes].by_node["conv3"][0][1:] == (8, 3, 3)


def test_a_second_run_finds_the_same() -> None:
    program, dependencies = analysed(Residual(), images())
    again = Runner().run([BuildDependencies()], program)
    assert again[Dependencies].groups == dependencies.groups
    assert torch.equal(again[Dependencies].channel_of, dependencies.channel_of)
    assert again.module is program.module and again[RecordedShapes].by_node == program[RecordedShapes].by_node


def test_the_module_is_not_changed() -> None:
    program = capture(Residual(), images())
    graph, tensors = str(program.module.graph), {n: t.shape for n, t in program.module.state_dict().items()}
    Runner().run([BuildDependencies()], program)
    assert str(program.module.graph) == graph
    assert {n: t.shape for n, t in program.module.state_dict().items()} == tensors


class Sorted(nn.Module):
    """Sorts its channels: no removal can be followed through that."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sort(torch.relu(self.fc1(x)), 1)[0]
        out: Tensor = self.head(torch.relu(self.fc2(x)))
        return out


def test_what_has_no_rule_is_frozen_with_a_reason() -> None:
    _, dependencies = analysed(Sorted(), torch.randn(2, 5))
    assert [group.name for group in dependencies.groups] == ["fc2.weight"]
    assert any("sort" in cause.op and cause.node == "sort" for cause in dependencies.space.causes)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_size_of_the_example_does_not_matter(batch: int) -> None:
    _, dependencies = analysed(Residual(), images(batch))
    assert [group.channels for group in dependencies.groups] == [6, 4, 8]
