"""Facts and history: what passes say that they find out, and rounds that compose to one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphprune.coupling.shapes import RecordedShapes
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import NOT_PRUNABLE
from graphprune.labels.keep_set import KeepSet
from graphprune.pass_manager.protocol import Pass
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.passes.prune_channels import PruneChannels
from graphprune.program.facts import Fact, FirstAnalysis, History
from graphprune.program.tensors import Kept, compose_kept, cuts_of, take
from graphprune.selection.record import Selection
from tests.small_models import IMAGES, analysed, images

# --- which pass finds out what ----------------------------------------------------------------------------------------


def facts_below(kind: type[Fact]) -> Iterator[type[Fact]]:
    for each in kind.__subclasses__():
        yield each
        yield from facts_below(each)


PASSES = [
    each for each in vars(pipelines).values() if isinstance(each, type) and issubclass(each, Pass) and each is not Pass
]

FACTS = sorted(
    (kind for kind in facts_below(Fact) if kind.__module__.startswith("graphprune.")), key=lambda kind: kind.__name__
)


def name_of(kind: type[Pass]) -> str:
    return object.__new__(kind).name  # the name does not depend on the options


def test_there_are_passes_and_facts() -> None:
    assert {"prune-channels", "export-onnx", "time-onnx", "build-dependencies"} < set(map(name_of, PASSES))
    assert {"Dependencies", "Selection", "ExportResult", "TimingResult"} < {kind.__name__ for kind in FACTS}


@pytest.mark.parametrize("kind", FACTS, ids=lambda kind: kind.__name__)
def test_a_fact_names_the_passes_that_find_it_out(kind: type[Fact]) -> None:
    assert kind.provided_by, "it would be found out by nobody"
    assert sorted(kind.provided_by) == sorted(name_of(each) for each in PASSES if kind in each.provides)


def test_shapes_are_recorded_by_one_pass_and_foretold_by_another() -> None:
    assert RecordedShapes.provided_by == ("build-dependencies", "prune-channels")
    program, dependencies = analysed(IMAGES["chain"](), images())
    keep = KeepSet.everything(dependencies).without(slice(0, 2))
    compact = Runner().run([PruneChannels()], program.knowing(Selection(keep.channels)))
    assert program[RecordedShapes].by_node["conv"] == ((2, 6, 6, 6),)
    assert compact[RecordedShapes].by_node["conv"] == ((2, 4, 6, 6),)


@pytest.mark.parametrize("kind", FACTS, ids=lambda kind: kind.__name__)
def test_no_fact_is_provided_by_a_pass_that_there_is_not(kind: type[Fact]) -> None:
    assert set(kind.provided_by) <= set(map(name_of, PASSES))
    assert "provided_by" in vars(kind), "each says so itself"


@pytest.mark.parametrize("kind", PASSES, ids=name_of)
def test_what_a_pass_needs_is_found_out_by_some_pass(kind: type[Pass]) -> None:
    assert all(fact.provided_by for fact in kind.needs)
    assert not kind.provides & kind.drops, "else it would drop what it has just found out"


def test_a_fact_is_printed_as_the_module_of_the_program_unless_it_says_otherwise() -> None:
    assert Selection(torch.ones(2, dtype=torch.bool)).shown is None


# --- rounds that compose ----------------------------------------------------------------------------------------------

SHAPES = {"first": (5, 4), "second": (6,), "third": (3, 2, 4)}
"""Tensors of a network, by name."""


def some_of(draw: st.DrawFn, size: int) -> Tensor:
    kept = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return torch.tensor([index for index, stays in enumerate(kept) if stays], dtype=torch.long)


@st.composite
def rounds(draw: st.DrawFn) -> list[Kept]:
    """Kept indices of some dims, each in terms of what the round before has left."""
    sizes = {(name, dim): size for name, shape in SHAPES.items() for dim, size in enumerate(shape)}
    found: list[Kept] = []
    for _ in range(draw(st.integers(1, 4))):
        keys = draw(st.sets(st.sampled_from(sorted(sizes))))
        found.append({key: some_of(draw, sizes[key]) for key in sorted(keys)})
        sizes |= {key: len(indices) for key, indices in found[-1].items()}
    return found


def tensors() -> dict[str, Tensor]:
    return {name: torch.arange(torch.Size(shape).numel()).view(shape) for name, shape in SHAPES.items()}


def indexed(values: dict[str, Tensor], rounds: Sequence[Kept]) -> dict[str, Tensor]:
    """The oracle: what is left when one round after the other is carried out."""
    for kept in rounds:
        for (name, dim), indices in kept.items():
            values = values | {name: values[name][(slice(None),) * dim + (indices,)]}
    return values


def composed(rounds: Sequence[Kept]) -> Kept:
    all_together: Kept = {}
    for kept in rounds:
        all_together = compose_kept(all_together, kept)
    return all_together


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@given(rounds())
def test_rounds_composed_are_indexing_one_after_the_other(rounds: list[Kept]) -> None:
    cuts = cuts_of(composed(rounds))
    found = {name: take(tensor, cuts.get(name, ())) for name, tensor in tensors().items()}
    assert same(found, indexed(tensors(), rounds))


@given(rounds(), st.data())
def test_it_does_not_matter_which_rounds_are_composed_first(rounds: list[Kept], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(rounds)))
    halves = compose_kept(composed(rounds[:place]), composed(rounds[place:]))
    whole = composed(rounds)
    assert halves.keys() == whole.keys() and all(torch.equal(halves[key], whole[key]) for key in whole)


@given(rounds())
def test_composing_leaves_both_as_they_were(rounds: list[Kept]) -> None:
    first, last = composed(rounds[:-1]), rounds[-1]
    copies = [{key: indices.clone() for key, indices in kept.items()} for kept in (first, last)]
    compose_kept(first, last)
    for kept, copy in zip((first, last), copies, strict=True):
        assert kept.keys() == copy.keys() and all(torch.equal(kept[key], copy[key]) for key in kept)


@given(rounds())
def test_history_follows_every_round(rounds: list[Kept]) -> None:
    masks, dormant = tensors(), tensors()
    masks = {name: mask % 2 == 0 for name, mask in masks.items() if name != "second"}
    dormant = {name: weight.double() for name, weight in dormant.items() if name != "third"}
    before = History(masks=masks, dormant=dormant)
    history = before
    for kept in rounds:
        history = history.pruned(kept)
    expected = composed(rounds)
    assert history.kept.keys() == expected.keys()
    assert all(torch.equal(history.kept[key], expected[key]) for key in expected)
    assert same(
        history.masks, {name: mask for name, mask in indexed({**tensors(), **masks}, rounds).items() if name in masks}
    )
    assert same(
        history.dormant,
        {name: weight for name, weight in indexed({**tensors(), **dormant}, rounds).items() if name in dormant},
    )
    assert before.kept == {} and same(before.masks, masks) and same(before.dormant, dormant)


@given(rounds(), st.lists(st.integers(0, 5), min_size=4, max_size=4))
def test_the_first_analysis_is_narrowed_to_what_is_left(rounds: list[Kept], removed: list[int]) -> None:
    classes = {
        (name, dim): torch.randperm(size) - 1 for name, shape in SHAPES.items() for dim, size in enumerate(shape)
    }
    first = FirstAnalysis((("node", "reason"),), classes, {"node: what": True}, 50)
    found = first
    for kept, count in zip(rounds, removed, strict=False):
        found = found.pruned(kept, count)
    everything = composed(rounds)
    for key, of_dim in classes.items():
        assert torch.equal(found.classes[key], of_dim[everything[key]] if key in everything else of_dim), key
    assert found.channels_left == 50 - sum(removed[: len(rounds)])
    assert (found.pins, found.choices) == (first.pins, first.choices)
    assert first.channels_left == 50 and all(first.classes[key] is classes[key] for key in classes)


@pytest.mark.parametrize("name", IMAGES)
def test_the_classes_that_are_left_are_those_of_the_channels_that_stay(name: str) -> None:
    program, dependencies = analysed(IMAGES[name](), images())
    keep = KeepSet(dependencies, torch.rand(dependencies.channels) < 0.5)
    left = program[FirstAnalysis].pruned(keep.indices, keep.removed)
    staying = set(keep.channels.nonzero().flatten().tolist())
    for key, of_dim in program[Dependencies].classes().items():
        expected = [each for each in of_dim.tolist() if each in staying or each == NOT_PRUNABLE]
        assert left.classes[key].tolist() == expected
    assert left.channels_left == len(staying)
