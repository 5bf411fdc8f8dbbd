"""Taylor importance of channels: closed forms of the gradient in a gate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphprune.criteria import CRITERIA
from graphprune.criteria.criterion import scores_of
from graphprune.labels.dependencies import Dependencies
from graphprune.program.program import Program
from tests.scoring import Batches, batches_like, mean_loss, prepared, sensitivity
from tests.small_models import Dense, Inverted, Mlp, Residual, group_of, images


def squared_sum(program: Program, batches: Batches, parts: dict[str, slice]) -> Tensor:
    """(sum of p dL/dp over the scales and shifts, or the rows and biases, that make the channel)^2."""
    loss = mean_loss(program, batches)
    total = torch.zeros((), dtype=torch.float64)
    for name, part in parts.items():
        for kind in ("weight", "bias"):
            parameter = program.module.get_parameter(f"{name}.{kind}")
            product = parameter * torch.autograd.grad(loss, parameter, retain_graph=True)[0]
            total = total + product.flatten(1).sum(1)[part] if product.dim() > 1 else total + product[part]
    return total.detach().square()


@pytest.mark.parametrize(
    ("factory", "shape", "member", "parts"),
    [
        (Mlp, (5,), "fc1.weight", {"fc1": slice(None)}),
        (Mlp, (5,), "fc2.weight", {"fc2": slice(None)}),
        (Residual, (2, 6, 6), "stem.weight", {"stem_norm": slice(None), "norm2": slice(None)}),
        (Residual, (2, 6, 6), "conv1.weight", {"norm1": slice(None)}),
        (Inverted, (2, 6, 6), "expand.weight", {"depth_norm": slice(None)}),
        (Dense, (2, 6, 6), "conv1.weight", {"norm2": slice(4, 7), "norm3": slice(4, 7)}),
    ],
)
def test_closed_form(
    factory: Callable[[], nn.Module], shape: tuple[int, ...], member: str, parts: dict[str, slice]
) -> None:
    example = torch.randn(2, *shape)
    program = prepared(factory(), example)
    batches = batches_like(example.double(), 3, 2)
    scores = scores_of(CRITERIA["taylor"], program, sensitivity(batches, accumulate="absolute"))
    group = group_of(program[Dependencies], member)
    expected = squared_sum(program, batches, parts)
    torch.testing.assert_close(scores.importance[group.start : group.stop], expected, rtol=1e-8, atol=1e-18)
    assert (scores.criterion, scores.samples) == ("taylor", 5)
    assert scores.loss == pytest.approx(float(mean_loss(program, batches).detach()), rel=1e-12)


def test_a_loss_of_zero_has_importances() -> None:
    """Unlike elasticity it is not relative to the loss."""
    program = prepared(Residual(), images())
    batches = batches_like(images().double(), 3)
    offset = program.module(batches[0][0]).sum().detach()
    scores = scores_of(CRITERIA["taylor"], program, sensitivity(batches, loss=lambda out, _: out.sum() - offset))
    assert scores.loss == pytest.approx(0, abs=1e-12)
    assert float(scores.importance.max()) > 0
