"""Rows for lookups and writes by index, by mask or by order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.ops.case import Case, image, images, net, tokens
from tests.ops.cases_mixing import around, between_linear

IMAGE, TOKENS = image(2, 3, 6, 6), image(2, 7, 5)
BOTH = ("a.weight", "a.bias", "head.weight:1")
STEPS = torch.tensor([0, 1, 1, 2, 2, 3, 3])


def _with_mask(forward: Callable[[Any, Tensor, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: net(forward, a=nn.Linear(5, 8), head=nn.Linear(8, 4), token=nn.Parameter(torch.randn(8)))


def _masked_tokens(self: Any, x: Tensor, hidden: Tensor) -> Tensor:
    y = self.a(x).clone()
    y[hidden > 0] = self.token
    result: Tensor = self.head(y)
    return result


def _zeroed(x: Tensor) -> Tensor:
    y = x.clone()
    y[x < 0] = 0
    return y


def _written_positions(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, [1, 3]] = x[:, [0, 2]] * 2
    return y


def _spatial_attention(self: Any, x: Tensor) -> Tensor:
    y = self.a(x).relu()
    most, _ = torch.max(y, dim=1, keepdim=True)
    result: Tensor = self.head(y * self.map(torch.cat([y.mean(1, keepdim=True), most], 1)).sigmoid())
    return result


def _best_tokens(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    order = self.score(y).squeeze(-1).argsort(1)[:, :3]
    result: Tensor = self.head(y.gather(1, order.unsqueeze(-1).expand(-1, -1, y.shape[2])))
    return result


def _codebook(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    result: Tensor = self.head(self.codes(torch.cdist(y, self.codes.weight[None]).argmin(-1)))
    return result


ROWS = (
    Case("gather of tokens by score", lambda: net(
        _best_tokens, a=nn.Linear(5, 8), score=nn.Linear(8, 1), head=nn.Linear(8, 4)), TOKENS,
         (*BOTH, "score.weight:1")),
    Case("gather of constant tokens", between_linear(
        lambda x: x.gather(1, STEPS[None, :3, None].expand(x.shape[0], 3, x.shape[2]))), TOKENS, BOTH),
    Case("take along a dim", between_linear(lambda x: torch.take_along_dim(x, STEPS[None, :, None], 1)), TOKENS, BOTH),
    Case("gather of channels", between_linear(lambda x: x.gather(2, x.argsort(1))), TOKENS, frozen=("a.weight",),
         reason="indexed by position"),
    Case("scatter_add of tokens", between_linear(
        lambda x: torch.zeros_like(x).scatter_add(1, STEPS[None, :, None].expand(x.shape), x)), TOKENS, BOTH),
    Case("scatter of a number", between_linear(lambda x: x.scatter(1, STEPS[None, :, None].expand(x.shape), 0.5)),
         TOKENS, BOTH),
    Case("index_add of tokens", between_linear(lambda x: x.new_zeros(x.shape[0], 4, x.shape[2]).index_add(1, STEPS, x)),
         TOKENS, BOTH),
    Case("index_copy and index_fill of rows", around(
        lambda x: x.index_copy(2, torch.tensor([0, 1]), x[:, :, 2:4]).index_fill(3, torch.tensor([2]), 0.5)), IMAGE,
         BOTH),
    Case("index_add of channels", around(
        lambda x: torch.zeros_like(x).index_add(1, torch.tensor([0, 1, 1, 2, 2, 3, 3, 4]), x)), IMAGE,
         frozen=("a.weight",), reason="indexed by position"),
    Case("write to constant channels", around(_written_positions), IMAGE, frozen=("a.weight",)),
    Case("slice_scatter and select_scatter of rows", around(
        lambda x: torch.select_scatter(torch.slice_scatter(x, x[:, :, :2] * 2, 2, 3, 5), x[:, :, 0], 2, 1)), IMAGE,
         BOTH),
    Case("slice_scatter of channels", around(lambda x: torch.slice_scatter(x, x[:, :4] * 2, 1, 2, 6)), IMAGE,
         frozen=("a.weight",), reason="by position"),
    Case("rows picked by a mask", _with_mask(lambda self, x, hidden: self.head(self.a(x)[hidden > 0].relu())),
         lambda: (torch.randn(2, 7, 5), torch.randint(0, 2, (2, 7))), BOTH),
    Case("rows written by a mask", _with_mask(_masked_tokens),
         lambda: (torch.randn(2, 7, 5), torch.randint(0, 2, (2, 7))), (*BOTH, "token")),
    Case("elements written by a mask", around(_zeroed), IMAGE, BOTH),
    Case("elements picked by a mask", lambda: net(
        lambda self, x: self.head(self.a(x).masked_select(x[..., :1] > 0)[:8]), a=nn.Linear(5, 8),
        head=nn.Linear(8, 4)), TOKENS, frozen=("a.weight",), reason="no rule"),
    Case("sorted tokens", between_linear(lambda x: x.sort(1)[0]), TOKENS, BOTH),
    Case("sort", lambda: net(
        lambda self, x: self.head(self.b(torch.sort(self.a(x), dim=-1)[0]).relu()),
        a=nn.Linear(5, 8), b=nn.Linear(8, 6), head=nn.Linear(6, 4)), TOKENS, ("b.weight",), ("a.weight",),
         "compared with each other"),
    Case("k largest over time", lambda: net(
        lambda self, x: self.head(self.a(x).topk(3, dim=2)[0].flatten(1)), a=nn.Conv1d(3, 8, 3),
        head=nn.Linear(24, 4)), image(2, 3, 9), BOTH),
    Case("top k", lambda: net(
        lambda self, x: self.head(self.b(torch.topk(self.a(x), 4, dim=-1)[0]).relu()),
        a=nn.Linear(5, 8), b=nn.Linear(4, 6), head=nn.Linear(6, 4)), TOKENS, ("b.weight",), ("a.weight",),
         "compared with each other"),
    Case("median, mode and kthvalue of tokens", between_linear(
        lambda x: x.median(1)[0] + x.kthvalue(2, 1)[0] + x.mode(1).values), TOKENS, BOTH),
    Case("running maximum", between_linear(lambda x: x.cummax(1)[0] - x.cummin(1)[0]), TOKENS, BOTH),
    Case("argmax over tokens", between_linear(lambda x: x * x.argmax(1, keepdim=True)), TOKENS, BOTH),
    Case("maximum over channels", lambda: net(
        _spatial_attention, a=nn.Conv2d(3, 8, 3), map=nn.Conv2d(2, 1, 3, padding=1), head=nn.Conv2d(8, 4, 1)), IMAGE,
         BOTH, mixing=True),
    Case("position of the maximum over channels", between_linear(
        lambda x: (lambda found: x - found.values + found.indices)(x.max(-1, keepdim=True))), TOKENS,
         frozen=("a.weight",), reason="extremum"),
    Case("maxout", lambda: net(
        lambda self, x: self.head(self.a(x).view(2, 7, 8, 2).max(-1)[0]), a=nn.Linear(5, 16), head=nn.Linear(8, 4)),
         TOKENS, BOTH),
    Case("embedding bag", lambda: net(
        lambda self, x: self.head(self.bag(x)), bag=nn.EmbeddingBag(11, 8), head=nn.Linear(8, 4)),
         tokens(3, 6, below=11), ("bag.weight:1", "head.weight:1"), ("bag.weight",)),
    Case("nearest code", lambda: net(_codebook, a=nn.Linear(5, 8), codes=nn.Embedding(6, 8), head=nn.Linear(8, 4)),
         TOKENS, (*BOTH, "codes.weight:1"), ("codes.weight",)),
    Case("distances to prototypes", lambda: net(
        lambda self, x: self.head((-torch.cdist(self.a(x).sigmoid(), self.codes)).softmax(-1)), a=nn.Linear(5, 8),
        codes=nn.Parameter(torch.randn(1, 6, 8)), head=nn.Linear(6, 4)), TOKENS,
         ("a.weight", "codes:2", "codes:1", "head.weight:1"), mixing=True),
    Case("bilinear", lambda: net(
        lambda self, x, y: self.head(self.pair(self.a(x), self.b(y).sigmoid()).relu()),
        a=nn.Linear(5, 6), b=nn.Linear(5, 7), pair=nn.Bilinear(6, 7, 8), head=nn.Linear(8, 4)), images((3, 5), (3, 5)),
         ("a.weight", "b.weight", "pair.weight", "pair.weight:1", "pair.weight:2", "head.weight:1")),
    Case("edges of a graph", lambda: net(
        lambda self, x, edges: self.head(torch.zeros(x.shape[0], 8).index_add(0, edges[1], self.a(x)[edges[0]])),
        a=nn.Linear(5, 8), head=nn.Linear(8, 4)),
         lambda: (torch.randn(7, 5), torch.tensor([[0, 6, 2, 3, 1], [5, 1, 4, 6, 0]])), BOTH),
    Case("one hot", lambda: net(
        lambda self, x: self.head(F.one_hot(self.a(x).argmax(-1), 8).float()), a=nn.Linear(5, 8), head=nn.Linear(8, 4)),
         TOKENS, frozen=("a.weight",), reason="compared with each other"),
)  # fmt: skip
