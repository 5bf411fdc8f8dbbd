"""Attention in its many spellings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.property.ops.layers import divisors
from tests.property.programs import Builder, Value, op, project


def heads_of(x: Tensor, count: int) -> Tensor:
    """``(N, L, E)`` as ``(N, heads, L, E / heads)``."""
    return x.view(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    """``(N, heads, L, E / heads)`` as ``(N, L, E)``."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Products and a softmax."""
    result: Tensor = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
    return result


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same by einsum, with a causal mask."""
    scores = torch.einsum("nhld,nhsd->nhls", q, k) * 0.5
    hidden = torch.ones_like(scores[0, 0]).triu(1) > 0
    return torch.einsum("nhls,nhsd->nhld", scores.masked_fill(hidden, float("-inf")).softmax(-1), v)


def in_the_batch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Batch and heads in one dim."""
    n, h, length, size = q.shape
    q, k, v = (each.reshape(n * h, length, size) for each in (q, k, v))
    return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).view(n, h, length, size)


ATTENTIONS = (
    ("by hand", by_hand),
    ("by einsum", by_einsum),
    ("in the batch", in_the_batch),
    ("fused", lambda q, k, v: F.scaled_dot_product_attention(q, k, v)),
    ("fused, causal", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7)),
)


@op("tokens")
def multihead(b: Builder, x: int) -> int | None:
    value = b.values[x]
    layer = b.store(nn.MultiheadAttention(value.width, b.choose([1, *divisors(value.width)]), batch_first=True))
    return b.map("self-attention", x, lambda module, y: module(y, y, y, need_weights=False)[0], layer)


@op("tokens")
def multihead_cross(b: Builder, x: int) -> int | None:
    """Keys and values of another width."""
    value = b.values[x]
    other = b.choose([index for index, each in enumerate(b.values) if each.kind == "tokens"])
    width, heads = b.values[other].width, b.choose([1, *divisors(value.width)])
    layer = b.store(nn.MultiheadAttention(value.width, heads, kdim=width, vdim=width, batch_first=True))
    return b.add("cross-attention", [x, other], value, lambda module, y, z: module(y, z, z)[0], layer)


@op("tokens", mixing=True)
def encoder_layer(b: Builder, x: int) -> int | None:
    value = b.values[x]
    heads = b.choose([1, *divisors(value.width)])
    layer = nn.TransformerEncoderLayer(value.width, heads, 5, batch_first=True, norm_first=bool(b.below(2)))
    return b.add_layer(layer, x, value)


@op("tokens")
def fused_projection(b: Builder, x: int) -> int | None:
    """One layer for queries, keys and values."""
    length = b.values[x].shape[0]
    heads, size = b.choose([1, 2, 3]), b.choose([2, 4])
    qkv = project(b, x, 3 * heads * size)
    name, attend = b.choose(ATTENTIONS)

    def by_unbind(y: Tensor) -> Tensor:
        q, k, v = y.reshape(y.shape[0], length, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        return merged(attend(q, k, v))

    def by_chunk(y: Tensor) -> Tensor:
        q, k, v = y.chunk(3, -1)
        return merged(attend(heads_of(q, heads), heads_of(k, heads), heads_of(v, heads)))

    compute = b.choose([by_unbind, by_chunk])
    return b.add(f"attend {name} {heads}x{size}", [qkv], Value("tokens", (length, heads * size)), compute)


@op("tokens")
def grouped_queries(b: Builder, x: int) -> int | None:
    """Four heads of queries over two of keys and values."""
    length = b.values[x].shape[0]
    q, k, v = project(b, x, 8), project(b, x, 4), project(b, x, 4)
    name, attend = b.choose(ATTENTIONS)

    def by_expand(y: Tensor) -> Tensor:
        n, count, length, size = y.shape
        return y[:, :, None].expand(n, count, 2, length, size).reshape(n, count * 2, length, size)

    spread = b.choose([by_expand, lambda y: y.repeat_interleave(2, 1)])
    result = Value("tokens", (length, 8))
    if b.below(4) == 0:
        return b.add("enable_gqa", [q, k, v], result, lambda q, k, v: merged(F.scaled_dot_product_attention(
            heads_of(q, 4), heads_of(k, 2), heads_of(v, 2), enable_gqa=True)))  # fmt: skip
    return b.add(
        f"grouped {name}",
        [q, k, v],
        result,
        lambda q, k, v: merged(attend(heads_of(q, 4), spread(heads_of(k, 2)), spread(heads_of(v, 2)))),
    )


@op("tokens")
def biased_attention(b: Builder, x: int) -> int | None:
    """Relative positions from a table, and a mask from a buffer."""
    length = b.values[x].shape[0]
    qkv = project(b, x, 18)
    table = b.parameter(2 * length - 1, 3)
    place = b.store(torch.arange(length)[:, None] - torch.arange(length)[None] + length - 1)

    def attend(t: Tensor, i: Tensor, y: Tensor) -> Tensor:
        q, k, v = y.reshape(y.shape[0], length, 3, 3, 2).permute(2, 0, 3, 1, 4).unbind(0)
        bias = t[i.view(-1)].view(length, length, -1).permute(2, 0, 1)
        return merged((q @ k.mT * 0.5 + bias.unsqueeze(0)).softmax(-1) @ v)

    return b.add("relative attention", [qkv], Value("tokens", (length, 6)), attend, table, place)


@op("tokens")
def rotary(b: Builder, x: int) -> int | None:
    length = b.values[x].shape[0]
    q, k, v = (project(b, x, 8) for _ in range(3))
    angle = b.store(torch.outer(torch.arange(length).float(), torch.tensor([1.0, 0.1])).repeat(1, 2))

    def turned(y: Tensor, a: Tensor) -> Tensor:
        first, second = y.chunk(2, -1)
        return y * a.cos() + torch.cat((-second, first), -1) * a.sin()

    def attend(a: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return merged(by_hand(turned(heads_of(q, 2), a), turned(heads_of(k, 2), a), heads_of(v, 2)))

    return b.add("rotary", [q, k, v], Value("tokens", (length, 8)), attend, angle)


@op("tokens", mixing=True)
def attention_of_norms(b: Builder, x: int) -> int | None:
    """Queries and keys normalised, one attention over channels, one linear in the length."""
    length = b.values[x].shape[0]
    q, k, v = (project(b, x, 6) for _ in range(3))

    def normed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return merged(by_hand(F.layer_norm(heads_of(q, 2), (3,)), F.normalize(heads_of(k, 2), dim=-1), heads_of(v, 2)))

    def over_channels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (heads_of(each, 2).transpose(-1, -2) for each in (q, k, v))
        return merged(((q @ k.mT).softmax(-1) @ v).transpose(-1, -2))

    def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (heads_of(each, 2) for each in (q, k, v))
        return merged((F.elu(q) + 1) @ (k.softmax(-2).mT @ v))

    name, attend = b.choose([("normed", normed), ("over channels", over_channels), ("linear", linear)])
    return b.add(f"attend {name}", [q, k, v], Value("tokens", (length, 6)), attend)


@op("image")
def window_attention(b: Builder, x: int) -> int | None:
    _, height, width = b.values[x].shape
    if height % 2 or width % 2:
        return None
    qkv = project(b, x, 12)

    def attend(y: Tensor) -> Tensor:
        n, c, h, w = y.shape
        z = y.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
        q, k, v = z.chunk(3, -1)
        z = merged(by_hand(heads_of(q, 2), heads_of(k, 2), heads_of(v, 2)))
        return z.view(n, h // 2, w // 2, 2, 2, 4).permute(0, 5, 1, 3, 2, 4).reshape(n, 4, h, w)

    return b.add("window attention", [qkv], Value("image", (4, height, width)), attend)
