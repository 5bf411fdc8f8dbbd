"""Evenly ranks within groups, by any criterion."""

from __future__ import annotations

import torch
from torch import nn

import graphprune
from graphprune.criteria import Evenly


def network() -> nn.Module:
    torch.manual_seed(0)
    first, second, head = nn.Linear(6, 8), nn.Linear(8, 20), nn.Linear(20, 3)
    with torch.no_grad():  # a global ranking would take all of the first layer
        for layer, scale in ((first, 1e-3), (second, 1e3)):
            layer.weight.copy_(scale * torch.arange(1, layer.out_features + 1)[:, None] * torch.ones_like(layer.weight))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), head)


def test_all_groups_lose_the_same_share_and_the_least_important_first() -> None:
    compiled = graphprune.compile(
        network(), torch.randn(4, 6), sparsity=0.5, schedule="one-shot",
        criterion=Evenly(lambda weights: next(iter(weights.values())).abs().sum(1)),
    )  # fmt: skip
    assert compiled.plan.kept["0.weight", 0].tolist() == list(range(4, 8))
    assert compiled.plan.kept["2.weight", 0].tolist() == list(range(10, 20))


def test_by_a_name() -> None:
    data = [(torch.randn(8, 6), torch.randint(3, (8,)))]
    compiled = graphprune.compile(
        network(), torch.randn(4, 6), sparsity=0.5, data=data, schedule="one-shot", criterion=Evenly("elasticity")
    )
    assert compiled.report.criterion == "elasticity, evenly"
    assert [row.after for row in compiled.report.groups] == [4, 10]
