"""drop-dead-nodes: layers of which nobody uses the result go; all that somebody sees stays as it is."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import graphprune
from graphprune.capture import capture
from graphprune.errors import InternalError, NothingToPruneError, OptionError
from graphprune.pass_manager.protocol import PassResult
from graphprune.pass_manager.runner import Runner
from graphprune.passes.build_dependencies import BuildDependencies
from graphprune.passes.drop_dead_nodes import DropDeadNodes
from graphprune.program.program import Program
from graphprune.program.tensors import stored_parameters
from tests.ops.case import net, randomised
from tests.small_models import CLASSES, IMAGES, Chain, analysed, images

INPUTS = torch.linspace(-2, 2, 30).view(6, 5)


def beside(branch: Callable[[Any, Tensor], object], **parts: Any) -> nn.Module:
    """A network of 75 parameters, and a branch from its hidden layer that leads nowhere."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = torch.relu(self.fc(x))
        branch(self, y)
        out: Tensor = self.head(y)
        return out

    return net(forward, fc=nn.Linear(5, 8), head=nn.Linear(8, CLASSES), **parts)


def large() -> nn.Module:
    """1,408 dead parameters beside 75 live ones."""
    return beside(
        lambda self, y: self.last(torch.tanh(self.aux(y))), aux=nn.Linear(8, 64), last=nn.Linear(64, 12, bias=True)
    )


class ByLength(nn.Module):
    """Looks at the size of the batch, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.head = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)
        self.aux, self.aux_norm = nn.Linear(8, 30), nn.BatchNorm1d(30)
        self.last = nn.Sequential(nn.Linear(30, 7), nn.ReLU(inplace=True), nn.Dropout(0.3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.fc(x if len(x) > 0 else x + 1)))
        self.last(self.aux_norm(self.aux(y)))
        out: Tensor = self.head(y)
        return out


def dropped(model: nn.Module, example: Any = INPUTS, protect: tuple[str, ...] = ()) -> Program:
    return Runner().run([DropDeadNodes()], capture(model, example, protect))


def names(program: Program) -> list[str]:
    return [node.name for node in program.module.graph.nodes]


def check_same(program: Program, model: nn.Module, inputs: Tensor = INPUTS) -> None:
    """In both modes, from the same random state, and with the statistics that training leaves behind."""
    ours, theirs = copy.deepcopy(program.module), copy.deepcopy(model)
    for training in (False, True, False):
        found = []
        for module in (ours, theirs):
            torch.manual_seed(7)
            found.append(module.train(training)(inputs.clone()))
        torch.testing.assert_close(found[0], found[1])


# --- what goes --------------------------------------------------------------------------------------------------------


def test_a_dead_branch_goes_with_its_parameters() -> None:
    model = large()
    before = capture(model, INPUTS)
    result = DropDeadNodes().run(before)
    assert names(before) == ["x", "fc", "relu", "aux", "tanh", "last", "head", "output"]
    assert names(result.program) == ["x", "fc", "relu", "head", "output"]
    assert list(result.program.module.state_dict()) == ["fc.weight", "fc.bias", "head.weight", "head.bias"]
    gone = [f"{name} is read by nobody" for name in ("aux.weight", "aux.bias", "last.weight", "last.bias")]
    assert result.modified and result.remarks == ("3 nodes removed", *gone)
    check_same(result.program, model)


BRANCHES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "normalisation": (lambda: beside(lambda self, y: self.norm(y), norm=nn.BatchNorm1d(8)), "norm"),
    "dropout at the end": (
        lambda: beside(lambda self, y: self.drop(self.aux(y)), aux=nn.Linear(8, 40), drop=nn.Dropout()), "aux",
    ),
    "functional dropout at the end": (
        lambda: beside(lambda self, y: functional.dropout(self.aux(y), 0.5, self.training), aux=nn.Linear(8, 9)), "aux",
    ),
    "nested": (
        lambda: beside(
            lambda self, y: self.aux(y),
            aux=nn.Sequential(nn.Linear(8, 9), nn.Sequential(nn.BatchNorm1d(9), nn.ReLU(True)), nn.Linear(9, 2)),
        ),
        "aux",
    ),
    "recurrent": (lambda: beside(lambda self, y: self.aux(y.unsqueeze(1))[1][0], aux=nn.LSTM(8, 6)), "aux"),
    "attention": (
        lambda: beside(lambda self, y: self.aux(*[y.unsqueeze(1)] * 3)[1], aux=nn.MultiheadAttention(8, 2)), "aux",
    ),
    "a parameter of its own": (lambda: beside(lambda self, y: self.aux * y, aux=nn.Parameter(torch.rand(8))), "aux"),
    "a number": (lambda: beside(lambda self, y: y / self.aux, aux=nn.Parameter(torch.tensor(2.0))), "aux"),
    "weight norm": (
        lambda: beside(lambda self, y: self.aux(y), aux=nn.utils.parametrizations.weight_norm(nn.Linear(8, 9))), "aux",
    ),
    "captured by torch.export": (ByLength, "aux"),
}  # fmt: skip


@pytest.mark.parametrize("name", BRANCHES)
def test_of_a_dead_branch_nothing_is_left(name: str) -> None:
    factory, path = BRANCHES[name]
    model = randomised(factory())
    program = dropped(model)
    left = [*program.module.state_dict(), *(name for name, _ in program.module.named_modules())]
    assert not [name for name in left if name.partition(".")[0].startswith((path, "last", "drop"))], left
    analysed(model, INPUTS)  # holds the invariant that every parameter is read
    check_same(program, model)


def test_the_model_that_torch_fx_cannot_follow_is_exported() -> None:
    assert "torch.export" in dropped(ByLength()).captured_by.route


def test_a_dead_call_of_a_live_layer_goes_and_the_layer_stays() -> None:
    model = beside(lambda self, y: self.fc(torch.tanh(self.fc(y[:, :5]))[:, :5]))
    program = dropped(model)
    assert names(program) == ["x", "fc", "relu", "head", "output"]
    assert program.module.state_dict().keys() == model.state_dict().keys()
    check_same(program, model)


class Tied(nn.Module):
    """Four layers have one weight; the first and the last of them are dead."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dead, self.fc, self.mid, self.end = nn.Linear(5, 8), *(nn.Linear(8, 8) for _ in range(4))
        self.fc.weight = self.mid.weight = self.end.weight = self.dead.weight
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        self.dead(x)
        y = torch.relu(self.mid(torch.relu(self.fc(x))))
        self.end(y)
        out: Tensor = self.head(y)
        return out


def test_ties_survive() -> None:
    model = Tied()
    result = DropDeadNodes().run(capture(model, INPUTS))
    module: Any = result.program.module
    assert module.fc.weight is module.mid.weight
    assert not hasattr(module, "dead") and not hasattr(module, "end")
    assert result.remarks == ("2 nodes removed", "dead.bias is read by nobody", "end.bias is read by nobody")
    check_same(result.program, model)


# --- what stays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES)
def test_without_dead_nodes_nothing_changes(name: str) -> None:
    program = capture(IMAGES[name](), images())
    result = DropDeadNodes().run(program)
    assert result.program is program and result == PassResult(program, False)


@pytest.mark.parametrize("factory", [large, ByLength, Tied])
def test_a_second_run_changes_nothing(factory: Callable[[], nn.Module]) -> None:
    once = dropped(factory())
    result = DropDeadNodes().run(once)
    assert result.program is once and not result.modified


@pytest.mark.parametrize("factory", [large, ByLength, Tied])
def test_the_program_given_and_the_model_are_not_changed(factory: Callable[[], nn.Module]) -> None:
    model = factory()
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = capture(model, INPUTS)
    graph, kept = str(before.module.graph), list(before.module.state_dict())
    Runner().run([DropDeadNodes()], before)
    assert str(before.module.graph) == graph and list(before.module.state_dict()) == kept
    assert model.state_dict().keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())


def test_tensors_and_modes_are_those_of_the_program_given() -> None:
    model = ByLength()
    model.norm.eval()
    before = capture(model, INPUTS)
    after = Runner().run([DropDeadNodes()], before)
    for name, parameter in stored_parameters(after.module).items():
        assert parameter is before.module.get_parameter(name), name
    assert after.module.training and not after.module.get_submodule("norm").training


@pytest.mark.parametrize("pattern", ["aux", "aux.*", "au*", "aux.bias"])
def test_what_is_protected_stays_with_what_it_reads(pattern: str) -> None:
    program = dropped(large(), protect=(pattern,))
    assert names(program) == ["x", "fc", "relu", "aux", "head", "output"]
    assert "aux.weight" in program.module.state_dict() and "last.weight" not in program.module.state_dict()


def test_a_protected_number_stays() -> None:
    """It has no dims, and its pattern has to match something in the analysis too."""
    model = beside(lambda self, y: y / self.aux, aux=nn.Parameter(torch.tensor(2.0)))
    program, _ = analysed(model, INPUTS, protect=("aux",))
    assert "aux" in program.module.state_dict()


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match="'axu' matches no module"):
        dropped(large(), protect=("axu",))


def test_a_model_of_which_nothing_is_left_is_refused() -> None:
    model = net(lambda self, x: (self.fc(x), x * 2)[1], fc=nn.Linear(5, 8))
    with pytest.raises(NothingToPruneError, match="no output of Net depends on a parameter"):
        graphprune.compile(model, INPUTS, sparsity=0.5)


def test_what_is_known_of_the_larger_program_is_forgotten() -> None:
    program = Runner().run([BuildDependencies()], capture(Chain(), images()))
    assert DropDeadNodes().run(program).program is program
    with_dead = program.module.graph
    with with_dead.inserting_before(next(iter(with_dead.find_nodes(op="output")))):
        with_dead.call_function(torch.relu, (with_dead.find_nodes(op="placeholder")[0],))
    assert not DropDeadNodes().run(program).program.facts


def test_a_result_with_dead_nodes_is_caught() -> None:
    program = capture(large(), INPUTS)
    problems = DropDeadNodes().ensures(program, PassResult(program, False))
    assert problems == [f"%{name} is dead and still there" for name in ("last", "tanh", "aux")]
    assert DropDeadNodes().ensures(program, DropDeadNodes().run(program)) == []


def test_a_node_that_was_not_dead_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    program = capture(beside(lambda self, y: y.view(-1, 8).__imul__(2)), INPUTS)

    def writes(module: fx.GraphModule, wanted: Collection[int]) -> list[fx.Node]:
        return [node for node in module.graph.nodes if node.target is operator.imul]

    monkeypatch.setattr("graphprune.coupling.dead_code.dead_nodes", writes)
    with pytest.raises(InternalError, match="without its dead nodes, for 6 samples the graph is off by"):
        Runner().run([DropDeadNodes()], program)


def test_a_dead_normalisation_whose_statistics_are_read_stays() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.conv(x)
        functional.instance_norm(y, self.mean, self.variance)
        out: Tensor = self.head((y - self.mean.view(1, -1, 1, 1)).mean((2, 3)))
        return out

    model = net(forward, conv=nn.Conv2d(2, 8, 3), head=nn.Linear(8, CLASSES))
    model.register_buffer("mean", torch.zeros(8))
    model.register_buffer("variance", torch.ones(8))
    program = capture(model, images())
    assert not DropDeadNodes().run(program).modified
    graphprune.compile(model, images(), sparsity=0.5)


def test_on_the_meta_device_there_are_no_values_to_compare() -> None:
    with torch.device("meta"):
        program = capture(large(), torch.empty(6, 5))
    after = Runner().run([DropDeadNodes()], program)
    assert set(stored_parameters(after.module)) == {"fc.weight", "fc.bias", "head.weight", "head.bias"}
