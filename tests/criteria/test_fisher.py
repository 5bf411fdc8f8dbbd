"""The Fisher information of channels: the closed form of each sample's gradient in a gate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphprune.criteria import CRITERIA
from graphprune.criteria.criterion import scores_of
from graphprune.criteria.losses import cross_entropy
from graphprune.criteria.per_cost import savings_of
from graphprune.labels.dependencies import Dependencies
from graphprune.program.program import Program
from tests.scoring import batches_like, prepared, sensitivity
from tests.small_models import Mlp, Residual, group_of, images


def gradient_in_gates(program: Program, inputs: Tensor, target: Tensor, layers: tuple[str, ...]) -> Tensor:
    """Sum of p dL/dp over the parameters of the layers whose outputs the channels are."""
    loss = cross_entropy(program.module(inputs), target)
    total = torch.zeros((), dtype=torch.float64)
    for name in layers:
        for kind in ("weight", "bias"):
            parameter = program.module.get_parameter(f"{name}.{kind}")
            product = parameter * torch.autograd.grad(loss, parameter, retain_graph=True)[0]
            total = total + (product.flatten(1).sum(1) if product.dim() > 1 else product)
    return total.detach()


@pytest.mark.parametrize(
    ("factory", "shape", "member", "layers"),
    [
        (Mlp, (5,), "fc1.weight", ("fc1",)),
        (Residual, (2, 6, 6), "stem.weight", ("stem_norm", "norm2")),
        (Residual, (2, 6, 6), "conv1.weight", ("norm1",)),
    ],
)
def test_the_mean_of_the_squares_of_each_samples_gradient(
    factory: Callable[[], nn.Module], shape: tuple[int, ...], member: str, layers: tuple[str, ...]
) -> None:
    example = torch.randn(2, *shape)
    program = prepared(factory(), example)
    batches = batches_like(example.double(), 3, 2)
    scores = scores_of(CRITERIA["fisher"], program, sensitivity(batches, accumulate="absolute"))
    group = group_of(program[Dependencies], member)
    samples = [(inputs[n : n + 1], target[n : n + 1]) for inputs, target in batches for n in range(len(inputs))]
    squares = [gradient_in_gates(program, *sample, layers).square() for sample in samples]
    expected = torch.stack(squares).mean(0)
    torch.testing.assert_close(scores.importance[group.start : group.stop], expected, rtol=1e-8, atol=1e-18)
    assert (scores.criterion, scores.samples, scores.is_squared) == ("fisher", 5, True)


def test_the_price_is_what_a_channel_saves() -> None:
    program = prepared(Residual(), images())
    options = sensitivity(batches_like(images().double(), 3))
    plain, priced = (scores_of(CRITERIA[name], program, options) for name in ("fisher", "fisher-per-mac"))
    assert priced.criterion == "fisher-per-mac"
    for group, saved in zip(program[Dependencies].groups, savings_of(program, "macs"), strict=True):
        channels = slice(group.start, group.stop)
        torch.testing.assert_close(priced.importance[channels] * saved, plain.importance[channels])
