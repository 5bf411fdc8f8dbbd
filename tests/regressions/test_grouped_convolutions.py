"""Groups of a convolution go as a whole where that leaves something to choose from; samples may have no dim."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from tests.ops.case import net
from tests.property.checks import dependencies_of
from tests.regressions.pruning import analysed, assert_prunes_right


def convolutions(*groups: int, width: int = 48) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 1)]
    for count in groups:
        layers += [nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, groups=count)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, 4, 1))


def shuffled(self: Any, x: Tensor) -> Tensor:
    x = self.first(self.stem(x).relu())
    x = x.unflatten(1, (8, 4)).transpose(1, 2).flatten(1, 2)
    out: Tensor = self.head(self.second(x).relu())
    return out


def shuffle_net() -> nn.Module:
    first, second = (nn.Conv2d(32, 32, 3, padding=1, groups=8) for _ in range(2))
    return net(shuffled, stem=nn.Conv2d(3, 32, 1), first=first, second=second, head=nn.Conv2d(32, 4, 1))


def half_frozen() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.grouped(torch.cat([x, self.stem(x)], 1)).relu())
        return out

    return net(forward, stem=nn.Conv2d(16, 16, 1), grouped=nn.Conv2d(32, 64, 3, groups=8), head=nn.Conv2d(64, 4, 1))


@pytest.mark.parametrize(
    ("model", "example", "channels"),
    [
        (convolutions(8), torch.randn(2, 3, 6, 6), 8),
        (convolutions(8, 8), torch.randn(2, 3, 6, 6), 8),
        # other groups next to it, a shuffle, frozen inputs: whole groups would be tied to each other
        (convolutions(8, 12), torch.randn(2, 3, 6, 6), 12),
        (convolutions(12, 8), torch.randn(2, 3, 6, 6), 12),
        (convolutions(2, 3), torch.randn(2, 3, 6, 6), 48),
        (shuffle_net(), torch.randn(2, 3, 6, 6), 8),
        (half_frozen(), torch.randn(2, 16, 6, 6), 8),
    ],
)
def test_channels_of_groups(model: nn.Module, example: Tensor, channels: int) -> None:
    assert dependencies_of(analysed(model, example)).channels == channels
    assert_prunes_right(model, example)


def by_sizes() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        out: Tensor = self.head(F.conv2d(x, self.weight, groups=x.shape[-3] // self.weight.shape[1]))
        return out

    weight = nn.Parameter(torch.randn(24, 4, 3, 3))
    return net(forward, stem=nn.Conv2d(3, 24, 1), weight=weight, head=nn.Conv2d(24, 4, 1))


def test_groups_of_a_function_that_sizes_give() -> None:
    assert dependencies_of(analysed(by_sizes(), torch.randn(2, 3, 6, 6))).channels == 6
    assert_prunes_right(by_sizes(), torch.randn(2, 3, 6, 6))


@pytest.mark.parametrize(
    ("model", "height"), [(convolutions(8), 7), (convolutions(48), 10), (convolutions(4), 2), (by_sizes(), 6)]
)
def test_without_a_dim_of_samples(model: nn.Module, height: int) -> None:
    """The channels are dim 0, and the height, dim 1, says nothing of the groups."""
    model, example = model.double(), torch.randn(3, height, 6, dtype=torch.float64)
    compiled = graphprune.compile(model, example, sparsity=0.5, criterion="l1-norm", schedule="one-shot")
    zeroed = copy.deepcopy(model)
    for (name, dim), kept in compiled.plan.kept.items():
        parameter = zeroed.get_parameter(name).data
        parameter.copy_(torch.zeros_like(parameter).index_copy(dim, kept, parameter.index_select(dim, kept)))
    torch.testing.assert_close(compiled.module(example), zeroed(example), rtol=1e-9, atol=1e-9)
