"""SynFlow by products of matrices, and that flow is conserved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.costs.pool import pool_of
from graphprune.criteria.weights import WEIGHT_CRITERIA
from graphprune.errors import InputError, LossError
from graphprune.program.program import Program
from tests.scoring import prepared, sensitivity, with_dead_weights
from tests.small_models import CLASSES, Chain, Inverted, Mlp, Residual, analysed, images

synflow = WEIGHT_CRITERIA["synflow"]
NO_DATA = sensitivity(None)


def sums(program: Program) -> dict[str, float]:
    return {name: float(scores.sum()) for name, scores in synflow(program, NO_DATA).importance.items()}


@pytest.mark.parametrize("dormant", [None, False, True])
def test_products_of_absolute_weights(dormant: bool | None) -> None:
    """Flow into the input of a weight, times the weight, times what its output passes on; biases take no part."""
    program = prepared(Mlp(), torch.randn(2, 5))
    full = {name: weight.detach().abs() for name, weight in pool_of(program).items()}
    if dormant is not None:
        program = with_dead_weights(program, dormant=dormant)
    first, second, head = (weight.detach().abs() for weight in pool_of(program).values())
    into = [torch.ones(5).double(), first @ torch.ones(5).double()]
    into.append(second @ into[1])
    onward = [torch.ones(CLASSES).double() @ head @ second, torch.ones(CLASSES).double() @ head,
              torch.ones(CLASSES).double()]  # fmt: skip
    found = synflow(program, NO_DATA).importance
    for (name, weight), source, target in zip(pool_of(program).items(), into, onward, strict=True):
        value = full[name] if dormant else weight.detach().abs()
        torch.testing.assert_close(found[name], target[:, None] * value * source, rtol=1e-12, atol=0)


def scaled(program: Program, norm: str) -> Tensor:
    """Positive factors of a batch norm in evaluation mode."""
    layer = program.module.get_submodule(norm)
    assert isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None
    return layer.weight.detach().abs() / (layer.running_var + layer.eps).sqrt()


def test_a_convolution_with_a_batch_norm() -> None:
    program = prepared(Chain(), images())
    conv, fc = (program.module.get_parameter(name).detach().abs() for name in ("conv.weight", "fc.weight"))
    factor = scaled(program, "norm")
    through = functional.conv2d(torch.ones(1, 2, 6, 6).double(), conv, padding=1).mean((0, 2, 3)) * factor
    found = synflow(program, NO_DATA).importance
    torch.testing.assert_close(found["fc.weight"], fc * through, rtol=1e-12, atol=0)
    torch.testing.assert_close(found["conv.weight"].sum((1, 2, 3)), fc.sum(0) * through, rtol=1e-12, atol=0)


def test_flow_is_conserved_in_layers_that_all_paths_go_through() -> None:
    total = sums(prepared(Mlp((8, 6)), torch.randn(2, 5)))
    assert len({round(value, 9) for value in total.values()}) == 1
    total = sums(prepared(Residual(), images()))
    assert total["stem.weight"] == pytest.approx(total["fc.weight"], rel=1e-12)
    assert total["conv1.weight"] == pytest.approx(total["conv2.weight"], rel=1e-12)
    # what does not go through the branch goes by it; what comes out of both goes through one of the two after it
    assert total["conv1.weight"] < total["stem.weight"]
    assert total["conv3.weight"] + total["short.weight"] == pytest.approx(total["fc.weight"], rel=1e-12)


class Bounded(nn.Module):
    """ReLU6 as a layer and as a function, hard tanh, depthwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.mix, self.bound, self.fc = nn.Conv2d(8, 8, 1), nn.ReLU6(), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.depth(self.bound(self.stem(100 * x))))
        out: Tensor = self.fc(functional.hardtanh(self.mix(x), -2.0, 2.0).mean((2, 3)))
        return out


def test_bounds_do_not_stop_the_flow() -> None:
    program = prepared(Bounded(), images())
    total = sums(program)
    assert total["stem.weight"] > 100
    assert max(total.values()) == pytest.approx(min(total.values()), rel=1e-12)
    assert isinstance(program.module.get_submodule("bound"), nn.ReLU6)


def test_layers_that_do_not_conserve_have_scores_all_the_same() -> None:
    found = synflow(prepared(Inverted(), images()), NO_DATA).importance
    assert float(found["depth.weight"].min()) > 0
    assert all(bool((scores >= 0).all()) for scores in found.values())


def test_deep_networks_do_not_overflow() -> None:
    """R is about 51^60 = 1e102; float32 ends at 1e38."""
    layers = [layer for _ in range(60) for layer in (nn.Linear(64, 64), nn.ReLU())]
    for layer in layers[::2]:
        assert isinstance(layer, nn.Linear)
        nn.init.normal_(layer.weight)
    program, _ = analysed(nn.Sequential(*layers, nn.Linear(64, CLASSES)), torch.randn(2, 64))
    total = sums(program)
    assert min(total.values()) > 1e60
    assert max(total.values()) == pytest.approx(min(total.values()), rel=1e-9)


def test_it_depends_neither_on_data_nor_on_signs_biases_and_running_means() -> None:
    program = prepared(Residual(), images())
    expected = synflow(program, NO_DATA).importance
    with torch.no_grad():
        for name, tensor in program.module.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                tensor.add_(3.0)
            elif name.endswith("weight"):
                tensor.neg_()
    found = synflow(program, NO_DATA)
    assert found.loss is None
    assert found.samples == 0
    for name, scores in found.importance.items():
        torch.testing.assert_close(scores, expected[name], rtol=0, atol=0)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.embed(x).mean(1))
        return out


def test_tokens_stay_those_of_the_example() -> None:
    example = torch.randint(7, (2, 5))
    program, _ = analysed(Tokens().double(), example)
    into = program.module.get_parameter("embed.weight").detach().abs()[example].mean((0, 1))
    expected = program.module.get_parameter("head.weight").detach().abs() * into
    torch.testing.assert_close(synflow(program, NO_DATA).importance["head.weight"], expected, rtol=1e-12, atol=0)


class Single(nn.Module):
    """Wants single precision half way."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.body(x)).float())
        return out


def test_models_that_cannot_run_in_double_precision() -> None:
    program, _ = analysed(Single(), torch.randn(2, 5))
    with pytest.raises(InputError, match="synflow: the model cannot be run on inputs of ones in float64"):
        synflow(program, NO_DATA)


class Choice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x).argmax(1)
        return out


def test_outputs_without_gradient() -> None:
    program, _ = analysed(Choice(), torch.randn(2, 5))
    with pytest.raises(LossError, match="synflow: the model's output does not depend on its weights"):
        synflow(program, NO_DATA)


def test_weights_that_are_not_finite() -> None:
    program = prepared(Mlp(), torch.randn(2, 5))
    with torch.no_grad():
        program.module.get_parameter("fc1.weight")[0, 0] = float("inf")
    with pytest.raises(LossError, match="is not finite; check weights"):
        synflow(program, NO_DATA)
