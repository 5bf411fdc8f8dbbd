"""score-weights: runs a criterion for weights and checks what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from graphprune.costs.pool import pool_of
from graphprune.criteria.scores import WeightScores
from graphprune.criteria.weights import WEIGHT_CRITERIA
from graphprune.errors import InternalError, OptionError
from graphprune.pass_manager.runner import Runner
from graphprune.passes.score_weights import ScoreWeights
from graphprune.program.program import Program
from tests.scoring import batches_like, leaving_no_trace, prepared, sensitivity
from tests.small_models import Mlp, analysed

SENSITIVITY = sensitivity(None)
SIZES = {"fc1.weight": (8, 5), "fc2.weight": (6, 8), "head.weight": (3, 6)}


def score(program: Program, criterion: Any) -> WeightScores:
    return Runner().run([ScoreWeights(criterion, SENSITIVITY)], program)[WeightScores]


def constant(importance: Mapping[str, Tensor]) -> Any:
    return lambda program, sensitivity: WeightScores(importance, "constant")


def like_the_pool(value: float = 1.0, **others: Tensor) -> dict[str, Tensor]:
    return {name: others.get(name.partition(".")[0], torch.full(size, value)) for name, size in SIZES.items()}


def mlp() -> Program:
    return analysed(Mlp(), torch.randn(2, 5))[0]


def test_scores_are_filled_in_and_nothing_else_changes() -> None:
    program = mlp()
    importance = like_the_pool()
    with leaving_no_trace(program):
        result = ScoreWeights(constant(importance), SENSITIVITY).run(program)
    assert result.modified and result.program.module is program.module and WeightScores not in program
    assert result.program[WeightScores].importance is importance
    assert result.remarks == ("constant, 0 samples",)


def test_what_is_said_of_data() -> None:
    program = prepared(Mlp(), torch.randn(2, 5))
    data = batches_like(program.example.args[0], 3, 2)
    options = sensitivity(data)
    result = ScoreWeights(WEIGHT_CRITERIA["elasticity"], options).run(program)
    with torch.no_grad():
        losses = [functional.cross_entropy(program.module(inputs), target, reduction="none") for inputs, target in data]
    assert result.remarks == (f"elasticity, 5 samples, loss {float(torch.cat(losses).mean()):.4g}",)


def test_a_second_run_replaces_the_scores() -> None:
    once = Runner().run([ScoreWeights(constant(like_the_pool(1.0)), SENSITIVITY)], mlp())
    twice = score(once, constant(like_the_pool(2.0)))
    assert all(bool((importance == 2).all()) for importance in twice.importance.values())


def test_magnitudes_are_those_of_the_parameters() -> None:
    program = mlp()
    found = score(program, WEIGHT_CRITERIA["magnitude"])
    assert found.importance.keys() == pool_of(program).keys() == SIZES.keys()
    for name, weight in pool_of(program).items():
        assert torch.equal(found.importance[name], weight.detach().abs().double()), name


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (
            like_the_pool(fc2=torch.ones(8, 6)),
            r"fc2.weight: expected .* shape \(6, 8\), got shape \(8, 6\)",
        ),
        ({"fc1.weight": torch.ones(8, 5)}, r"fc2.weight: expected importances of shape \(6, 8\), got nothing\n.*head"),
        (like_the_pool(head=torch.full((3, 6), torch.nan)), "head.weight: expected finite importances"),
        (like_the_pool(fc1=torch.full((8, 5), torch.inf)), "fc1.weight: expected finite importances"),
    ],
    ids=["another shape", "missing", "not a number", "infinite"],
)
def test_importances_that_cannot_be_ranked(importance: Mapping[str, Tensor], message: str) -> None:
    with pytest.raises(OptionError, match=f"criterion constant:\n  {message}"):
        score(mlp(), constant(importance))


def test_a_criterion_that_gives_no_scores() -> None:
    with pytest.raises(OptionError, match=r"expected graphprune\.weights\.criteria\.WeightScores, got float"):
        score(mlp(), lambda program, sensitivity: 1.0)


def test_without_dependencies_it_is_refused() -> None:
    program = mlp()
    with pytest.raises(InternalError, match="score-weights needs Dependencies"):
        score(program.with_module(program.module), constant(like_the_pool()))
