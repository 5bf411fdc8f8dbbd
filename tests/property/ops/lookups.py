"""Lookups, writes by index, windows and ops over pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.property.ops.parts import around
from tests.property.programs import Builder, Value, op


def _offsets(length: int) -> Tensor:
    """What tells tokens apart: equal ones would leave a choice, or a variance of 0, to roundings."""
    return 0.1 * torch.arange(length, dtype=torch.float64).view(1, length, 1)


@op("image")
def windows_as_columns(b: Builder, x: int) -> int | None:
    """``unfold``, and back by ``fold``."""
    channels, height, width = b.values[x].shape
    if min(height, width) < 2:
        return None
    positions = (height - 1) * (width - 1)
    if b.below(2):
        rows = Value("sequence", (channels * 4, positions))
        return b.add("unfold 2", [x], rows, lambda y: F.unfold(y, 2))
    return b.map("unfold and fold", x, lambda y: F.fold(F.unfold(y, 2).tanh(), (height, width), 2))


@op("sequence", "tokens", "image")
def overlapping_windows(b: Builder, x: int) -> int | None:
    """``Tensor.unfold`` along the positions, or along the channels."""
    value = b.values[x]
    dim = b.choose([value.spatial[0], value.dim])
    if value.shape[dim - 1] < 3:
        return None
    shape = list(value.shape)
    shape[dim - 1] -= 1
    return b.add(f"windows({dim})", [x], Value(value.kind, tuple(shape)), lambda y: y.unfold(dim, 2, 1).mean(-1))


@op("tokens")
def rows_by_index(b: Builder, x: int) -> int | None:
    """Positions that a buffer or the data chooses."""
    length = b.values[x].shape[0]
    order = b.store(torch.tensor([(2 * index + 1) % length for index in range(length)]))

    def by_gather(i: Tensor, y: Tensor) -> Tensor:
        return y.gather(1, i[None, :, None].expand(y.shape[0], length, y.shape[2]))

    def by_data(i: Tensor, y: Tensor) -> Tensor:
        return y.gather(1, y.argsort(1)) + 0 * i[0]

    def added(i: Tensor, y: Tensor) -> Tensor:
        return y.index_add(1, i, y.tanh())

    def copied(i: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(y).index_copy(1, i[:1], y[:, :1])

    def scattered(i: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(y).scatter_add(1, i[None, :, None].expand(y.shape), y.tanh())

    def put(i: Tensor, y: Tensor) -> Tensor:
        z = y.transpose(0, 1).index_put((i[:1],), y[:, 0] * 2).transpose(0, 1)
        return z + y.take_along_dim(i[None, :, None], 1)

    name, compute = b.choose([
        ("gather", by_gather), ("argsort", by_data), ("index_add", added), ("index_copy", copied),
        ("scatter_add", scattered), ("index_put", put),
    ])  # fmt: skip
    return b.map(name, x, compute, order)


@op()
def written_by_index(b: Builder, x: int) -> int | None:
    """Constant channels, or all that a mask names, are written to."""
    value = b.values[x]
    dim, width = value.dim, value.width
    if width < 2:
        return None
    place = [b.below(width), b.below(width)]

    def fill(y: Tensor) -> Tensor:
        return y.index_fill(dim, torch.tensor(place), 0.5)

    def masked(y: Tensor) -> Tensor:
        return y.masked_fill(y > 0.5, 2.0)

    def scattered(y: Tensor) -> Tensor:
        part = y[around(dim, slice(None, 1))]
        return torch.slice_scatter(y, part * 2, dim, place[0], place[0] + 1)

    def selected(y: Tensor) -> Tensor:
        return torch.select_scatter(y, y.select(dim, place[0]).sigmoid(), dim, place[1])

    name, compute = b.choose(
        [("fill", fill), ("mask", masked), ("slice_scatter", scattered), ("select_scatter", selected)]
    )
    return b.map(f"{name} {place}", x, compute)


@op("tokens")
def sorted_positions(b: Builder, x: int) -> int | None:
    length, width = b.values[x].shape
    offsets = _offsets(length)
    name, compute, left = b.choose([
        ("sort", lambda y: y.sort(1)[0], length), ("topk", lambda y: y.topk(1, 1)[0], 1),
        ("median", lambda y: y.median(1, keepdim=True)[0], 1), ("cummax", lambda y: y.cummax(1)[0], length),
        ("kthvalue", lambda y: y.kthvalue(1, 1, keepdim=True)[0], 1),
        ("argmin", lambda y: y[:, :1] * (y + offsets).argmin(1, keepdim=True), 1),
    ])  # fmt: skip
    return b.add(name, [x], Value("tokens", (left, width)), compute)


@op("tokens", "image", "sequence")
def spectrum(b: Builder, x: int) -> int | None:
    value = b.values[x]
    dim = value.spatial[0]
    name, compute = b.choose(
        [
            ("fft", lambda y: torch.fft.fft(y, dim=dim).abs()),
            ("rfft", lambda y: torch.fft.irfft(torch.fft.rfft(y, dim=dim), value.shape[dim - 1], dim=dim)),
            ("fft over channels", lambda y: torch.fft.fft(y, dim=value.dim).real),
            ("complex", lambda y: (torch.complex(y, y.tanh()) * torch.complex(y * 2, y)).conj().imag),
        ]
    )
    return b.map(name, x, compute)


@op("tokens", mixing=True)
def distances(b: Builder, x: int) -> int | None:
    """Between all pairs of positions."""
    length, width = b.values[x].shape
    other = b.choose([index for index, each in enumerate(b.values) if each.kind == "tokens" and each.shape[1] == width])
    offsets = _offsets(b.values[other].shape[0])
    result = Value("tokens", (length, b.values[other].shape[0]))
    name, compute = b.choose([
        ("cdist", lambda y, z: torch.cdist(y, z.sigmoid())), ("product", lambda y, z: y.sigmoid() @ z.sigmoid().mT),
        ("cosine", lambda y, z: F.normalize(y, dim=-1, eps=0.1) @ F.normalize(z + offsets, dim=-1, eps=0.1).mT),
    ])  # fmt: skip
    return b.add(name, [x, other], result, compute)


@op("image")
def unpooled(b: Builder, x: int) -> int | None:
    _, height, width = b.values[x].shape
    if height % 2 or width % 2:
        return None

    def compute(y: Tensor) -> Tensor:
        pooled, where = F.max_pool2d(y, 2, return_indices=True)
        return F.max_unpool2d(pooled.tanh(), where, [2, 2])

    return b.map("max_unpool2d", x, compute)


@op("ids")
def bag(b: Builder, x: int) -> int | None:
    """The mean of embeddings."""
    weight = b.parameter(9, 6)
    return b.add("embedding_bag", [x], Value("features", (6,)), lambda w, i: F.embedding_bag(i, w), weight)
