"""The Hoyer-square of weights and of groups of weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.research.methods import GroupHoyerSquare, HoyerSquare
from graphprune.research.methods.channels import analysed
from graphprune.research.methods.group_hoyer_square import (
    group_hoyer_square,
    group_hoyer_square_of_layers,
    largest_weights,
)
from graphprune.research.methods.hoyer_square import hoyer_square, hoyer_square_of_layers
from graphprune.research.training import Recipe
from tests.research.methods.small import TwoBlocks, few_digits, lenet
from tests.small_models import group_of

SHAPES = [(4, 3), (4, 3, 2, 2), (1, 5), (3, 1, 3, 3)]


def by_loops(numbers: list[float]) -> float:
    total, squares = 0.0, 0.0
    for number in numbers:
        total += abs(number)
        squares += number * number
    return total * total / squares


def group_norms(weight: Tensor, dim: int) -> list[float]:
    norms = []
    for index in range(weight.shape[dim]):
        squares = 0.0
        for number in weight.select(dim, index).flatten().tolist():
            squares += number * number
        norms.append(math.sqrt(squares))
    return norms


@pytest.mark.parametrize("shape", SHAPES)
def test_formulas_against_loops(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, dtype=torch.float64)
    # Sums of a few dozen numbers in float64, in another order.
    assert float(hoyer_square(weight)) == pytest.approx(by_loops(weight.flatten().tolist()), rel=1e-12)
    expected = by_loops(group_norms(weight, 0)) + by_loops(group_norms(weight, 1))
    assert float(group_hoyer_square(weight)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("penalty", [hoyer_square, group_hoyer_square])
def test_gradients_against_finite_differences(penalty: object, shape: tuple[int, ...]) -> None:
    assert callable(penalty)
    # Away from 0, where absolute values have a kink.
    weight = torch.rand(shape, dtype=torch.float64) + 0.1
    weight = (weight * torch.randn(shape).sign()).requires_grad_()
    # gradcheck compares with central differences of 1e-6 in float64, to 1e-5.
    assert torch.autograd.gradcheck(penalty, (weight,))


def test_of_zeros_there_is_no_penalty_and_no_gradient() -> None:
    for penalty in (hoyer_square, group_hoyer_square):
        weight = torch.zeros(3, 4, requires_grad=True)
        value = penalty(weight)
        value.backward()
        assert float(value.detach()) == 0.0
        assert weight.grad is not None and not bool(weight.grad.any())


def test_scale_does_not_matter_and_the_range_is_one_to_the_count() -> None:
    weight = torch.randn(6, 5, dtype=torch.float64)
    assert float(hoyer_square(weight * 1e-3)) == pytest.approx(float(hoyer_square(weight)), rel=1e-12)
    assert float(hoyer_square(torch.full((6, 5), -0.2))) == pytest.approx(30, rel=1e-5)  # float32
    assert float(hoyer_square(torch.eye(1, 30))) == 1.0


def test_layers_add_up_without_biases_and_normalisation() -> None:
    model = lenet().double()
    weights = [layer.weight for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert len(weights) == 5
    total = sum(by_loops(weight.flatten().tolist()) for weight in weights)
    # 150,000 numbers in float64, in another order.
    assert float(hoyer_square_of_layers(model).detach()) == pytest.approx(total, rel=1e-9)
    of_groups = sum(by_loops(group_norms(weight.detach(), dim)) for weight in weights for dim in (0, 1))
    assert float(group_hoyer_square_of_layers(model).detach()) == pytest.approx(of_groups, rel=1e-9)


def test_small_weights_go_and_stay_away() -> None:
    result = HoyerSquare().train(lenet(), few_digits(), Recipe(8, batch_size=64), 1e-3, seed=0)
    assert result.masks is not None and len(result.epochs) == 8
    assert 0.05 < result.weight_sparsity < 1
    for name, mask in result.masks.items():
        assert bool((result.module.get_parameter(name)[~mask] == 0).all())


def test_more_penalty_leaves_fewer_weights() -> None:
    sparsities = [
        HoyerSquare().train(lenet(), few_digits(), Recipe(3, batch_size=64), weight, seed=0).weight_sparsity
        for weight in (0.0, 1e-3, 1e-2)
    ]
    assert sparsities == sorted(sparsities) and sparsities[0] < 0.1 < sparsities[-1]


def test_a_channel_is_as_large_as_the_smaller_of_what_makes_and_what_reads_it() -> None:
    model = TwoBlocks()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.uniform_(0.5, 1.0)
        # channel 1 of the residual stream: two layers make it (one with 0.02), three read it
        model.stem.weight[1] = 0.02
        model.block1.conv2.weight[1] = -0.03
        # channel 2: small in one of the two that make it only, small in all that read it
        model.stem.weight[2] = 0.001
        for conv, size in ((model.block1.conv1, 0.004), (model.block2.conv1, 0.005)):
            conv.weight[:, 2] = size
        model.block2.shortcut.get_parameter("conv.weight")[:, 2] = 0.006
    program = analysed(model, few_digits().train.inputs[:2])
    found = largest_weights(program)
    stream = group_of(program[Dependencies], "stem.weight")
    values = found[stream.start : stream.stop].tolist()
    # float32 numbers as they were written
    assert values[1] == pytest.approx(0.03, rel=1e-6) and values[2] == pytest.approx(0.006, rel=1e-6)
    assert all(value > 0.5 for place, value in enumerate(values) if place not in (1, 2))


def test_nodes_that_the_penalty_made_small_go() -> None:
    model = lenet()
    with torch.no_grad():
        model.get_parameter("features.conv2.weight")[[1, 5, 7]] *= 1e-7
        model.get_parameter("classifier.fc2.weight")[:, [0, 80]] *= 1e-7
    still = Recipe(1, batch_size=64, learning_rate=1e-12, weight_decay=0.0)
    result = GroupHoyerSquare().train(model, few_digits(), still, 0.0, seed=0)
    assert result.compiled is not None
    kept = result.compiled.plan.kept
    assert kept["features.conv2.weight", 0].tolist() == [i for i in range(16) if i not in (1, 5, 7)]
    assert kept["classifier.fc1.weight", 0].tolist() == [i for i in range(84) if i not in (0, 80)]
    assert result.node_sparsity == pytest.approx(5 / 226)
    result.compiled.verify()


def test_a_layer_that_is_small_as_a_whole_keeps_one_node() -> None:
    model = lenet()
    with torch.no_grad():
        model.get_parameter("features.conv1.weight").mul_(1e-7)
    still = Recipe(1, batch_size=64, learning_rate=1e-12, weight_decay=0.0)
    result = GroupHoyerSquare().train(model, few_digits(), still, 0.0, seed=0)
    assert result.module.get_parameter("features.conv1.weight").shape[0] == 1
    assert result.node_sparsity == pytest.approx(5 / 226)


def test_where_nothing_is_small_the_network_stays_and_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    result = GroupHoyerSquare().train(lenet(), few_digits(), Recipe(1, batch_size=64), 0.0, seed=0)
    assert (result.node_sparsity, result.weight_sparsity, result.compiled) == (0.0, 0.0, None)
    assert "none of 226 channels is under the threshold 0.001" in caplog.text


@pytest.mark.parametrize("target", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("method", [HoyerSquare(), GroupHoyerSquare()])
def test_a_penalty_that_cannot_be(method: HoyerSquare | GroupHoyerSquare, target: float) -> None:
    with pytest.raises(OptionError, match="expected lambda"):
        method.train(lenet(), few_digits(), Recipe(1), target, seed=0)
