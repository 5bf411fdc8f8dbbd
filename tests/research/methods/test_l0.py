"""Hard-concrete gates: their distribution, their penalty, and the smaller network that they end in."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import OptionError
from graphprune.research.methods import L0
from graphprune.research.methods.channels import analysed, of_channels, remove_under
from graphprune.research.methods.gated_layers import GatedLayer, Place, fold_gates, places_of, put_gates
from graphprune.research.methods.hard_concrete import (
    BETA,
    GAMMA,
    LOG_ALPHA_RANGE,
    ZETA,
    HardConcrete,
    deterministic,
    probability_open,
    stretched,
)
from graphprune.research.methods.l0 import expected_weights
from graphprune.research.networks import build
from graphprune.research.training import Recipe, Trainer
from tests.research.methods.small import TwoBlocks, few_digits, lenet, with_statistics
from tests.small_models import Mlp

LOCATIONS = [-3.0, -1.0, 0.0, 0.7, 2.5]


def distribution_function(value: float, log_alpha: float) -> float:
    """P(stretched, not clipped <= value), from the definition: binary concrete, then a linear map."""
    x = (value - GAMMA) / (ZETA - GAMMA)
    # Binary concrete: P(s <= x) = sigmoid((log x - log(1 - x)) * beta - log alpha); Louizos et al., appendix.
    return 1 / (1 + math.exp(-((math.log(x) - math.log(1 - x)) * BETA - log_alpha)))


def test_constants_are_the_paper_s() -> None:
    assert (GAMMA, ZETA, BETA) == (-0.1, 1.1, 2 / 3)
    assert L0() == L0(drop_rate=0.5)


@pytest.mark.parametrize("log_alpha", LOCATIONS)
def test_draws_have_the_distribution(log_alpha: float) -> None:
    samples = 200_000
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(samples, generator=generator, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    draws = stretched(torch.tensor(log_alpha, dtype=torch.float64), uniform)
    # Five standard deviations of a share among so many draws, at most 0.5 / sqrt(n) each.
    tolerance = 5 * 0.5 / math.sqrt(samples)
    for value in (0.0, 0.1, 0.5, 0.9):
        assert float((draws <= value).double().mean()) == pytest.approx(
            distribution_function(value, log_alpha), abs=tolerance
        )
    assert float((draws < 1).double().mean()) == pytest.approx(distribution_function(1.0, log_alpha), abs=tolerance)
    opened = probability_open(torch.tensor(log_alpha, dtype=torch.float64))
    assert float((draws > 0).double().mean()) == pytest.approx(float(opened), abs=tolerance)


@pytest.mark.parametrize("log_alpha", LOCATIONS)
def test_probability_open_is_what_the_definition_gives(log_alpha: float) -> None:
    found = float(probability_open(torch.tensor(log_alpha, dtype=torch.float64)))
    assert found == pytest.approx(1 - distribution_function(0.0, log_alpha), rel=1e-12)


@pytest.mark.parametrize("log_alpha", LOCATIONS)
def test_the_gate_at_evaluation(log_alpha: float) -> None:
    expected = min(1.0, max(0.0, 1.2 / (1 + math.exp(-log_alpha)) - 0.1))
    assert float(deterministic(torch.tensor(log_alpha, dtype=torch.float64))) == pytest.approx(expected, abs=1e-12)


def test_gradients_against_finite_differences() -> None:
    log_alpha = torch.tensor(LOCATIONS, dtype=torch.float64, requires_grad=True)
    # Drawn where no gate is at a clip, which has a kink.
    uniform = torch.full((len(LOCATIONS),), 0.5, dtype=torch.float64)
    inside = torch.tensor([-0.9, -0.5, 0.0, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(probability_open, (log_alpha,))
    assert torch.autograd.gradcheck(lambda location: stretched(location, uniform), (inside,))
    assert torch.autograd.gradcheck(deterministic, (inside,))


def test_gates_are_drawn_in_training_and_fixed_in_evaluation() -> None:
    gate = HardConcrete(50, 0.5, torch.Generator().manual_seed(0))
    assert not torch.equal(gate(), gate())
    gate.eval()
    assert torch.equal(gate(), gate()) and torch.equal(gate(), deterministic(gate.log_alpha))


@pytest.mark.parametrize(("drop_rate", "middle"), [(0.5, 0.0), (0.2, math.log(4.0))])
def test_where_gates_start(drop_rate: float, middle: float) -> None:
    gate = HardConcrete(10_000, drop_rate, torch.Generator().manual_seed(0))
    # Five standard errors of a mean of ten thousand numbers with deviation 0.01.
    assert float(gate.log_alpha.detach().mean()) == pytest.approx(middle, abs=5e-4)
    assert float(gate.log_alpha.detach().std()) == pytest.approx(0.01, rel=0.05)


def test_gates_stay_in_range() -> None:
    gate = HardConcrete(3, 0.5, torch.Generator().manual_seed(0))
    with torch.no_grad():
        gate.log_alpha.copy_(torch.tensor([-9.0, 0.5, 9.0]))
    gate.keep_in_range()
    # float32
    assert gate.log_alpha.tolist() == pytest.approx([math.log(0.01), 0.5, math.log(100)], rel=1e-6)
    # and a gate at its lower end is closed, one at its upper end fully open
    assert deterministic(torch.tensor(LOG_ALPHA_RANGE)).tolist() == [0.0, 1.0]


def test_gates_are_behind_normalisation_and_not_on_the_output() -> None:
    example = few_digits().train.inputs[:2]
    assert places_of(analysed(lenet(), example)) == [
        Place("features.norm1", 25, 6),
        Place("features.norm2", 6 * 25, 16),
        Place("features.norm3", 16 * 25, 120),
        Place("classifier.norm1", 9 * 120, 84),
    ]
    assert [place.path for place in places_of(analysed(TwoBlocks(), example))] == [
        "norm", "block1.norm1", "block1.norm2", "block2.norm1", "block2.norm2", "block2.shortcut.norm",
    ]  # fmt: skip
    assert places_of(analysed(Mlp(), torch.randn(2, 5))) == [Place("fc1", 5, 8), Place("fc2", 8, 6)]


@pytest.mark.parametrize(("name", "count"), [("conv6", 8), ("alexnet", 7), ("vgg16", 15), ("resnet18", 21)])
def test_each_network_of_the_paper_has_a_gate_for_all_layers_but_the_last(name: str, count: int) -> None:
    # vgg16 and resnet18 have activations in place; resnet18 has a stem, 16 convolutions, 3 shortcuts, one hidden layer.
    with torch.device("meta"):
        shapes = build(name, (3, 32, 32), 10)
    norms = [path for path, layer in shapes.named_modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))]
    places = places_of(analysed(build(name, (3, 32, 32), 10), torch.randn(2, 3, 32, 32)))
    assert sorted(place.path for place in places) == sorted(norms) and len(norms) == count
    channels = {place.path: place.channels for place in places}
    assert all(channels[path] == shapes.get_parameter(f"{path}.weight").numel() for path in norms)


def test_a_network_that_cannot_be_gated_says_where() -> None:
    with pytest.raises(OptionError, match=r"nodes at %sigmoid"):
        places_of(analysed(Mlp(activation=torch.sigmoid), torch.randn(2, 5)))


def test_the_penalty_is_the_expected_number_of_open_weights() -> None:
    model, example = lenet(), few_digits().train.inputs[:2]
    gated = put_gates(model, places_of(analysed(model, example)), 0.5, seed=0)
    total = 0.0
    for layer, weights in (
        ("features.conv1", 25),
        ("features.conv2", 150),
        ("features.conv3", 400),
        ("classifier.fc1", 1080),
    ):
        path = layer.replace("conv", "norm").replace("fc", "norm")
        for location in gated[path].gate.log_alpha.tolist():
            total += weights * (1 - distribution_function(0.0, location))
    # A sum of 226 terms in float32.
    assert float(expected_weights(gated).detach()) == pytest.approx(total, rel=1e-5)


def close(gated: dict[str, GatedLayer], closed: dict[str, list[int]]) -> None:
    """Closes some gates, and gives the others values all over (0, 1]."""
    for path, layer in gated.items():
        with torch.no_grad():
            layer.gate.log_alpha.copy_(torch.linspace(-2, 3, len(layer.gate.log_alpha)))
            layer.gate.log_alpha[closed.get(path, [])] = -4.0


def folded(model: nn.Module, example: Tensor, closed: dict[str, list[int]]) -> tuple[Tensor, dict[str, Tensor]]:
    """Output with gates, and the gates after they were folded."""
    gated = put_gates(model, places_of(analysed(model, example)), 0.5, seed=0)
    close(gated, closed)
    with torch.no_grad():
        return model(example), fold_gates(model, gated)


@pytest.mark.parametrize("model", [with_statistics(lenet()), with_statistics(TwoBlocks())])
def test_folding_leaves_the_function_and_the_names_as_they_were(model: nn.Module) -> None:
    model, example = copy.deepcopy(model).double().eval(), few_digits().train.inputs[:4].double()
    names, before = list(model.state_dict()), model(example).detach()
    with_gates, gates = folded(model, example, {"features.norm2": [3, 4], "block1.norm1": [0]})
    assert list(model.state_dict()) == names
    assert not torch.allclose(with_gates, before)
    # float64 roundings of a product in another order.
    assert torch.allclose(model(example).detach(), with_gates, rtol=1e-10, atol=1e-12)
    assert all(float(of_layer.min()) >= 0 and float(of_layer.max()) <= 1 for of_layer in gates.values())


def test_folding_into_layers_without_normalisation() -> None:
    model, example = Mlp().double().eval(), torch.randn(6, 5, dtype=torch.float64)
    with_gates, _ = folded(model, example, {"fc1": [2]})
    assert torch.allclose(model(example), with_gates, rtol=1e-10, atol=1e-12)


def test_closed_gates_remove_their_nodes_and_nothing_else_changes() -> None:
    model, example = with_statistics(TwoBlocks()).eval(), few_digits().train.inputs[:8]
    trainer = Trainer(model, few_digits().train, Recipe(1), seed=0)
    # Node 1 of the stream is closed where the stem makes it and where the block adds to it, node 2 in one of them only.
    closed = {
        "norm": [1, 2],
        "block1.norm2": [1],
        "block1.norm1": [0, 5],
        "block2.norm2": [4],
        "block2.shortcut.norm": [4],
    }
    with_gates, gates = folded(model, example, closed)
    program = analysed(model, example)
    values = {(f"{path}.weight", 0): of_layer for path, of_layer in gates.items()}
    scores = of_channels(program, values, "amax", missing=1.0)
    pruner = remove_under(trainer, few_digits(), program, scores, 0.0)
    assert pruner is not None
    kept = pruner.finish().plan.kept
    assert kept["stem.weight", 0].tolist() == [0, 2, 3, 4, 5]
    assert kept["block1.conv1.weight", 0].tolist() == [1, 2, 3, 4]
    assert kept["block2.conv2.weight", 0].tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert pruner.rounds[-1].removed == 4
    with torch.no_grad():
        # float32 sums over fewer terms: the same numbers but for rounding.
        assert torch.allclose(trainer.model.eval()(example), with_gates, rtol=1e-4, atol=1e-5)
    pruner.finish().verify()


def test_a_run_that_ends_in_a_smaller_network() -> None:
    # A learning rate at which a few dozen steps close gates, and a penalty that outweighs the loss.
    fast = Recipe(3, batch_size=64, learning_rate=0.1)
    result = L0().train(lenet(), few_digits(), fast, 500.0, seed=0)
    assert len(result.epochs) == 6
    assert result.compiled is not None and result.node_sparsity > 0.1 and result.weight_sparsity > 0.1
    assert not any("gate" in name for name in result.module.state_dict())
    result.compiled.verify()


def test_a_run_without_a_penalty_removes_nothing_and_is_repeatable() -> None:
    one, other = (L0().train(lenet(), few_digits(), Recipe(1, batch_size=64), 0.0, seed=2) for _ in range(2))
    assert one.compiled is None and one.node_sparsity == 0.0
    assert [epoch.loss for epoch in one.epochs] == [epoch.loss for epoch in other.epochs]


@pytest.mark.parametrize("drop_rate", [0.0, 1.0, -0.5, math.nan])
def test_a_drop_rate_that_cannot_be(drop_rate: float) -> None:
    with pytest.raises(OptionError, match="drop_rate="):
        L0(drop_rate)
