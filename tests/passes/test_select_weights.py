"""select-weights: fills in which weights stay, exactly as many as are allowed, or as many on paths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphprune.costs.pool import pool_of
from graphprune.criteria.scores import WeightScores
from graphprune.errors import BudgetError, InternalError
from graphprune.pass_manager.protocol import PassResult
from graphprune.pass_manager.runner import Runner
from graphprune.passes.mask_weights import MaskWeights
from graphprune.passes.select_weights import SelectWeights
from graphprune.paths.dead import dead_paths_of
from graphprune.program.program import Program
from graphprune.selection.record import Selection, weights_left
from tests.small_models import Mlp, analysed

TOTAL = 8 * 5 + 6 * 8 + 3 * 6


def scored() -> Program:
    """With importances that are all different."""
    program, _ = analysed(Mlp(), torch.randn(2, 5))
    sizes = {name: weight.shape for name, weight in pool_of(program).items()}
    order = torch.randperm(TOTAL, generator=torch.Generator().manual_seed(2)).double()
    rows = order.split([size.numel() for size in sizes.values()])
    drawn = {name: row.view(size) for (name, size), row in zip(sizes.items(), rows, strict=True)}
    return program.knowing(WeightScores(drawn, "test"))


def live(program: Program) -> Tensor:
    """Ranks of the weights that stay, ascending."""
    masks, importance = program[Selection].masks, program[WeightScores].importance
    kept = [values[masks[name]] if name in masks else values.flatten() for name, values in importance.items()]
    return torch.cat(kept).sort().values


def test_the_selection_is_filled_in_and_nothing_else_changes() -> None:
    program = scored()
    result = SelectWeights(40).run(program)
    assert result.modified and result.program.module is program.module and Selection not in program
    assert result.remarks == ("40 weights stay",)
    assert live(result.program).tolist() == list(range(TOTAL - 40, TOTAL)), "the most important ones"
    assert bool(result.program[Selection].keep.all()), "all channels stay"


def test_where_all_are_allowed_none_goes() -> None:
    result = SelectWeights(TOTAL).run(scored())
    assert result.program[Selection].masks == {} and result.remarks == (f"{TOTAL} weights stay",)


def test_a_second_run_selects_the_same() -> None:
    once = Runner().run([SelectWeights(30)], scored())
    twice = Runner().run([SelectWeights(30)], once)
    for name, mask in once[Selection].masks.items():
        assert torch.equal(mask, twice[Selection].masks[name]), name


def test_what_is_dead_stays_dead() -> None:
    once = Runner().run([SelectWeights(50), MaskWeights()], scored())
    turned = {name: TOTAL - values for name, values in once[WeightScores].importance.items()}
    again = Runner().run([SelectWeights(40)], once.knowing(WeightScores(turned, "test")))
    for name, mask in once.history.masks.items():
        assert not bool((again[Selection].masks[name] & ~mask).any()), name
    assert weights_left(again) == 40


@pytest.mark.parametrize("allowed", [3, 10, 25, 60])
def test_on_paths_as_many_lead_from_input_to_output(allowed: int) -> None:
    program = Runner().run([SelectWeights(allowed, on_paths=True)], scored())
    on_paths = weights_left(program) - dead_paths_of(program).weights
    assert on_paths == allowed
    plain = Runner().run([SelectWeights(allowed)], scored())
    assert dead_paths_of(plain).weights > 0 or allowed == 60, "without it some lead nowhere"


def test_a_number_out_of_reach() -> None:
    """The weights of a layer with a norm of its own cannot all go."""
    model = Mlp()
    torch.nn.utils.parametrizations.weight_norm(model.fc2)
    program, _ = analysed(model, torch.randn(2, 5))
    scores = {name: torch.rand(weight.shape, dtype=torch.float64) for name, weight in pool_of(program).items()}
    with pytest.raises(BudgetError):
        Runner().run([SelectWeights(2)], program.knowing(WeightScores(scores, "test")))


def test_without_scores_it_is_refused() -> None:
    program, _ = analysed(Mlp(), torch.randn(2, 5))
    with pytest.raises(InternalError, match="select-weights needs WeightScores"):
        Runner().run([SelectWeights(40)], program)


def test_another_number_than_promised_is_caught() -> None:
    program = scored()
    right = SelectWeights(40).run(program)
    assert SelectWeights(40).ensures(program, right) == []
    assert SelectWeights(41).ensures(program, right) == ["40 weights left, 41 allowed"]
    everything = PassResult(program.knowing(Selection(torch.ones(14, dtype=torch.bool))), True)
    assert SelectWeights(40).ensures(program, everything) == [f"{TOTAL} weights left, 40 allowed"]
    assert SelectWeights(40, on_paths=True).ensures(program, everything) == [f"{TOTAL} weights left, 40 allowed"]
    assert SelectWeights(40, on_paths=True).ensures(program, right) == [], "of those on paths there may be fewer"
