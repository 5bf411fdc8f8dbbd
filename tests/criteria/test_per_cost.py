"""Importance per cost: the costs are those of really smaller networks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.costs.measures import Measure
from graphprune.costs.model import count_macs, count_parameters
from graphprune.criteria import CRITERIA, Evenly, PerCost
from graphprune.criteria.criterion import scores_of
from graphprune.criteria.per_cost import savings_of
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.errors import OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.program.example import Example
from graphprune.program.program import Program
from graphprune.request.budget import Budget
from graphprune.rewrite.compact import compact_module
from tests.costs.test_pool import TOKENS, Attention, Grouped
from tests.scoring import batches_like, leaving_no_trace, prepared, sensitivity
from tests.small_models import CLASSES, Dense, Inverted, Mlp, Residual, Transformer, images

Shape = tuple[Callable[[], nn.Module], Tensor]
MODELS: dict[str, Shape] = {
    "residual": (Residual, images()), "inverted": (Inverted, images()), "dense": (Dense, images()),
    "transformer": (Transformer, TOKENS), "attention": (lambda: Attention(cross=True), TOKENS),
    "grouped": (Grouped, TOKENS),
}  # fmt: skip


def counted(program: Program, keep: Tensor, measure: Measure) -> int:
    """Costs of the network that is left, which is built and run (on the meta device, by torch's counter)."""
    module = compact_module(program, KeepSet.of(program[Dependencies], keep))
    if measure == "params":
        return count_parameters(module)
    return count_macs(module, program.inputs(), program.example.batch_size)


@pytest.mark.parametrize("measure", ["macs", "params"])
@pytest.mark.parametrize("name", MODELS)
def test_savings_are_those_of_really_smaller_networks(name: str, measure: Measure) -> None:
    factory, example = MODELS[name]
    program = prepared(factory(), example)
    dependencies = program[Dependencies]
    keep = torch.ones(dependencies.channels, dtype=torch.bool)
    before, expected = counted(program, keep, measure), []
    for group in dependencies.groups:
        without = keep.clone()
        without[group.stop - 1] = False  # any channel of the group
        expected.append(before - counted(program, without, measure))
    assert savings_of(program, measure) == expected
    data = batches_like(example.double(), 3)
    with leaving_no_trace(program):
        found = scores_of(PerCost("l1-norm", measure), program, sensitivity(data)).importance
    plain = scores_of(CRITERIA["l1-norm"], program, sensitivity(data)).importance
    for group, saved in zip(dependencies.groups, expected, strict=True):
        part = slice(group.start, group.stop)
        torch.testing.assert_close(found[part], plain[part] / saved, rtol=1e-12, atol=0)


def test_of_the_present_program() -> None:
    """A channel of the second layer saves less once the first has been pruned."""
    seen: list[list[int]] = []

    def note(program: Program, sensitivity: Sensitivity) -> Tensor:
        seen.append(savings_of(program, "macs"))
        return PerCost("l1-norm")(program, sensitivity).importance

    pruner = graphprune.Pruner(Mlp((8, 6)), torch.randn(2, 5), sparsity=0.5, criterion=note, schedule="linear")
    first = pruner.step()
    second = pruner.step()
    assert first.removed and second.removed
    assert seen[0] == [5 + 6, 8 + CLASSES]
    left = {name: size.shape[0] for name, size in pruner.module.named_parameters() if name.endswith("bias")}
    pruner.step()
    assert seen[2] == [5 + left["fc2.bias"], left["fc1.bias"] + CLASSES]


def test_names_and_registered_ones() -> None:
    assert PerCost().__name__ == "elasticity-per-mac"
    assert PerCost(Evenly("l1-norm"), "params").__name__ == "l1-norm, evenly-per-param"
    for name, measure in (("elasticity-per-mac", "macs"), ("elasticity-per-param", "params")):
        assert measure in get_args(Measure)
        assert CRITERIA[name] == PerCost("elasticity", measure)  # type: ignore[arg-type]


def all_alike(program: Program, sensitivity: Sensitivity) -> Tensor:
    return torch.ones(program[Dependencies].channels)


def test_a_budget_of_macs_costs_fewer_channels() -> None:
    """Where all channels are alike, those go first that save most; without costs they go from all layers."""
    removed = []
    for criterion in (all_alike, PerCost(all_alike)):
        compiled = graphprune.compile(
            Residual(), images(), budget=Budget(macs=0.3), criterion=criterion, schedule="one-shot"
        )
        assert compiled.report.achieved["macs"] >= 0.3
        removed.append(compiled.report.achieved["channels"])
    assert removed[1] < removed[0]


class Pooled(nn.Module):
    """Channels of an embedding that is only summed take no multiplication."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(7, 8), nn.Linear(5, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.body(x))) + self.embed(tokens).sum((1, 2))[:, None]
        return out


def test_channels_that_save_nothing_go_last(caplog: pytest.LogCaptureFixture) -> None:
    example = Example((torch.randn(2, 5), torch.randint(7, (2, 4))), {})
    program = graphprune.Pruner(Pooled(), example, sparsity=0.5)._original
    dependencies = program[Dependencies]
    savings = savings_of(program, "macs")
    assert sorted(savings) == [0, 5 + CLASSES]
    with caplog.at_level(logging.WARNING, logger="graphprune"):
        importance = PerCost("l1-norm")(program, sensitivity(None)).importance
    assert "removing" not in caplog.text and "cannot rate 1 of 2 groups; they go last" in caplog.text
    nothing, something = sorted(dependencies.groups, key=lambda group: savings[int(group.id[1:])])
    assert float(importance[nothing.start : nothing.stop].min()) > float(
        importance[something.start : something.stop].max()
    )


def test_negative_importances_and_other_measures_are_refused() -> None:
    program = prepared(Mlp(), torch.randn(2, 5))

    def negative(program: Program, sensitivity: Sensitivity) -> Tensor:
        return torch.linspace(-1, 1, program[Dependencies].channels)

    with pytest.raises(OptionError, match="negative-per-mac: the importances of negative go down to -1; a quotient"):
        PerCost(negative)(program, sensitivity(None))
    with pytest.raises(OptionError, match="measure='channels': expected one of macs, params"):
        PerCost("l1-norm", "channels")
