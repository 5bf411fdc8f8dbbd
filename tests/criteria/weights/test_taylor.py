"""Taylor importance of weights by a loop over samples."""

from __future__ import annotations

import pytest
import torch

from graphprune.costs.pool import pool_of
from graphprune.criteria.weights import WEIGHT_CRITERIA
from tests.criteria.weights.test_elasticity import gradients_of_samples
from tests.scoring import batches_like, mean_loss, prepared, sensitivity, with_dead_weights
from tests.small_models import Inverted, images


@pytest.mark.parametrize("dormant", [False, True])
def test_the_squared_first_order_change_of_the_mean_loss(dormant: bool) -> None:
    program = prepared(Inverted(), images())
    before = {name: weight.detach().clone() for name, weight in pool_of(program).items()}
    program = with_dead_weights(program, dormant=dormant)
    batches = batches_like(images().double(), 3, 1)
    found = WEIGHT_CRITERIA["taylor"](program, sensitivity(batches, accumulate="absolute"))
    for name, weight in pool_of(program).items():
        gradient = gradients_of_samples(program.module, weight, batches).mean(0)
        expected = ((before[name] if dormant else weight.detach()) * gradient) ** 2
        torch.testing.assert_close(found.importance[name], expected, rtol=1e-9, atol=1e-20)
    assert found.loss == pytest.approx(float(mean_loss(program, batches).detach()), rel=1e-12)
    assert found.samples == 4


def test_a_loss_of_zero_has_importances() -> None:
    """Unlike elasticity it is not relative to the loss."""
    program = prepared(Inverted(), images())
    batches = batches_like(images().double(), 3)
    ((inputs, _),) = batches
    offset = program.module(inputs).sum().detach()
    found = WEIGHT_CRITERIA["taylor"](program, sensitivity(batches, loss=lambda out, _: out.sum() - offset))
    assert found.loss == pytest.approx(0, abs=1e-12)
    assert float(found.importance["stem.weight"].max()) > 0
