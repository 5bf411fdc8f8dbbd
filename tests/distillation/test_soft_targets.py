"""Distances of outputs: closed forms, gradients of logits, and outputs that cannot be compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from graphprune.distillation.soft_targets import divergence
from graphprune.errors import LossError


def logits(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 4, 4)])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_divergence_of_softened_predictions(shape: tuple[int, ...], temperature: float) -> None:
    found, wanted = logits(*shape, seed=0), logits(*shape, seed=1)
    p, q = (each.movedim(1, -1).div(temperature).softmax(-1).flatten(0, -2) for each in (wanted, found))
    expected = (p * (p.log() - q.log())).sum(1).mean() * temperature**2
    torch.testing.assert_close(divergence(found, wanted, temperature), expected)
    torch.testing.assert_close(divergence(found, found, temperature), torch.zeros((), dtype=torch.float64))


def test_at_a_high_temperature_the_gradient_is_that_of_squared_logits() -> None:
    """Hinton et al. 2015, formula 4: (z - v) / N for logits with a mean of zero, here per sample."""
    found, wanted = (each - each.mean(1, keepdim=True) for each in (logits(5, 4, seed=0), logits(5, 4, seed=1)))
    found.requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(found, wanted, 1e6), found)
    torch.testing.assert_close(gradient, (found - wanted).detach() / 4 / 5, rtol=1e-4, atol=1e-6)


def test_outputs_themselves_as_a_share_of_their_mean_square() -> None:
    found, wanted = logits(4, 3, seed=0), logits(4, 3, seed=1)
    expected = functional.mse_loss(found, wanted) / wanted.square().mean()
    torch.testing.assert_close(divergence(found, wanted, None), expected)
    torch.testing.assert_close(divergence(found * 7, wanted * 7, None), expected)


def test_several_outputs_count_alike() -> None:
    a, b, c, d = (logits(4, 3, seed=seed) for seed in range(4))
    both = divergence({"first": a, "rest": (b, torch.ones(2, dtype=torch.long))}, {"first": c, "rest": (d, 1)}, 3.0)
    torch.testing.assert_close(both, (divergence(a, c, 3.0) + divergence(b, d, 3.0)) / 2)


@pytest.mark.parametrize(
    ("found", "wanted", "temperature", "message"),
    [
        (torch.ones(4), torch.ones(4), 3.0, r"shape \(4,\); a temperature is for logits .* temperature=None compares"),
        (torch.ones(4, 1), torch.ones(4, 1), 3.0, "a temperature is for logits"),
        (torch.ones(4, 2), torch.ones(4, 3), 3.0, r"the shapes \(4, 2\) and \(4, 3\)"),
        (
            torch.ones(4, dtype=torch.long),
            torch.ones(4, dtype=torch.long),
            None,
            "hold 0 and 0 tensors of real numbers",
        ),
        ((torch.ones(4, 2),), (torch.ones(4, 2), torch.ones(4, 2)), 3.0, "hold 1 and 2 tensors of real numbers"),
    ],
)
def test_what_cannot_be_compared(found: Any, wanted: Any, temperature: float | None, message: str) -> None:
    with pytest.raises(LossError, match=message):
        divergence(found, wanted, temperature)
