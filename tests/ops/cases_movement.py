"""Rows for data movement: concatenation, parts, permutations, reshapes, padding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.ops.case import Case, image, images, net
from tests.ops.cases_mixing import around, between_linear

IMAGE, TOKENS = image(2, 3, 6, 6), image(2, 7, 5)
BOTH = ("a.weight", "a.bias", "head.weight:1")


def narrowing(middle: Any, channels: int, left: int) -> Any:
    """A convolution, something that leaves ``left`` of its channels, and a head that reads them."""
    return lambda: net(
        lambda self, x: self.head(middle(self.a(x))), a=nn.Conv2d(3, channels, 3), head=nn.Conv2d(left, 4, 1)
    )


def flattened(middle: Any, features: int) -> Any:
    """A convolution, something that flattens it, and a linear head."""
    return lambda: net(lambda self, x: self.head(middle(self.a(x))), a=nn.Conv2d(3, 8, 3), head=nn.Linear(features, 4))


def _shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, h, w)


def _assigned(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :4] = x[:, 4:] * 2
    return y


def _zeroed(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 2:6] = x[:, 2:6]
    return y


def _filled(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 1:4] = 0.5
    return y


def _shift(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :2, 1:] = x[:, :2, :-1]
    y[:, 2:4, :-1] = x[:, 2:4, 1:]
    y[:, 4:] = x[:, 4:]
    return y


def _shortcut() -> nn.Module:
    return net(
        lambda self, x: (lambda y: self.head(self.b(y).relu() + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 2,
            2))))(self.a(x)),
        a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 12, 3, stride=2, padding=1), head=nn.Conv2d(12, 4, 1),
    )  # fmt: skip


def _residual() -> nn.Module:
    return net(
        lambda self, x: (lambda y: self.head(self.norm(self.c(self.b(y).relu())) + y))(self.a(x).relu()),
        a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 6, 3, padding=1), c=nn.Conv2d(6, 8, 1), norm=nn.BatchNorm2d(8),
        head=nn.Conv2d(8, 4, 1),
    )  # fmt: skip


def _concat(dim: int, last: int) -> nn.Module:
    return net(
        lambda self, x: self.head(torch.cat([self.a(x), self.b(x).relu(), x[..., :2]], dim) if dim == -1
                                  else torch.cat([self.a(x), self.b(x).relu()], dim)),
        a=nn.Linear(5, 8), b=nn.Linear(5, 6 if dim == -1 else 8), head=nn.Linear(last, 4),
    )  # fmt: skip


def _branches(parts: Any, widths: tuple[int, int], channels: int = 12) -> Any:
    return lambda: net(
        lambda self, x: (lambda p: torch.cat([self.left(p[0]), self.right(p[1]).relu()], 1))(parts(self.a(x))),
        a=nn.Conv2d(3, channels, 3),
        left=nn.Conv2d(widths[0], 4, 1),
        right=nn.Conv2d(widths[1], 4, 1),
    )


HALVES = ("a.weight", "left.weight:1", "right.weight:1")

ROWS = (
    Case("residual", _residual, IMAGE, (*BOTH, "b.weight", "c.weight", "norm.weight")),
    Case("concat of channels", lambda: _concat(-1, 16), TOKENS, ("a.weight", "b.weight")),
    Case("concat along tokens", lambda: _concat(1, 8), TOKENS, (*BOTH, "b.weight")),
    Case("class token and position embedding", lambda: net(
        lambda self, x: self.head((torch.cat([self.token.expand(x.shape[0], -1, -1), self.a(x)], 1) + self.place)[:,
            0]),
        a=nn.Linear(5, 8), token=nn.Parameter(torch.randn(1, 1, 8)), place=nn.Parameter(torch.randn(1, 8, 8)),
        head=nn.Linear(8, 4)), TOKENS, (*BOTH, "token:2", "place:2"), ("place:1",)),
    Case("split in equal parts", _branches(lambda x: x.split(6, 1), (6, 6)), IMAGE, HALVES),
    Case("split in unequal parts", _branches(lambda x: torch.split(x, [4, 8], dim=1), (4, 8)), IMAGE, HALVES),
    Case("chunk", _branches(lambda x: x.chunk(2, dim=1), (6, 6)), IMAGE, HALVES),
    Case("tensor_split", _branches(lambda x: torch.tensor_split(x, (5,), dim=1), (5, 7)), IMAGE, HALVES),
    Case("slices", _branches(lambda x: (x[:, :5], x[:, 5:]), (5, 7)), IMAGE, HALVES),
    Case("slices that overlap", _branches(lambda x: (x[:, :9], x[:, 3:]), (9, 9)), IMAGE, HALVES),
    Case("narrow", _branches(lambda x: (x.narrow(1, 0, 4), torch.narrow(x, 1, 4, 8)), (4, 8)), IMAGE, HALVES),
    Case("strided slices", _branches(lambda x: (x[:, ::2], x[:, 1::2]), (6, 6)), IMAGE, HALVES),
    Case("slice that drops channels", narrowing(lambda x: x[:, 2:-3], 12, 7), IMAGE, ("a.weight", "head.weight:1")),
    Case("select of a token", lambda: net(
        lambda self, x: self.head(self.a(x).select(1, 0) + self.a(x)[:, -1]), a=nn.Linear(5, 8), head=nn.Linear(8, 4)),
         TOKENS, BOTH),
    Case("select of a channel", lambda: net(
        lambda self, x: (lambda y: self.head(y * y[:, 2:3] + y[:, 5].unsqueeze(1)))(self.a(x)),
        a=nn.Conv2d(3, 8, 3), head=nn.Conv2d(8, 4, 1)), IMAGE),
    Case("unbind of a new dim", lambda: net(
        lambda self, x: (lambda p: self.head(p[0] * p[1].sigmoid()))(self.a(x).reshape(2, 7, 2, 8).unbind(2)),
        a=nn.Linear(5, 16), head=nn.Linear(8, 4)), TOKENS, BOTH),
    Case("channel shuffle", around(_shuffle), IMAGE, BOTH),
    Case("channel shuffle module", around(nn.ChannelShuffle(2)), IMAGE, BOTH),
    Case("channel shuffle before depthwise", lambda: net(
        lambda self, x: self.head(self.deep(_shuffle(self.b(self.a(x).relu())))),
        a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 8, 1, groups=2), deep=nn.Conv2d(8, 8, 3, padding=1, groups=8),
        head=nn.Conv2d(8, 4, 1)), IMAGE, (*BOTH, "b.weight", "deep.weight")),
    Case("flip", around(lambda x: x.flip(1)), IMAGE, BOTH),
    Case("flip and add", around(lambda x: x + x.flip(1)), IMAGE, BOTH),
    Case("roll", around(lambda x: x.roll(3, 1)), IMAGE, BOTH),
    Case("roll of all", between_linear(lambda x: torch.roll(x, (1, 2), (1, 2))), TOKENS, BOTH),
    Case("roll of the flat tensor", between_linear(lambda x: torch.roll(x, 3)), TOKENS),
    Case("index_select", around(lambda x: torch.index_select(x, 1, torch.tensor([3, 1, 0, 2, 7, 6, 5, 4]))), IMAGE,
        BOTH),
    Case("index with a list", around(lambda x: x[:, [7, 0, 1, 2, 6, 5, 4, 3]]), IMAGE, BOTH),
    Case("gather of tokens", lambda: net(
        lambda self, x: self.head(self.a(x)[:, torch.tensor([4, 1])]), a=nn.Linear(5, 8), head=nn.Linear(8, 4)),
         TOKENS, BOTH),
    Case("repeat", lambda: net(
        lambda self, x: self.head(self.a(x).repeat(1, 2, 1, 1)), a=nn.Conv2d(3, 8, 3), head=nn.Conv2d(16, 4, 1)), IMAGE,
            BOTH),
    Case("repeat_interleave", lambda: net(
        lambda self, x: self.head(self.a(x).repeat_interleave(2, dim=1)),
        a=nn.Conv2d(3, 8, 3), head=nn.Conv2d(16, 4, 1)), IMAGE, BOTH),
    Case("repeat_interleave of few channels", lambda: net(
        lambda self, x: self.head(self.a(x).repeat_interleave(2, dim=1)), a=nn.Linear(5, 2), head=nn.Linear(4, 4)),
         image(3, 5), BOTH),
    Case("spatial attention by expand_as", lambda: net(
        lambda self, x: (lambda y: self.head(y * self.map(y).sigmoid().expand_as(y)))(self.a(x)),
        a=nn.Conv2d(3, 8, 3), map=nn.Conv2d(8, 1, 1), head=nn.Conv2d(8, 4, 1)), IMAGE, (*BOTH, "map.weight:1")),
    Case("expand", lambda: net(
        lambda self, x: self.head(self.a(x).unsqueeze(1).expand(-1, 7, -1)), a=nn.Linear(5, 8), head=nn.Linear(8, 4)),
         image(2, 5), BOTH),
    Case("pixel_shuffle", lambda: net(
        lambda self, x: self.head(F.pixel_shuffle(self.a(x), 2)), a=nn.Conv2d(3, 24, 3), head=nn.Conv2d(6, 4, 1)),
            IMAGE, BOTH),
    Case("pixel_shuffle to the output", lambda: net(
        lambda self, x: F.pixel_shuffle(self.b(self.a(x)), 2), a=nn.Conv2d(3, 6, 3), b=nn.Conv2d(6, 4, 3)), IMAGE,
         ("a.weight",), ("b.weight",)),
    Case("pixel_shuffle then flatten", lambda: net(
        lambda self, x: self.head(F.pixel_shuffle(self.a(x), 2).flatten(1)), a=nn.Conv2d(3, 8, 3),
        head=nn.Linear(2 * 64, 4)), IMAGE),
    Case("pixel_unshuffle", lambda: net(
        lambda self, x: self.head(F.pixel_unshuffle(self.a(x), 2)), a=nn.Conv2d(3, 6, 3), head=nn.Conv2d(24, 4, 1)),
         IMAGE, BOTH),
    Case("pixel shuffle modules", lambda: nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.PixelShuffle(2), nn.Conv2d(3, 6, 1), nn.PixelUnshuffle(2), nn.Conv2d(24, 4, 1)),
         IMAGE, ("0.weight", "2.weight", "4.weight:1")),
    Case("focus: space to depth by slices", lambda: net(
        lambda self, x: (lambda y: self.head(torch.cat(
            [y[..., ::2, ::2], y[..., 1::2, ::2], y[..., ::2, 1::2], y[..., 1::2, 1::2]], 1)))(self.a(x)),
        a=nn.Conv2d(3, 8, 3), head=nn.Conv2d(32, 4, 1)), IMAGE, BOTH),
    Case("pad of channels", _shortcut, IMAGE, ("a.weight", "b.weight", "head.weight:1")),
    Case("pad of positions", around(lambda x: F.pad(x, (1, 2, 0, 1))), IMAGE, BOTH),
    Case("pad with a value", lambda: net(
        lambda self, x: self.head(F.pad(self.a(x), (0, 0, 0, 0, 1, 3), value=0.5)),
        a=nn.Conv2d(3, 8, 3), head=nn.Conv2d(12, 4, 1)), IMAGE, ("a.weight",)),
    Case("stack", lambda: net(
        lambda self, x: self.head(torch.stack([self.a(x), self.b(x)], 1).mean(1)),
        a=nn.Linear(5, 8), b=nn.Linear(5, 8), head=nn.Linear(8, 4)), TOKENS, (*BOTH, "b.weight")),
    Case("stack and flatten", lambda: net(
        lambda self, x: self.head(torch.stack([self.a(x), self.b(x)], -1).flatten(-2)),
        a=nn.Linear(5, 8), b=nn.Linear(5, 8), head=nn.Linear(16, 4)), TOKENS, ("a.weight",)),
    Case("flatten to linear", flattened(lambda x: x.flatten(1), 128), IMAGE, BOTH),
    Case("flatten module", lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(128, 4)), IMAGE,
         ("0.weight", "2.weight:1")),
    Case("view with -1", flattened(lambda x: x.view(x.size(0), -1), 128), IMAGE, BOTH),
    Case("view with literal width", flattened(lambda x: x.view(-1, 128), 128), IMAGE, BOTH),
    Case("permute to NHWC and flatten", flattened(lambda x: x.permute(0, 2, 3, 1).flatten(1), 128), IMAGE, BOTH),
    Case("NHWC reshape by size", flattened(lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], 4 * 4 * x.shape[1]),
        128),
         IMAGE, BOTH),
    Case("size read from the shape", around(lambda x: x.view(x.shape[0], x.shape[1], -1).mean(2)[:, :, None, None]),
        IMAGE,
         BOTH),
    Case("scale computed from the shape", around(lambda x: x * x.shape[1] ** -0.5), IMAGE, BOTH),
    Case("half the channels by arithmetic", _branches(
        lambda x: (x[:, : x.shape[1] // 3], x[:, x.shape[1] // 3 :]), (4, 8)), IMAGE, HALVES),
    Case("squeeze", lambda: net(
        lambda self, x: self.head(F.adaptive_avg_pool2d(self.a(x), 1).squeeze()), a=nn.Conv2d(3, 8, 3),
        head=nn.Linear(8, 4)), IMAGE, BOTH),
    Case("unsqueeze", lambda: net(
        lambda self, x: self.head(self.a(x)[:, :, None, None].unsqueeze(-1).squeeze(-1)), a=nn.Linear(5, 8),
        head=nn.Conv2d(8, 4, 1)), image(2, 5), BOTH),
    Case("unflatten", lambda: net(
        lambda self, x: self.head(self.a(x).unflatten(-1, (2, 4)).transpose(-1, -2).flatten(-2)), a=nn.Linear(5, 8),
        head=nn.Linear(8, 4)), TOKENS, BOTH),
    Case("unflatten module", lambda: nn.Sequential(
        nn.Linear(5, 32), nn.Unflatten(1, (8, 2, 2)), nn.Conv2d(8, 6, 2), nn.Flatten(), nn.Linear(6, 4)), image(3, 5),
         ("0.weight", "2.weight", "2.weight:1", "4.weight:1")),
    Case("window partition", lambda: net(
        lambda self, x: self.head(self.a(x).view(2, 8, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 8).mean(1)),
        a=nn.Conv2d(3, 8, 3), head=nn.Linear(8, 4)), IMAGE, BOTH),
    Case("transpose, T and movedim", between_linear(lambda x: x.transpose(1, 2).mT.movedim(1, 2).swapaxes(1, 2)),
        TOKENS, BOTH),
    Case("in-place slice assignment", around(_assigned), IMAGE),
    Case("assignment into zeros", around(_zeroed), IMAGE),
    Case("assignment of a number", around(_filled), IMAGE),
    Case("temporal shift", around(_shift), IMAGE),
    Case("detach", around(lambda x: x + x.detach().sigmoid()), IMAGE, BOTH),
    Case("conversions of a tensor", around(lambda x: torch.as_tensor(x, dtype=torch.float32)), IMAGE, BOTH),
    Case("clone and contiguous", around(lambda x: x.clone().contiguous().to(torch.float32)), IMAGE, BOTH),
    Case("meshgrid concat of coordinates", lambda: net(
        lambda self, x: self.head(torch.cat([self.a(x), torch.ones(2, 1, 4, 4)], 1)), a=nn.Conv2d(3, 8, 3),
        head=nn.Conv2d(9, 4, 1)), IMAGE, ("a.weight",)),
    Case("tril of channels", lambda: net(
        lambda self, x: self.head(torch.tril(self.a(x))), a=nn.Linear(5, 8), head=nn.Linear(8, 4)), TOKENS,
            frozen=("a.weight",)),
    Case("diagonal", lambda: net(
        lambda self, x: self.head(torch.diagonal(self.a(x).view(2, 7, 8, 8), dim1=2, dim2=3)), a=nn.Linear(5, 64),
        head=nn.Linear(8, 4)), TOKENS),
    Case("product with itself as a matrix", lambda: net(
        lambda self, x: (lambda y: self.head((y.unsqueeze(-1) * y.unsqueeze(-2)).flatten(1)))(self.a(x)), a=nn.Linear(5,
            4),
        head=nn.Linear(16, 4)), image(3, 5)),
    Case("covariance pooling", lambda: net(
        lambda self, x: (lambda y: self.head(torch.bmm(y, y.transpose(1, 2)).flatten(1)))(self.a(x).flatten(2)),
        a=nn.Conv2d(3, 4, 3), head=nn.Linear(16, 4)), IMAGE),
    Case("several inputs", lambda: net(
        lambda self, x, y, z: self.head(torch.cat([self.a(x), self.b(y)], -1) * self.c(z)),
        a=nn.Linear(5, 8), b=nn.Linear(6, 4), c=nn.Linear(7, 12), head=nn.Linear(12, 4)),
         images((3, 5), (3, 6), (3, 7)), ("a.weight", "b.weight", "c.weight")),
    Case("tuple of outputs", lambda: net(
        lambda self, x: (lambda y: (self.head(y), [self.b(y), y.mean(1)]))(self.a(x).relu()),
        a=nn.Linear(5, 8), b=nn.Linear(8, 3), head=nn.Linear(8, 4)), image(3, 5), ("a.weight",), ("b.weight",
            "head.weight"),
         mixing=True),
    Case("dict of outputs", lambda: net(
        lambda self, x: (lambda y: {"logits": self.head(y), "aux": self.b(y).relu()})(self.a(x)),
        a=nn.Linear(5, 8), b=nn.Linear(8, 3), head=nn.Linear(8, 4)), image(3, 5), ("a.weight",), ("b.weight",
            "head.weight"),
         "leaves the program"),
)  # fmt: skip
