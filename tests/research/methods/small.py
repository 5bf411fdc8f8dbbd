"""A few digits and small networks that the tests of methods share."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from graphprune.research.datasets import Dataset, Split, mnist_5k
from graphprune.research.networks import BasicBlock, lenet5, orthogonal_init_


@cache
def few_digits(count: int = 256) -> Dataset:
    """A few hundred digits to train on."""
    digits = mnist_5k()
    train = Split(digits.train.inputs[:count].clone(), digits.train.targets[:count].clone())
    return Dataset("a few digits", train, digits.validation, digits.test)


def lenet() -> nn.Module:
    """LeNet5 with the paper's initial weights."""
    return orthogonal_init_(lenet5(), seed=0)


class TwoBlocks(nn.Module):
    """A stem, a residual block with the identity as its shortcut, one with a projection, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.block1, self.block2 = BasicBlock(6, 6), BasicBlock(6, 8, downsampling=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 1, H, W)`` to ``(N, 10)``."""
        x = torch.relu(self.norm(self.stem(x)))
        out: Tensor = self.head(self.block2(self.block1(x)).mean((2, 3)))
        return out


def with_statistics(model: nn.Module) -> nn.Module:
    """Gives every BatchNorm scales, shifts and statistics that are not 0 and 1, so that mistakes show."""
    generator = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert layer.running_mean is not None and layer.running_var is not None
            with torch.no_grad():
                for tensor in (layer.weight, layer.running_var):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
                for tensor in (layer.bias, layer.running_mean):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return model
