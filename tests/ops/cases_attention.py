"""Rows for attention in its many spellings."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.ops.case import Case, image, images, net

TOKENS = image(2, 7, 6)


def heads(x: Tensor, count: int) -> Tensor:
    """``(N, L, E)`` as ``(N, heads, L, E / heads)``."""
    n, length, width = x.shape
    return x.view(n, length, count, width // count).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n, _, length, _ = q.shape
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    result: Tensor = (weights @ v).transpose(1, 2).reshape(n, length, -1)
    return result


def _block(**options: Any) -> nn.Module:
    attention = nn.MultiheadAttention(12, 3, batch_first=options.pop("batch_first", True))
    return net(
        lambda self, x: (lambda y: self.head(y + self.attention(y, y, y, **options)[0]))(self.a(x)),
        a=nn.Linear(6, 12),
        attention=attention,
        head=nn.Linear(12, 4),
    )


def _cross(**sizes: int) -> nn.Module:
    return net(
        lambda self, x, y: self.head(self.attention(self.a(x), self.b(y), self.c(y), need_weights=False)[0]),
        a=nn.Linear(6, 12), b=nn.Linear(5, sizes.get("kdim", 12)), c=nn.Linear(5, sizes.get("vdim", 12)),
        attention=nn.MultiheadAttention(12, 3, batch_first=True, **sizes), head=nn.Linear(12, 4),
    )  # fmt: skip


def _masked() -> nn.Module:
    return net(
        lambda self, x, hidden: self.head(self.attention(
            *[self.a(x)] * 3, key_padding_mask=hidden, attn_mask=self.causal, need_weights=False)[0]),
        a=nn.Linear(6, 12), attention=nn.MultiheadAttention(12, 3, batch_first=True), head=nn.Linear(12, 4),
        causal=torch.ones(7, 7, dtype=torch.bool).triu(1),
    )  # fmt: skip


def _weights_out() -> nn.Module:
    return net(
        lambda self, x: (
            lambda y: self.head(self.attention(*[self.a(x)] * 3)[0]).sum() * 0 + self.attention(*[y] * 3)[1]
        )(self.a(x)),
        a=nn.Linear(6, 12),
        attention=nn.MultiheadAttention(12, 3, batch_first=True),
        head=nn.Linear(12, 4),
    )


def _fused(attend: Any) -> Any:
    def forward(self: Any, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(self.a(x)).reshape(n, length, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y: Tensor = self.head(self.proj(attend(self, q, k, v).transpose(1, 2).reshape(n, length, 12)))
        return y

    return lambda: net(
        forward, a=nn.Linear(6, 10), qkv=nn.Linear(10, 36), proj=nn.Linear(12, 10), head=nn.Linear(10, 4),
        table=nn.Parameter(torch.randn(13, 3)), index=(torch.arange(7)[:, None] - torch.arange(7)[None] + 6),
    )  # fmt: skip


def _biased(self: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * 0.5
    bias = self.table[self.index.view(-1)].view(7, 7, -1).permute(2, 0, 1).contiguous()
    result: Tensor = (scores + bias.unsqueeze(0)).softmax(-1) @ v
    return result


def _grouped(spread: Any) -> Any:
    """Four query heads over two key and value heads."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        q, k, v = heads(self.q(y), 4), heads(self.k(y), 2), heads(self.v(y), 2)
        out = F.scaled_dot_product_attention(q, spread(k), spread(v))
        z: Tensor = self.head(out.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))
        return z

    return lambda: net(
        forward, a=nn.Linear(6, 8), q=nn.Linear(8, 16), k=nn.Linear(8, 8), v=nn.Linear(8, 8), head=nn.Linear(16, 4)
    )


def _by_expand(x: Tensor) -> Tensor:
    n, groups, length, width = x.shape
    return x[:, :, None].expand(n, groups, 2, length, width).reshape(n, groups * 2, length, width)


def _enable_gqa() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = heads(self.q(x), 4), heads(self.k(x), 2), heads(self.v(x), 2)
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        z: Tensor = self.head(self.b(out.transpose(1, 2).flatten(2)).relu())
        return z

    return net(
        forward, q=nn.Linear(6, 16), k=nn.Linear(6, 8), v=nn.Linear(6, 8), b=nn.Linear(16, 10), head=nn.Linear(10, 4)
    )


def _separate(attend: Any) -> Any:
    return lambda: net(
        lambda self, x: (lambda y: self.head(attend(heads(self.q(y), 3), heads(self.k(y), 3), heads(self.v(y),
            3))))(self.a(x)),
        a=nn.Linear(6, 8), q=nn.Linear(8, 12), k=nn.Linear(8, 12), v=nn.Linear(8, 12), head=nn.Linear(12, 4),
    )  # fmt: skip


def _rotary() -> nn.Module:
    def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return x * cos + torch.cat((-second, first), -1) * sin

    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = heads(self.q(x), 3), heads(self.k(x), 3), heads(self.v(x), 3)
        y: Tensor = self.head(_attend(turn(q, self.cos, self.sin), turn(k, self.cos, self.sin), v))
        return y

    angles = torch.outer(torch.arange(7.0), torch.tensor([1.0, 0.1])).repeat(1, 2)
    return net(
        forward, q=nn.Linear(6, 12), k=nn.Linear(6, 12), v=nn.Linear(6, 12), head=nn.Linear(12, 4),
        cos=angles.cos(), sin=angles.sin(),
    )  # fmt: skip


def _linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n, _, length, _ = q.shape
    context = F.softmax(k, -2).transpose(-2, -1) @ v
    return (F.elu(q) @ context).transpose(1, 2).reshape(n, length, -1)


def _flattened_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Batch and heads in one dim, as in fairseq."""
    n, h, length, width = q.shape
    q, k, v = (x.reshape(n * h, length, width) for x in (q, k, v))
    weights = torch.bmm(q, k.transpose(1, 2)).softmax(-1)
    return torch.bmm(weights, v).view(n, h, length, width).transpose(1, 2).reshape(n, length, h * width)


OUTER = ("a.weight", "head.weight:1")
SEPARATE = (*OUTER, "q.weight", "k.weight", "v.weight", "q.weight:1")
SHARED = ("attention.in_proj_weight", "attention.in_proj_weight:1", "attention.out_proj.weight", *OUTER)

ROWS = (
    Case("multihead self-attention", _block, TOKENS, SHARED),
    Case("multihead self-attention without weights", lambda: _block(need_weights=False), TOKENS, SHARED),
    Case("multihead self-attention, batch second", lambda: _block(batch_first=False), TOKENS, SHARED),
    Case("multihead cross-attention", _cross, images((2, 7, 6), (2, 4, 5)), (*SHARED, "b.weight", "c.weight")),
    Case("multihead cross-attention with kdim and vdim", lambda: _cross(kdim=8, vdim=10), images((2, 7, 6), (2, 4, 5)),
         (*OUTER, "b.weight", "c.weight", "attention.q_proj_weight", "attention.k_proj_weight",
             "attention.v_proj_weight:1")),
    Case("multihead attention with masks", _masked,
         lambda: (torch.randn(2, 7, 6), torch.arange(7).expand(2, 7) >= torch.tensor([[7], [5]])), SHARED),
    Case("multihead attention weights as output", _weights_out, TOKENS, ("a.weight",), mixing=True),
    Case("transformer encoder layer", lambda: nn.Sequential(
        nn.Linear(6, 12), nn.TransformerEncoderLayer(12, 3, 20, batch_first=True), nn.Linear(12, 4)), TOKENS,
         ("0.weight", "1.linear1.weight", "1.self_attn.in_proj_weight", "1.norm1.weight", "2.weight:1"), mixing=True),
    Case("fused projection, attention by hand", _fused(lambda self, q, k, v: (q @ k.mT * 0.5).softmax(-1) @ v), TOKENS,
         ("a.weight", "qkv.weight", "proj.weight", "proj.weight:1")),
    Case("fused projection, scaled dot product", _fused(lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v)),
         TOKENS, ("a.weight", "qkv.weight", "proj.weight", "proj.weight:1")),
    Case("relative position bias", _fused(_biased), TOKENS, ("a.weight", "qkv.weight", "proj.weight", "table:1"),
        ("table",)),
    Case("grouped queries by repeat_interleave", _grouped(lambda x: x.repeat_interleave(2, 1)), TOKENS, SEPARATE),
    Case("grouped queries by expand", _grouped(_by_expand), TOKENS, SEPARATE),
    Case("grouped queries in the kernel", _enable_gqa, TOKENS, ("b.weight", "head.weight:1")),
    Case("separate projections by hand", _separate(_attend), TOKENS, SEPARATE),
    Case("separate projections, scaled dot product", _separate(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)), TOKENS,
            SEPARATE),
    Case("attention whose default scale comes from a pruned width", lambda: net(
        lambda self, x: (lambda y: self.head(F.scaled_dot_product_attention(y, y.sigmoid(), y)))(self.a(x)),
        a=nn.Linear(6, 8), head=nn.Linear(8, 4)), TOKENS, OUTER),
    Case("rotary positions", _rotary, TOKENS, ("q.weight", "k.weight", "v.weight", "head.weight:1")),
    Case("linear attention", _separate(_linear_attention), TOKENS, SEPARATE),
    Case("heads in the batch dim", _separate(_flattened_heads), TOKENS, SEPARATE),
)  # fmt: skip
