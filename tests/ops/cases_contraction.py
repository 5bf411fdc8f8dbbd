"""Rows for convolutions, products and embeddings."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tests.ops.case import Case, image, images, net, tokens


def chain(first: nn.Module, middle: nn.Module, last: nn.Module) -> nn.Module:
    """Two layers around the one that a row is about."""
    return nn.Sequential(first, nn.ReLU(), middle, nn.ReLU(), last)


def _tied_embedding() -> nn.Module:
    model: Any = net(
        lambda self, x: self.head(self.hidden(self.embed(x)).relu() + self.embed(x)),
        embed=nn.Embedding(11, 12),
        hidden=nn.Linear(12, 12),
        head=nn.Linear(12, 11, bias=False),
    )
    model.head.weight = model.embed.weight
    tied: nn.Module = model
    return tied


def _shared_module() -> nn.Module:
    return net(
        lambda self, x: self.head(self.block(self.block(self.stem(x).relu()).relu()).mean((2, 3))),
        stem=nn.Conv2d(3, 8, 3),
        block=nn.Conv2d(8, 8, 3, padding=1),
        head=nn.Linear(8, 4),
    )


class Standardised(nn.Conv2d):
    """Weight standardisation: the kernel is normalised over its inputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        mean = weight.mean((1, 2, 3), keepdim=True)
        spread = weight.var((1, 2, 3), keepdim=True, unbiased=False)
        weight = (weight - mean) * torch.rsqrt(spread + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


ROWS = (
    Case("conv1d", lambda: chain(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 12, 3), nn.Conv1d(12, 4, 1)), image(2, 3, 12),
         prunable=("0.weight", "0.bias", "2.weight", "2.weight:1", "4.weight:1"),
         frozen=("0.weight:1", "4.weight", "2.weight:2")),
    Case("conv2d", lambda: chain(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, bias=False), nn.Conv2d(12, 4, 1)),
         image(2, 3, 8, 8), prunable=("0.weight", "2.weight", "4.weight:1"), frozen=("0.weight:1", "4.weight")),
    Case("conv3d", lambda: chain(nn.Conv3d(3, 8, 2), nn.Conv3d(8, 12, 2), nn.Conv3d(12, 4, 1)),
         image(2, 3, 5, 5, 5), prunable=("0.weight", "2.weight", "4.weight:1"), frozen=("4.weight",)),
    Case("conv2d circular padding",
         lambda: chain(nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)),
         image(2, 3, 6, 6), prunable=("0.weight", "2.weight"), frozen=("4.weight",)),
    Case("grouped conv1d", lambda: chain(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 12, 3, groups=2), nn.Conv1d(12, 4, 1)),
         image(2, 3, 12), prunable=("0.weight", "2.weight", "2.weight:1", "4.weight:1")),
    Case("grouped conv2d", lambda: chain(nn.Conv2d(3, 12, 3), nn.Conv2d(12, 9, 3, groups=3), nn.Conv2d(9, 4, 1)),
         image(2, 3, 8, 8), prunable=("0.weight", "2.weight", "2.weight:1", "4.weight:1")),
    Case("grouped conv3d", lambda: chain(nn.Conv3d(3, 8, 2), nn.Conv3d(8, 8, 2, groups=2), nn.Conv3d(8, 4, 1)),
         image(2, 3, 4, 4, 4), prunable=("0.weight", "2.weight", "2.weight:1")),
    Case("conv2d in many groups",
         lambda: chain(nn.Conv2d(3, 12, 3), nn.Conv2d(12, 18, 3, groups=6), nn.Conv2d(18, 4, 1)),
         image(2, 3, 8, 8), prunable=("0.weight", "2.weight", "4.weight:1"), frozen=("2.weight:1",),
         reason="a group goes as a whole"),
    Case("conv3d in many groups", lambda: chain(nn.Conv3d(3, 8, 2), nn.Conv3d(8, 8, 2, groups=4), nn.Conv3d(8, 4, 1)),
         image(2, 3, 4, 4, 4), prunable=("0.weight", "2.weight", "4.weight:1"), frozen=("2.weight:1",)),
    Case("functional conv2d in many groups", lambda: net(
        lambda self, x: self.head(F.conv2d(self.stem(x).relu(), self.weight, groups=5).relu()),
        stem=nn.Conv2d(3, 10, 1), weight=nn.Parameter(torch.randn(15, 2, 3, 3)), head=nn.Conv2d(15, 4, 1)),
         image(2, 3, 8, 8), prunable=("stem.weight", "weight", "head.weight:1"), frozen=("weight:1",)),
    Case("inputs of many groups that stay: the same outputs of each go", lambda: net(
        lambda self, x: (stem := self.stem(x), self.head(self.grouped(stem).relu())),
        stem=nn.Conv2d(3, 12, 1), grouped=nn.Conv2d(12, 18, 3, groups=6), head=nn.Conv2d(18, 4, 1)),
         image(2, 3, 8, 8), prunable=("grouped.weight", "grouped.bias", "head.weight:1"), frozen=("stem.weight",)),
    Case("images in many groups", lambda: net(
        lambda self, x: self.head(self.grouped(x).relu()),
        grouped=nn.Conv2d(12, 18, 3, groups=6), head=nn.Conv2d(18, 4, 1)),
         image(2, 12, 8, 8), prunable=("grouped.weight", "grouped.bias", "head.weight:1"),
         frozen=("grouped.weight:1",)),
    Case("transposed conv1d in many groups",
         lambda: chain(nn.Conv1d(3, 12, 3), nn.ConvTranspose1d(12, 18, 3, groups=6), nn.Conv1d(18, 4, 1)),
         image(2, 3, 8), prunable=("0.weight", "2.weight", "2.bias", "4.weight:1"), frozen=("2.weight:1",)),
    Case("depthwise conv1d", lambda: chain(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 8, 3, groups=8), nn.Conv1d(8, 4, 1)),
         image(2, 3, 12), prunable=("0.weight", "2.weight", "4.weight:1")),
    Case("depthwise conv2d", lambda: chain(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)),
         image(2, 3, 8, 8), prunable=("0.weight", "2.weight", "4.weight:1")),
    Case("depthwise with multiplier",
         lambda: chain(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 4, 1)),
         image(2, 3, 8, 8), prunable=("0.weight", "2.weight", "4.weight:1")),
    Case("functional conv2d", lambda: net(
        lambda self, x: self.head(F.conv2d(F.conv2d(x, self.weight, self.bias).relu(), self.depth, groups=8)),
        weight=nn.Parameter(torch.randn(8, 3, 3, 3)), bias=nn.Parameter(torch.randn(8)),
        depth=nn.Parameter(torch.randn(8, 1, 3, 3)), head=nn.Conv2d(8, 4, 1)),
         image(2, 3, 8, 8), prunable=("weight", "bias", "depth", "head.weight:1")),
    Case("transposed conv1d",
         lambda: chain(nn.Conv1d(3, 8, 3), nn.ConvTranspose1d(8, 6, 3, stride=2), nn.Conv1d(6, 4, 1)),
         image(2, 3, 8), prunable=("0.weight", "2.weight", "2.weight:1", "4.weight:1")),
    Case("transposed conv2d",
         lambda: chain(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 3, stride=2), nn.Conv2d(6, 4, 1)),
         image(2, 3, 8, 8), prunable=("0.weight", "2.weight", "2.weight:1", "4.weight:1")),
    Case("transposed conv2d grouped",
         lambda: chain(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 12, 3, groups=2), nn.Conv2d(12, 4, 1)),
         image(2, 3, 6, 6), prunable=("0.weight", "2.weight", "2.weight:1", "4.weight:1")),
    Case("transposed conv2d depthwise",
         lambda: chain(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 16, 3, groups=8), nn.Conv2d(16, 4, 1)),
         image(2, 3, 6, 6), prunable=("0.weight", "2.weight", "4.weight:1")),
    Case("transposed conv3d",
         lambda: chain(nn.Conv3d(3, 6, 2), nn.ConvTranspose3d(6, 4, 2), nn.Conv3d(4, 4, 1)),
         image(2, 3, 4, 4, 4), prunable=("0.weight", "2.weight", "2.weight:1")),
    Case("linear on 2d", lambda: chain(nn.Linear(5, 8), nn.Linear(8, 12), nn.Linear(12, 4)), image(3, 5),
         prunable=("0.weight", "0.bias", "2.weight", "4.weight:1"), frozen=("0.weight:1", "4.weight", "4.bias")),
    Case("linear on 3d", lambda: chain(nn.Linear(5, 8), nn.Linear(8, 12, bias=False), nn.Linear(12, 4)),
         image(3, 7, 5), prunable=("0.weight", "2.weight", "4.weight:1"), frozen=("4.weight",)),
    Case("linear on 4d", lambda: chain(nn.Linear(5, 8), nn.Linear(8, 12), nn.Linear(12, 4)), image(2, 3, 4, 5),
         prunable=("0.weight", "2.weight", "4.weight:1"), frozen=("4.weight",)),
    Case("matmul with a parameter", lambda: net(
        lambda self, x: torch.matmul(torch.matmul(x, self.a).relu() + self.b, self.c),
        a=nn.Parameter(torch.randn(5, 8)), b=nn.Parameter(torch.randn(8)), c=nn.Parameter(torch.randn(8, 4))),
         image(3, 6, 5), prunable=("a:1", "b", "c"), frozen=("a", "c:1")),
    Case("einsum", lambda: net(
        lambda self, x: torch.einsum("bnd,hde->bnhe", self.a(x), self.w).relu().flatten(2) @ self.c,
        a=nn.Linear(5, 8), w=nn.Parameter(torch.randn(3, 8, 4)), c=nn.Parameter(torch.randn(12, 5))),
         image(2, 6, 5), prunable=("a.weight", "w:1", "c")),
    Case("batched product of data", lambda: net(
        lambda self, x: self.head(torch.bmm(self.a(x), self.b(x).transpose(1, 2)).relu() @ self.c(x)),
        a=nn.Linear(5, 8), b=nn.Linear(5, 8), c=nn.Linear(5, 6), head=nn.Linear(6, 4)),
         image(2, 7, 5), prunable=("a.weight", "b.weight", "c.weight", "head.weight:1")),
    Case("embedding", lambda: net(
        lambda self, x: self.head(self.hidden(self.embed(x)).relu().mean(1)),
        embed=nn.Embedding(11, 12, padding_idx=0), hidden=nn.Linear(12, 8), head=nn.Linear(8, 4)),
         tokens(3, 6, below=11), prunable=("embed.weight:1", "hidden.weight"), frozen=("embed.weight", "head.weight")),
    Case("embedding tied to the head", _tied_embedding, tokens(3, 6, below=11),
         prunable=("embed.weight:1", "hidden.weight", "hidden.weight:1"), frozen=("embed.weight",)),
    Case("module called twice", _shared_module, image(2, 3, 8, 8),
         prunable=("stem.weight", "block.weight", "block.weight:1", "head.weight:1")),
    Case("weight_norm", lambda: net(
        lambda self, x: self.head(self.b(self.a(x).relu()).relu().mean((2, 3))),
        a=weight_norm(nn.Conv2d(3, 8, 3)), b=weight_norm(nn.Conv2d(8, 6, 3)), head=nn.Linear(6, 4)),
         image(2, 3, 8, 8), prunable=("head.weight:1",), mixing=True),
    Case("weight standardisation", lambda: net(
        lambda self, x: self.head(self.b(self.a(x).relu()).relu().mean((2, 3))),
        a=Standardised(3, 8, 3), b=Standardised(8, 6, 3), head=nn.Linear(6, 4)),
         image(2, 3, 8, 8), prunable=("a.weight", "b.weight", "b.weight:1", "head.weight:1"), mixing=True),
    Case("two inputs", lambda: net(
        lambda self, x, y: self.head(self.a(x).relu() * self.b(y)),
        a=nn.Linear(5, 8), b=nn.Linear(6, 8), head=nn.Linear(8, 4)),
         images((3, 5), (3, 6)), prunable=("a.weight", "b.weight", "head.weight:1")),
)  # fmt: skip
