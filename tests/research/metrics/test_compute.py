"""Multiply-accumulates, counted by hand and against the cost model of a program."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import graphprune
from graphprune.costs.model import costs_of
from graphprune.errors import OptionError
from graphprune.research.metrics import forward_macs, training_cost
from graphprune.research.networks import build
from tests.small_models import Chain, Residual, Transformer, analysed, images


def test_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.Flatten(),
        nn.Linear(8 * 4, 5),
    )  # fmt: skip
    # 8x8 -> 4x4 -> 2x2
    expected = 16 * 4 * 2 * 9 + 4 * 8 * 2 * 9 + 32 * 5
    for batch in (1, 3):
        macs = forward_macs(model, torch.randn(batch, 2, 8, 8))
        assert (macs.executed, macs.nonzero) == (expected, expected)
    with torch.no_grad():
        model.get_parameter("1.weight")[:3] = 0
        model.get_parameter("4.weight")[:, :7] = 0
    macs = forward_macs(model.train(), torch.randn(2, 2, 8, 8))
    assert (macs.executed, macs.nonzero) == (expected, 16 * 4 * 2 * 9 + 4 * 5 * 2 * 9 + 25 * 5)
    assert model.training and all(module.training for module in model)


def test_products_with_zeros_are_those_that_a_loop_finds() -> None:
    """Each output of a convolution, product by product, in the middle of an image, where no padding is."""
    layer = nn.Conv2d(3, 4, 3, bias=False)
    with torch.no_grad():
        layer.weight *= torch.rand_like(layer.weight) > 0.6
    products = sum(1 for _ in range(5 * 5) for row in layer.weight for value in row.flatten().tolist() if value != 0)
    assert forward_macs(layer, torch.randn(1, 3, 7, 7)).nonzero == products


def test_masks_of_torch_prune_count() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    prune.random_unstructured(model[0], "weight", 16)
    macs = forward_macs(model, torch.randn(2, 8))
    assert (macs.executed, macs.nonzero) == (80, 64)


@pytest.mark.parametrize("network", [Chain, Residual, Transformer])
def test_the_cost_model_agrees(network: Callable[[], nn.Module]) -> None:
    model, example = network(), torch.randn(2, 5, 4) if network is Transformer else images()
    program, _ = analysed(model, example)
    expected = costs_of(program).before()["macs"]
    assert forward_macs(model, example).executed == expected
    assert forward_macs(program.module, example).executed == expected


def test_a_smaller_network_costs_less() -> None:
    dense = build("lenet5", (1, 28, 28), 10)
    before = copy.deepcopy(dense.state_dict())
    compiled = graphprune.compile(dense, torch.randn(2, 1, 28, 28), sparsity=0.5)
    assert forward_macs(compiled.module, torch.randn(1, 1, 28, 28)).executed == compiled.report.costs["macs"][1]
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())


def test_encoder_layers_are_counted_without_their_fused_kernel() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    tokens = 5
    expected = tokens * (3 * 64 + 64 + 2 * 8 * 16) + 2 * (tokens * tokens * 8)
    assert forward_macs(layer, torch.randn(3, tokens, 8)).executed == expected


def test_training_cost() -> None:
    cost = training_cost([100, 50, 10], 7)
    assert cost.epochs == (2100, 1050, 210) and cost.macs == 3360
    assert training_cost([100, 50], [7, 3]).macs == 3 * (700 + 150)
    assert cost.to_dict()["assumption"].startswith("3 x the forward")
    with pytest.raises(OptionError, match="each of 3 epochs, got 2"):
        training_cost([1, 2, 3], [1, 2])
