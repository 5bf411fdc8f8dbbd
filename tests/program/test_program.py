"""The program: facts are looked up by their types, and hold for one module only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import pytest
import torch
from torch import Tensor, fx, nn

from graphprune.capture import capture
from graphprune.coupling.shapes import RecordedShapes
from graphprune.criteria.scores import Scores, WeightScores
from graphprune.errors import InternalError
from graphprune.labels.dependencies import Dependencies
from graphprune.program.example import Example
from graphprune.program.facts import Fact, FirstAnalysis, History
from graphprune.program.program import CapturedBy, Origin, Program, device_of
from graphprune.selection.record import Selection
from tests.small_models import Chain, analysed, images


@dataclass(frozen=True)
class Colour(Fact):
    """Something that is known."""

    provided_by: ClassVar[tuple[str, ...]] = ("look-at-it", "ask-somebody")

    name: str


@dataclass(frozen=True)
class Shade(Colour):
    """Something else, though also a colour."""

    provided_by: ClassVar[tuple[str, ...]] = ("look-again",)


@pytest.fixture
def program() -> Program:
    """A program of which nothing is known."""
    return Program(fx.symbolic_trace(Chain()), Example.of(images()), CapturedBy("torch.fx"))


# --- facts ------------------------------------------------------------------------------------------------------------


def test_a_fact_is_known_by_its_type(program: Program) -> None:
    red = Colour("red")
    assert Colour not in program and program.get(Colour) is None
    knowing = program.knowing(red)
    assert Colour in knowing and knowing[Colour] is red and knowing.get(Colour) is red


def test_a_fact_that_is_not_known_names_the_passes_that_find_it_out(program: Program) -> None:
    with pytest.raises(
        InternalError, match=r"^the program has no Colour; run the pass look-at-it or ask-somebody before$"
    ):
        program[Colour]
    with pytest.raises(InternalError, match=r"^the program has no Shade; run the pass look-again before$"):
        program.knowing(Colour("red"))[Shade]


@pytest.mark.parametrize("kind", [Dependencies, FirstAnalysis, Scores, WeightScores, Selection, Origin, RecordedShapes])
def test_a_missing_fact_of_the_package_names_its_passes(program: Program, kind: type[Fact]) -> None:
    with pytest.raises(InternalError) as caught:
        program[kind]
    assert str(caught.value) == (
        f"the program has no {kind.__name__}; run the pass {' or '.join(kind.provided_by)} before"
    )


def test_a_fact_of_a_subtype_is_another_fact(program: Program) -> None:
    knowing = program.knowing(Shade("pink"))
    assert Shade in knowing and Colour not in knowing and knowing.get(Colour) is None


def test_a_later_fact_takes_the_place_of_an_earlier_one_and_others_stay(program: Program) -> None:
    first = program.knowing(Colour("red"), Shade("pink"))
    second = first.knowing(Colour("blue"))
    assert (second[Colour].name, second[Shade].name) == ("blue", "pink")
    assert first[Colour].name == "red", "programs are not changed"
    assert program.knowing(Colour("red"), Colour("blue"))[Colour].name == "blue"


def test_knowing_and_forgetting_changes_nothing_else(program: Program) -> None:
    knowing = program.knowing(Colour("red"), Shade("pink"))
    less = knowing.without(Colour)
    assert Colour not in less and less[Shade].name == "pink" and Colour in knowing
    assert knowing.without(Colour, Shade).facts == program.without(Colour).facts == {}
    for each in fields(Program):
        if each.name != "facts":
            assert getattr(less, each.name) is getattr(knowing, each.name) is getattr(program, each.name)


def test_nothing_is_known_of_another_module(program: Program) -> None:
    knowing = program.knowing(Colour("red"), Shade("pink"))
    other = fx.symbolic_trace(Chain())
    changed = knowing.with_module(other)
    assert changed.module is other and changed.facts == {}
    assert changed.history is program.history and changed.example is program.example and Colour in knowing


def test_dependencies_by_name() -> None:
    program, dependencies = analysed(Chain(), images())
    assert program.dependencies is program[Dependencies] is dependencies
    with pytest.raises(
        InternalError, match=r"^the program has no Dependencies; run the pass build-dependencies before$"
    ):
        _ = program.without(Dependencies).dependencies


# --- masks and prunes -------------------------------------------------------------------------------------------------


def test_masks_take_the_place_of_earlier_ones(program: Program) -> None:
    kept = {("conv.weight", 0): torch.arange(3)}
    dormant = {"conv.weight": torch.zeros(6, 2, 3, 3)}
    first = Program(
        program.module, program.example, program.captured_by, history=History(kept, {"a": torch.ones(1)}, dormant)
    ).knowing(Colour("red"))
    masks = {"fc.weight": torch.ones(3, 6, dtype=torch.bool)}
    masked = first.masked(masks)
    assert masked.history.masks == masks and masked.history.masks is not masks
    assert masked.history.kept is kept and masked.history.dormant is dormant
    assert masked.module is first.module and masked[Colour].name == "red", "the module and what is known of it stay"
    masks.clear()
    assert list(masked.history.masks) == ["fc.weight"] and list(first.history.masks) == ["a"]


def first_analysis(program: Program) -> Program:
    classes = {
        ("conv.weight", 0): torch.arange(6),
        ("conv.bias", 0): torch.arange(6),
        ("fc.weight", 0): torch.full((3,), -1),
    }
    return program.knowing(FirstAnalysis((), classes, {}, 6), Colour("red"))


def test_a_prune_composes_history_and_narrows_the_first_analysis(program: Program) -> None:
    dense = first_analysis(program).masked({"conv.bias": torch.tensor([True, False, True, True, False, True])})
    module, kept = fx.symbolic_trace(Chain(4)), {("conv.weight", 0): torch.tensor([0, 2, 3, 5])}
    once = dense.pruned(module, kept | {("conv.bias", 0): torch.tensor([0, 2, 4, 5])}, 2)
    assert once.module is module and set(once.facts) == {FirstAnalysis}
    assert once[FirstAnalysis].classes["conv.weight", 0].tolist() == [0, 2, 3, 5]
    assert once[FirstAnalysis].classes["fc.weight", 0].tolist() == [-1] * 3
    assert once[FirstAnalysis].channels_left == 4
    assert once.history.masks["conv.bias"].tolist() == [True, True, False, True]
    twice = once.pruned(fx.symbolic_trace(Chain(2)), {("conv.weight", 0): torch.tensor([1, 3])}, 2)
    assert twice.history.kept["conv.weight", 0].tolist() == [2, 5]
    assert twice.history.kept["conv.bias", 0].tolist() == [0, 2, 4, 5]
    assert twice[FirstAnalysis].classes["conv.weight", 0].tolist() == [2, 5]
    assert twice[FirstAnalysis].channels_left == 2
    assert dense.history.kept == {} and dense[FirstAnalysis].channels_left == 6, "the dense one is as it was"


def test_without_a_first_analysis_there_is_no_prune(program: Program) -> None:
    with pytest.raises(InternalError, match="the program has no FirstAnalysis; run the pass build-dependencies before"):
        program.pruned(program.module, {}, 0)


# --- the rest ---------------------------------------------------------------------------------------------------------


class TwoInputs(nn.Module):
    """Has inputs that can be given by position or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        out: Tensor = self.fc(x + 2 * y) * scale
        return out


@pytest.mark.parametrize("by_position", [0, 1, 2])
def test_inputs_come_in_the_order_of_the_graph(by_position: int) -> None:
    x, y = torch.randn(2, 5), torch.randn(2, 5)
    model, given = TwoInputs(), {"y": y, "x": x}
    args = (x, y)[:by_position]
    example = Example(args, {name: given[name] for name in given if not any(given[name] is each for each in args)})
    program = capture(model, example, ())
    found = [each for each in program.inputs() if isinstance(each, Tensor)]
    assert [tensor.tolist() for tensor in found] == [x.tolist(), y.tolist()]
    assert torch.equal(program.module(*args, **example.kwargs), model(x, y))


def test_inputs_of_another_example(program: Program) -> None:
    other = images(3)
    assert program.inputs(Example.of(other))[0] is other
    assert program.inputs()[0] is program.example.args[0]


def test_front_ends_are_shown_with_the_reason() -> None:
    assert str(CapturedBy("torch.fx")) == "torch.fx"
    assert str(CapturedBy("torch.export", "torch.fx: no")) == "torch.export (torch.fx: no)"


def test_the_device_of_a_program(program: Program) -> None:
    assert device_of(program) == torch.device("cpu")
    assert device_of(program.with_module(program.module.to("meta"))) == torch.device("meta")
