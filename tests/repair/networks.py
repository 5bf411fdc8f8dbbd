"""Networks with every kind of layer that can be fitted, and some that cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.ops.case import net

IMAGE = (4, 8, 8)


def convolutions(kind: type[nn.Module], **options: object) -> nn.Module:
    """Three convolutions of a kind, the one in the middle with options."""
    return net(
        lambda self, x: self.c(self.b(self.a(x).relu()).relu()),
        a=kind(4, 12, 3),
        b=kind(12, 12, 3, **options),
        c=kind(12, 3, 1),
    )


def depthwise() -> nn.Module:
    """An inverted residual."""
    return net(
        lambda self, x: self.c(self.n(self.b(self.a(x).relu())).relu()),
        a=nn.Conv2d(4, 16, 1),
        b=nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
        n=nn.BatchNorm2d(16),
        c=nn.Conv2d(16, 3, 1),
    )


def residual() -> nn.Module:
    """A block whose sum is wider than what it adds up, by batch norms and without biases."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.s(x)
        x = self.nb(self.b(self.na(self.a(x)).relu())) + x
        result: Tensor = self.head(x.relu().mean((2, 3)))
        return result

    return net(
        forward,
        s=nn.Conv2d(4, 10, 3, padding=1),
        a=nn.Conv2d(10, 12, 3, padding=1, bias=False),
        na=nn.BatchNorm2d(12),
        b=nn.Conv2d(12, 10, 3, padding=1, bias=False),
        nb=nn.BatchNorm2d(10),
        head=nn.Linear(10, 3),
    )


def sums() -> nn.Module:
    """Sums right behind linear layers, as in a transformer."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        result: Tensor = self.head(x.mean(1))
        return result

    return net(
        forward, embed=nn.Linear(4, 12), norm=nn.LayerNorm(12), up=nn.Linear(12, 24), down=nn.Linear(24, 12),
        head=nn.Linear(12, 3),
    )  # fmt: skip


def functions() -> nn.Module:
    """Convolution, batch norm and linear layer as functions of stored tensors."""

    class Functions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Parameter(torch.randn(12, 4, 3, 3) / 6), nn.BatchNorm2d(12)
            self.second, self.head = nn.Parameter(torch.randn(12, 12, 3, 3) / 10), nn.Parameter(torch.randn(3, 12) / 3)
            self.bias = nn.Parameter(torch.randn(3))

        def forward(self, x: Tensor) -> Tensor:
            n = self.norm
            x = F.relu(F.conv2d(x, self.conv))
            x = F.conv2d(x, self.second, None, 1, 1)
            x = F.relu(F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias))
            return F.linear(x.mean((2, 3)), self.head, self.bias)

    return Functions()


class Attention(nn.Module):
    """Attention of torch, whose projections functions read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 12), nn.Linear(12, 3)
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 4, H, W)`` to ``(N, 3)``."""
        x = self.embed(x.flatten(2).transpose(1, 2))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        result: Tensor = self.head(x.mean(1))
        return result


FITTED: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: convolutions(nn.Conv2d),
    "strided": lambda: convolutions(nn.Conv2d, stride=2),
    "dilated, padded by reflection": lambda: convolutions(nn.Conv2d, dilation=2, padding=2, padding_mode="reflect"),
    "same padding": lambda: convolutions(nn.Conv2d, padding="same"),
    "without biases": lambda: convolutions(nn.Conv2d, bias=False),
    "grouped": lambda: convolutions(nn.Conv2d, groups=2),
    "transposed": lambda: convolutions(nn.ConvTranspose2d, stride=2, padding=1, output_padding=1),
    "transposed and grouped": lambda: convolutions(nn.ConvTranspose2d, groups=2),
    "depthwise": depthwise,
    "residual": residual,
    "sums behind linear layers": sums,
    "functions": functions,
    "attention": Attention,
}
"""Networks of images ``(N, 4, 8, 8)`` of which something is fitted, by name."""
