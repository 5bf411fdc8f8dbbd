"""Seven rounds on models in which later rounds could see finer channels than the first."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import graphprune


class Normed(nn.Module):
    """Group norm between convolutions."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1)
        self.norm = nn.GroupNorm(groups, channels)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.mix(self.norm(self.conv(x)).relu()).mean((2, 3)))
        return out


class CrossCovariance(nn.Module):
    """Attention between the channels of a head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.qkv = nn.Linear(6, width), nn.Linear(width, 3 * width)
        self.proj, self.head = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 4, 1).unbind(0)
        weights = (functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1)
        mixed = (weights @ v).permute(0, 3, 1, 2).reshape(batch, tokens, width)
        out: Tensor = self.head((x + self.proj(mixed)).mean(1))
        return out


def check(model: nn.Module, example: Tensor, sparsity: float) -> None:
    compiled = graphprune.compile(model, example, sparsity=sparsity)
    assert compiled.verify().relative_error <= 1e-5
    assert all(row.after >= 1 for row in compiled.report.groups)
    before, after = compiled.report.costs["channels"]
    assert abs(before * (1 - sparsity) - after) <= 1
    assert sum(row.after for row in compiled.report.groups) == after
    replayed = compiled.plan.apply(model)
    for name, value in compiled.module.state_dict().items():
        assert torch.equal(replayed.state_dict()[name], value)


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
@pytest.mark.parametrize(("groups", "channels"), [(8, 64), (4, 12), (4, 16), (32, 64)])
def test_group_norm(groups: int, channels: int, sparsity: float) -> None:
    check(Normed(groups, channels), torch.randn(2, 3, 8, 8), sparsity)


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
@pytest.mark.parametrize("heads", [2, 4, 8])
def test_attention_between_channels(heads: int, sparsity: float) -> None:
    check(CrossCovariance(24, heads), torch.randn(2, 5, 6), sparsity)
