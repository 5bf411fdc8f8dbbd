"""Sorted elasticities, against gradients by finite differences."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.criteria.losses import cross_entropy
from graphprune.criteria.samples import SampleStream
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.errors import OptionError
from graphprune.program.example import Example
from graphprune.research.analyses import Curve, curves_of, elasticity_curves
from tests.small_models import Mlp, analysed


def data() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(16, 5).double(), torch.randint(3, (16,)))]


def differences(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """|w dL/dw| / L of every weight, by central differences in double precision; they err by the step squared."""
    step, found = 1e-4, []
    with torch.no_grad():
        loss = functional.cross_entropy(model(inputs), targets)
        for parameter in model.parameters():
            if parameter.dim() < 2:
                continue
            flat = parameter.view(-1)
            for index in range(len(flat)):
                value = flat[index].item()
                sides = []
                for factor in (1 + step, 1 - step):
                    flat[index] = value * factor
                    sides.append(functional.cross_entropy(model(inputs), targets))
                flat[index] = value
                found.append((sides[0] - sides[1]).abs() / (2 * step) / loss)
    return torch.stack(found)


def test_every_weight_and_channel_in_order() -> None:
    model, batches = Mlp(activation=torch.tanh).double(), data()
    curves = elasticity_curves(model, batches[0][0], batches, samples=16)
    expected = differences(model, *batches[0]).sort(descending=True).values
    assert (curves.weights.count, curves.channels.count, curves.samples) == (5 * 8 + 8 * 6 + 6 * 3, 14, 16)
    assert curves.weights.ranks == tuple(range(1, 107))
    torch.testing.assert_close(torch.tensor(curves.weights.values).double(), expected, rtol=1e-4, atol=1e-7)
    assert list(curves.channels.values) == sorted(curves.channels.values, reverse=True)
    assert curves.loss == pytest.approx(functional.cross_entropy(model(batches[0][0]), batches[0][1]).item())
    assert json.loads(json.dumps(curves.to_dict()))["channels"]["count"] == 14


def test_dead_weights_are_left_out() -> None:
    program, _ = analysed(Mlp(), torch.randn(2, 5))
    masks = {"fc2.weight": torch.arange(48).reshape(6, 8) % 2 == 0}
    batches = [(torch.randn(8, 5), torch.randint(3, (8,)))]
    stream = SampleStream(batches, Example.of(batches[0][0]))
    found = curves_of(program.masked(masks), Sensitivity(stream, cross_entropy, 8, "signed", 0))
    assert found.weights.count == 40 + 24 + 18


def test_a_long_curve_is_told_in_few_points() -> None:
    values = torch.cat([torch.arange(1.0, 100001), torch.zeros(5)])
    curve = Curve.of(values[torch.randperm(len(values))], points=50)
    assert len(curve.ranks) <= 50 and curve.ranks[0] == 1 and curve.ranks[-1] == curve.count == 100005
    assert curve.zeros == 5
    for rank, value in zip(curve.ranks, curve.values, strict=True):
        assert value == max(100001 - rank, 0)
    assert Curve.of(torch.empty(0)) == Curve((), (), 0, 0)
    assert Curve.of(torch.tensor([2.0])) == Curve((1,), (2.0,), 1, 0)
    with pytest.raises(OptionError, match="points must be 2 or more"):
        Curve.of(values, points=1)
