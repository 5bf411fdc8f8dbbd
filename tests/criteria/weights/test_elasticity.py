"""Elasticity of weights against finite differences and explicit loops over samples."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import graphprune
from graphprune.costs.pool import pool_of
from graphprune.criteria.sensitivity import Accumulate
from graphprune.criteria.weights import WEIGHT_CRITERIA
from graphprune.errors import LossError
from tests.scoring import Batches, batches_like, mean_loss, numeric_slopes, prepared, sensitivity, with_dead_weights
from tests.small_models import Chain, Inverted, Mlp, Residual, Transformer, images

elasticity = WEIGHT_CRITERIA["elasticity"]


@pytest.mark.parametrize("factory", [Chain, Residual, Inverted])
def test_finite_differences(factory: Callable[[], nn.Module]) -> None:
    program = prepared(factory(), images())
    batches = batches_like(images().double(), 4, 3)
    found = elasticity(program, sensitivity(batches))
    loss = float(mean_loss(program, batches).detach())
    assert found.loss == pytest.approx(loss, rel=1e-12)
    assert found.samples == 7
    for name, weight in pool_of(program).items():
        indices = torch.randperm(weight.numel())[:4].tolist()
        slopes = numeric_slopes(weight, lambda: float(mean_loss(program, batches).detach()), indices, step=1e-6)
        expected = (weight.detach().view(-1)[indices] * slopes).abs() / loss
        # differences of step 1e-6 have an error of about 1e-16 / 1e-6
        torch.testing.assert_close(found.importance[name].view(-1)[indices], expected, rtol=1e-5, atol=1e-9)


def gradients_of_samples(module: nn.Module, parameter: Tensor, batches: Batches) -> Tensor:
    """Of each sample's own loss, by a loop, ``(samples, ...)``."""
    rows = []
    for inputs, target in batches:
        for index in range(len(inputs)):
            one = slice(index, index + 1)
            loss = functional.cross_entropy(module(inputs[one]), target[one])
            rows.append(torch.autograd.grad(loss, parameter)[0])
    return torch.stack(rows)


def test_a_sample_without_a_target_that_counts_says_nothing() -> None:
    program = prepared(Chain(), images())
    ((inputs, target),) = batches_like(images().double(), 4)
    ignored = torch.cat([target[:3], torch.tensor([-100])])
    found = elasticity(program, sensitivity([(inputs, ignored)], accumulate="squared")).importance
    without = elasticity(program, sensitivity([(inputs[:3], target[:3])], accumulate="squared")).importance
    ratios = torch.cat([(found[name] / without[name]).flatten() for name in found])
    ratios = ratios[ratios.isfinite()]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))


@pytest.mark.parametrize("dormant", [False, True])
@pytest.mark.parametrize("accumulate", ["signed", "absolute", "squared"])
def test_a_loop_over_samples(accumulate: Accumulate, dormant: bool) -> None:
    """Of a network with dead weights: the gradient is taken where they are 0, w is what it was if it can come back."""
    program = prepared(Transformer(), torch.randn(2, 5, 4))
    before = {name: weight.detach().clone() for name, weight in pool_of(program).items()}
    program = with_dead_weights(program, dormant=dormant)
    batches = batches_like(torch.randn(1, 5, 4).double(), 3, 2, 1)
    found = elasticity(program, sensitivity(batches, accumulate=accumulate))
    loss = float(mean_loss(program, batches).detach())
    for name, weight in pool_of(program).items():
        rows = gradients_of_samples(program.module, weight, batches)
        mean = {"signed": rows.mean(0), "absolute": rows.abs().mean(0), "squared": rows.square().mean(0).sqrt()}
        value = before[name] if dormant else weight.detach()
        expected = (value * mean[accumulate]).abs() / loss
        torch.testing.assert_close(found.importance[name], expected, rtol=1e-9, atol=1e-14)
        dead = found.importance[name][~program.history.masks[name]]
        assert bool((dead > 0).any()) if dormant else bool((dead == 0).all())


@pytest.mark.parametrize("accumulate", ["signed", "absolute", "squared"])
def test_samples_of_a_batch_that_count_as_one(accumulate: Accumulate) -> None:
    """Of batches of three, two and one sample pairs go together; each counts as often as it has samples."""
    program = prepared(Transformer(), torch.randn(2, 5, 4))
    batches = batches_like(torch.randn(1, 5, 4).double(), 3, 2, 1)
    found = elasticity(program, replace(sensitivity(batches, accumulate=accumulate), together=2))
    loss = float(mean_loss(program, batches).detach())
    for name, weight in pool_of(program).items():
        rows = gradients_of_samples(program.module, weight, batches)
        means = torch.stack([rows[pair].mean(0) for pair in ([0], [1, 2], [1, 2], [3, 4], [3, 4], [5])])
        mean = {"signed": rows.mean(0), "absolute": means.abs().mean(0), "squared": means.square().mean(0).sqrt()}
        expected = (weight.detach() * mean[accumulate]).abs() / loss
        torch.testing.assert_close(found.importance[name], expected, rtol=1e-9, atol=1e-14)


def test_a_model_that_takes_one_batch_size_only(caplog: pytest.LogCaptureFixture) -> None:
    """Its batches are taken whole, which is said once."""

    class Fixed(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = super().forward(x.view(32, 5))
            return out

    example = torch.randn(32, 5)
    with caplog.at_level(logging.WARNING, logger="graphprune"):
        compiled = graphprune.compile(Fixed(), example, sparsity=0.5, granularity="weight")
    assert compiled.report.achieved["weights"] == 0.5
    (message,) = caplog.messages
    assert message.startswith("gradients add up for 32 samples at a time, for fewer cannot be taken: data: the model")
    program = prepared(Fixed(), example)
    whole = sensitivity(batches_like(example.double(), 32), accumulate="absolute")
    found, expected = elasticity(program, replace(whole, together=16)), elasticity(program, replace(whole, together=32))
    assert all(torch.equal(found.importance[name], of_one) for name, of_one in expected.importance.items())


def test_many_samples_add_up_in_half_precision() -> None:
    """Sums of a thousand terms in bfloat16, which has 8 bits, would stop growing after about 256."""
    program = prepared(Mlp(), torch.randn(2, 5))
    program.module.bfloat16()
    ((inputs, target),) = batches_like(torch.randn(1, 5).bfloat16(), 1)
    one = elasticity(program, sensitivity([(inputs, target)], accumulate="absolute"))
    many = elasticity(program, sensitivity([(inputs, target)] * 1000, samples=1000, accumulate="absolute"))
    for name, expected in one.importance.items():
        torch.testing.assert_close(many.importance[name], expected, rtol=1e-4, atol=0)


def test_a_loss_of_zero_is_refused() -> None:
    program = prepared(Mlp(), torch.randn(2, 5))
    with pytest.raises(LossError, match="the mean loss of the sensitivity samples is 0"):
        elasticity(program, sensitivity(batches_like(torch.randn(1, 5).double(), 2), loss=lambda out, _: 0 * out.sum()))


def test_force_is_elasticity() -> None:
    assert WEIGHT_CRITERIA["force"] is elasticity
