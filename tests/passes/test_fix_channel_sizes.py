"""fix-channel-sizes: sizes of channel dims that the program reads become literals."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.capture import capture
from graphprune.pass_manager.runner import Runner
from graphprune.passes.build_dependencies import BuildDependencies
from graphprune.passes.drop_dead_nodes import DropDeadNodes
from graphprune.passes.fix_channel_sizes import FixChannelSizes
from graphprune.program.program import Program
from graphprune.request.settings import Granularity
from tests.ops.case import net
from tests.small_models import CLASSES, Chain, images


class Reads(nn.Module):
    """Reads batch, spatial and channel sizes, and computes with one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 6, 1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        scale = x.shape[1] ** -0.5
        flat = torch.relu(x).view(x.shape[0], x.size(1), x.shape[2] * x.shape[3])
        out: Tensor = self.fc(flat.mean(2) * scale)
        return out


def prepared(model: nn.Module) -> Program:
    return Runner().run([BuildDependencies()], capture(model, images()))


def names(program: Program) -> list[str]:
    return [node.name for node in program.module.graph.nodes]


def test_channel_sizes_become_literals_and_others_stay() -> None:
    before = prepared(Reads())
    after = Runner().run([FixChannelSizes()], before)
    view = next(node for node in after.module.graph.nodes if node.target == "view")
    assert view.args[2] == 6
    assert [type(argument).__name__ for argument in view.args] == ["Node", "Node", "int", "Node"]
    product = next(node for node in after.module.graph.nodes if node.name.startswith("mul_"))
    assert product.args[1] == 6**-0.5, "arithmetic on the literal is folded"


def test_the_program_computes_the_same_at_every_batch_and_image_size() -> None:
    model = Reads()
    after = Runner().run([FixChannelSizes()], prepared(model))
    for shape in ((1, 2, 6, 6), (3, 2, 4, 5)):
        inputs = torch.randn(shape)
        torch.testing.assert_close(after.module(inputs), model(inputs))


def test_the_program_given_is_not_changed() -> None:
    before = prepared(Reads())
    graph = str(before.module.graph)
    after = Runner().run([FixChannelSizes()], before)
    assert str(before.module.graph) == graph and after.module is not before.module
    assert len(names(after)) < len(names(before))


def test_a_program_that_reads_no_sizes_is_handed_through() -> None:
    program = prepared(Chain())
    result = FixChannelSizes().run(program)
    assert result.program is program and not result.modified
    assert result.remarks == ("no channel sizes read",)


def test_a_second_run_changes_nothing() -> None:
    once = Runner().run([FixChannelSizes(), BuildDependencies()], prepared(Reads()))
    result = FixChannelSizes().run(once)
    assert result.program is once and not result.modified


def only_for_its_shape(kind: str) -> nn.Module:
    """A network that reads a parameter or calls a layer for nothing but a size of it."""
    sizes: dict[str, Callable[[Any, Tensor], Any]] = {
        "shape": lambda self, _: self.table.weight.shape[0],
        "both dims": lambda self, _: operator.truediv(*self.table.weight.shape),
        "numel": lambda self, _: self.table.weight.numel(),
        "layer": lambda self, x: self.layer(x).shape[1],
    }

    def forward(self: Any, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.fc(x))) / sizes[kind](self, x)
        return out

    part = {"layer": nn.Linear(5, 7)} if kind == "layer" else {"table": nn.Embedding(9, 7)}
    return net(forward, fc=nn.Linear(5, 8), head=nn.Linear(8, CLASSES), **part)


@pytest.mark.parametrize("kind", ["shape", "both dims", "numel", "layer"])
@pytest.mark.parametrize("granularity", ["channel", "weight", "mixed"])
def test_what_is_read_for_its_size_alone_is_dropped(kind: str, granularity: Granularity) -> None:
    model, inputs = only_for_its_shape(kind), torch.randn(4, 5)
    expected = model(inputs)
    compiled = graphprune.compile(model, inputs, sparsity=0.5, granularity=granularity)
    assert set(compiled.report.dropped) == {name for name, _ in model.named_parameters() if name[0] in "lt"}
    before = compiled.report.costs["weights"][0]
    assert before == 8 * 5 + 8 * CLASSES, "its weights do not count towards the sparsity"
    dense = Runner().run([DropDeadNodes(), BuildDependencies(), FixChannelSizes()], capture(model, inputs))
    torch.testing.assert_close(dense.module(inputs), expected)
