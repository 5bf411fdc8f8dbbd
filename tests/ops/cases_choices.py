"""Rows in which a rule has to choose which of two dims can shrink: heads or their widths, experts or theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.ops.case import Case, image, net

TOKENS = image(2, 7, 6)


def _experts() -> nn.Module:
    """A mixture with fixed routing: three experts of 16 hidden units each."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.inside(x)
        hidden = torch.relu(torch.einsum("btd,edf->btef", x, self.up))
        mixed = torch.einsum("bted,e->btd", torch.einsum("btef,efd->bted", hidden, self.down), self.routing)
        out: Tensor = self.head(x + mixed)
        return out

    return net(
        forward, inside=nn.Linear(6, 8), up=nn.Parameter(torch.randn(3, 8, 16)),
        down=nn.Parameter(torch.randn(3, 16, 8)), routing=torch.tensor([0.2, 0.3, 0.5]), head=nn.Linear(8, 4),
    )  # fmt: skip


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions: the halves of ``(..., L, width)`` are turned by ``(L, width)`` angles."""
    first, second = x.chunk(2, dim=-1)
    return x * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()


def rotary() -> nn.Module:
    """Four query heads of width 6 that share two key heads, with rotary positions from a buffer of frequencies."""

    def forward(self: Any, x: Tensor) -> Tensor:
        samples, tokens, _ = x.shape
        x = self.inside(x)
        turns = torch.arange(tokens)[:, None] * self.frequencies
        angles = torch.cat([turns, turns], dim=-1)
        q = rotated(self.q(x).view(samples, tokens, 4, 6).transpose(1, 2), angles)
        k = rotated(self.k(x).view(samples, tokens, 2, 6).transpose(1, 2), angles)
        v = self.v(x).view(samples, tokens, 2, 6).transpose(1, 2)
        k, v = (y[:, :, None].expand(samples, 2, 2, tokens, 6).reshape(samples, 4, tokens, 6) for y in (k, v))
        weights = (q @ k.transpose(-2, -1) * 6**-0.5).softmax(-1)
        out: Tensor = self.head(self.o((weights @ v).transpose(1, 2).reshape(samples, tokens, 24)))
        return out

    return net(
        forward, inside=nn.Linear(6, 10), q=nn.Linear(10, 24), k=nn.Linear(10, 12), v=nn.Linear(10, 12),
        o=nn.Linear(24, 10), frequencies=torch.tensor([1.0, 0.3, 0.1]), head=nn.Linear(10, 4),
    )  # fmt: skip


def _normalised_heads() -> nn.Module:
    """Queries and keys normalised over the width of a head, with a scale that all heads share."""

    def forward(self: Any, x: Tensor) -> Tensor:
        samples, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(samples, tokens, 3, 3, 4).permute(2, 0, 3, 1, 4)
        attended = torch.nn.functional.scaled_dot_product_attention(self.norm(q), self.norm(k), v)
        out: Tensor = self.head(attended.transpose(1, 2).reshape(samples, tokens, 12))
        return out

    return net(forward, qkv=nn.Linear(6, 36), norm=nn.LayerNorm(4), head=nn.Linear(12, 4))


SHARED = "is the same for several groups of channels"

ROWS = (
    Case("experts by einsum", _experts, TOKENS, prunable=("inside.weight", "up:2", "down:1"), frozen=("up",),
         reason="flattened together with channels"),
    Case("rotary positions, grouped queries", rotary, TOKENS,
         prunable=("q.weight", "k.weight", "v.weight", "o.weight:1"), frozen=("frequencies",), reason=SHARED),
    Case("normalised heads", _normalised_heads, TOKENS,
         prunable=("qkv.weight", "head.weight:1"), frozen=("norm.weight",), reason=SHARED),
)  # fmt: skip
