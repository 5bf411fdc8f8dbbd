"""Sparsity by weights and by nodes, of networks with zeros and of smaller ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import graphprune
from graphprune.errors import InputError, OptionError
from graphprune.research.metrics import harmonic_mean, node_sparsity, nodes_left, weight_sparsity, weights_left
from tests.small_models import Chain, images


def layers(width: int = 4, hidden: int = 6) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 16, hidden),
        nn.Linear(hidden, 3),
    )  # fmt: skip


def test_zeros_and_missing_weights_count_alike() -> None:
    dense = layers()
    zeros = copy.deepcopy(dense)
    with torch.no_grad():
        zeros.get_parameter("0.weight")[:2] = 0
        zeros.get_parameter("4.weight")[:, :32] = 0
    smaller = layers(width=2)
    # 4*2*9 + 64*6 + 6*3 = 474, of which half of the first two went
    for model in (zeros, smaller):
        assert weight_sparsity(model, dense) == pytest.approx(1 - (36 + 192 + 18) / 474)
        assert node_sparsity(model, dense) == pytest.approx(2 / 10)
    assert weight_sparsity(dense, dense) == node_sparsity(dense, dense) == 0
    assert [layer.left for layer in weights_left(smaller, dense)] == [36, 192, 18]
    assert [layer.name for layer in nodes_left(smaller, dense)] == ["0", "4"]


def test_a_layer_that_is_gone_and_outputs_that_are_named() -> None:
    dense = layers()
    model = copy.deepcopy(dense)
    model[4] = nn.Identity()
    assert weight_sparsity(model, dense) == pytest.approx(384 / 474)
    assert node_sparsity(model, dense) == pytest.approx(6 / 10)
    assert [layer.name for layer in nodes_left(dense, dense, ["0", "5"])] == ["4"]
    with pytest.raises(OptionError, match="no layer is called 1"):
        nodes_left(dense, dense, ["1"])


def test_transposed_and_grouped_convolutions() -> None:
    dense = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(8, 6, 3, groups=2), nn.Conv2d(6, 2, 1))
    model = copy.deepcopy(dense)
    with torch.no_grad():
        model.get_parameter("0.weight")[0] = 0
        model.get_parameter("1.weight")[:, 0] = 0
    assert [layer.before for layer in weights_left(model, dense)] == [8 * 2 * 9, 8 * 3 * 9, 12]
    assert [(layer.before, layer.left) for layer in nodes_left(model, dense)] == [(8, 7), (6, 4)]


def test_masked_and_tied_weights() -> None:
    dense = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    dense[1].weight = dense[0].weight
    assert [layer.name for layer in weights_left(dense, dense)] == ["0", "2"]
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    prune.random_unstructured(model[0], "weight", 16)

    class Zero(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(weight)

    parametrize.register_parametrization(model[2], "weight", Zero())
    assert [layer.left for layer in weights_left(model, dense)] == [48, 0]


def test_a_compiled_network_agrees_with_its_plan() -> None:
    dense = Chain()
    compiled = graphprune.compile(dense, images(), sparsity=0.5)
    expected = sum(p.numel() for name, p in compiled.module.named_parameters() if name in ("conv.weight", "fc.weight"))
    assert weight_sparsity(compiled.module, dense) == pytest.approx(1 - expected / (6 * 2 * 9 + 6 * 3))
    assert node_sparsity(compiled.module, dense) == 0.5


def test_other_networks_are_refused() -> None:
    dense = layers()
    with pytest.raises(InputError, match=r"0: expected at most \(4, 2, 3, 3\), got \(5, 2, 3, 3\)"):
        weight_sparsity(layers(width=5), dense)
    with pytest.raises(InputError, match="it has none of the layers 0, 4, 5"):
        weight_sparsity(nn.Module(), dense)
    with pytest.raises(InputError, match="has no convolution or linear layer"):
        weight_sparsity(dense, nn.ReLU())


def test_harmonic_mean() -> None:
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.98, 0.97) == pytest.approx(1 / ((1 / 0.98 + 1 / 0.97) / 2))
    assert harmonic_mean(0, 0) == 0
    with pytest.raises(OptionError, match=r"shares in \[0, 1\]"):
        harmonic_mean(98, 0.9)
