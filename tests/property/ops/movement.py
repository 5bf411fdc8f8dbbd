"""Movement of whole tensors: concatenation, other orders, copies, padding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.property.ops.layers import divisors
from tests.property.ops.parts import around
from tests.property.programs import Builder, Value, op


@op()
def concat(b: Builder, x: int) -> int | None:
    value = b.values[x]
    others = [b.choose(b.joinable(x)) for _ in range(b.choose([1, 2]))]
    width = value.width + sum(b.values[other].width for other in others)
    dim = b.choose([value.dim, value.dim - len(value.shape) - 1])
    return b.add(f"cat({dim})", [x, *others], value.resized(width), lambda *y: torch.cat(y, dim))


@op("image", "tokens")
def concat_with_constants(b: Builder, x: int) -> int | None:
    """Channels that the program makes itself: coordinates, ones."""
    value = b.values[x]
    dim = value.dim

    def ones(y: Tensor) -> Tensor:
        return torch.cat([y, torch.ones_like(y[around(dim, slice(None, 1))])], dim)

    def zeros(y: Tensor) -> Tensor:
        shape = [y.shape[0], *value.resized(1).shape]
        return torch.cat([y.new_zeros(shape), y], dim)

    return b.add("cat constants", [x], value.resized(value.width + 1), b.choose([ones, zeros]))


@op("tokens")
def concat_tokens(b: Builder, x: int) -> int | None:
    length, width = b.values[x].shape
    fits = [other for other, value in enumerate(b.values) if value.kind == "tokens" and value.width == width]
    other = b.choose(fits)
    result = Value("tokens", (length + b.values[other].shape[0], width))
    return b.add("cat(1)", [x, other], result, lambda y, z: torch.cat([y, z], 1))


@op()
def stack_and_flatten(b: Builder, x: int) -> int | None:
    """Interleaves two values, or puts one after the other."""
    value = b.values[x]
    dim = value.dim
    at = b.choose([dim, dim + 1])
    result = value.resized(2 * value.width)
    return b.add(
        f"stack({at})", [x, b.choose(b.alike(x))], result, lambda y, z: torch.stack([y, z], at).flatten(dim, dim + 1)
    )


@op()
def reorder(b: Builder, x: int) -> int | None:
    value = b.values[x]
    dim, width = value.dim, value.width
    shift = b.below(width)
    order = [(index * (width - 1) + shift) % width for index in range(width)]
    some = [order[b.below(width)] for _ in range(b.choose([width, width - 1, width + 1]) or 1)]
    name, result, compute = b.choose([
        ("flip", width, lambda y: y.flip(dim)), (f"roll {shift}", width, lambda y: y.roll(shift, dim)),
        (f"roll -{shift}", width, lambda y: torch.roll(y, (-shift,), (dim,))),
        (f"index_select {order}", width, lambda y: y.index_select(dim, torch.tensor(order))),
        (f"index {order}", width, lambda y: y[around(dim, order)]),
        (f"index_select {some}", len(some), lambda y: torch.index_select(y, dim, torch.tensor(some))),
        (f"index {some}", len(some), lambda y: y[around(dim, torch.tensor(some))]),
        ("flip, add", width, lambda y: y + torch.flip(y, (dim,))),
        ("roll of two dims", width, lambda y: torch.roll(y, (1, shift), (len(value.shape), dim))),
    ])  # fmt: skip
    return b.add(name, [x], value.resized(result), compute)


@op()
def order_from_a_buffer(b: Builder, x: int) -> int | None:
    value = b.values[x]
    dim, width = value.dim, value.width
    order = b.store(torch.tensor([(index * 3 + 1) % width for index in range(width)]))
    compute = b.choose([lambda i, y: y.index_select(dim, i), lambda i, y: y[around(dim, i)]])
    return b.map("permutation in a buffer", x, compute, order)


@op()
def repeat(b: Builder, x: int) -> int | None:
    value = b.values[x]
    dim, width = value.dim, value.width
    counts = [1] * (len(value.shape) + 1)
    counts[dim] = 2
    copies = [-1] * (dim + 1) + [2] + [-1] * (len(value.shape) - dim)

    def by_expand(y: Tensor) -> Tensor:
        return y.unsqueeze(dim + 1).expand(copies).flatten(dim, dim + 1)

    name, compute = b.choose([
        ("repeat", lambda y: y.repeat(counts)), ("repeat_interleave", lambda y: y.repeat_interleave(2, dim)),
        ("cat with itself", lambda y: torch.cat([y, y], dim)), ("tile", lambda y: torch.tile(y, counts)),
        ("expand", by_expand),
    ])  # fmt: skip
    return b.add(name, [x], value.resized(2 * width), compute)


@op("features", mixing=True)
def spread(b: Builder, x: int) -> int | None:
    """Copies features to every position; how many copies there are is free, and shows in a mean over them."""
    (width,) = b.values[x].shape
    name, kind, compute = b.choose(
        [
            ("expand", "tokens", lambda y: y.unsqueeze(1).expand(-1, 3, -1)),
            ("repeat", "tokens", lambda y: y[:, None].repeat(1, 3, 1)),
            ("expand", "sequence", lambda y: y.unsqueeze(-1).expand(-1, -1, 3)),
            ("literal expand", "sequence", lambda y: y.unsqueeze(-1).expand(y.shape[0], width, 3)),
        ]
    )
    return b.add(f"{name} to {kind}", [x], Value(kind, (3, width) if kind == "tokens" else (width, 3)), compute)


@op("image")
def channel_shuffle(b: Builder, x: int) -> int | None:
    channels, height, width = b.values[x].shape
    if not divisors(channels):
        return None
    groups = b.choose(divisors(channels))

    def by_view(y: Tensor) -> Tensor:
        return y.view(-1, groups, channels // groups, height, width).transpose(1, 2).reshape(y.shape)

    def by_size(y: Tensor) -> Tensor:
        n, c, h, w = y.size()
        return y.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)

    return b.map(f"shuffle {groups}", x, b.choose([by_view, by_size, lambda y: F.channel_shuffle(y, groups)]))


@op("image")
def pixel_shuffle(b: Builder, x: int) -> int | None:
    channels, height, width = b.values[x].shape
    if channels % 4 == 0 and b.below(3):
        result = Value("image", (channels // 4, 2 * height, 2 * width))
        return b.add("pixel_shuffle", [x], result, lambda y: F.pixel_shuffle(y, 2))
    if height % 2 == 0 and width % 2 == 0:
        compute = b.choose([lambda y: F.pixel_unshuffle(y, 2), lambda y: torch.cat(
            [y[..., ::2, ::2], y[..., 1::2, ::2], y[..., ::2, 1::2], y[..., 1::2, 1::2]], 1)])  # fmt: skip
        return b.add("space to depth", [x], Value("image", (channels * 4, height // 2, width // 2)), compute)
    return None


@op()
def pad_channels(b: Builder, x: int) -> int | None:
    value = b.values[x]
    before, after, number = b.below(3), b.below(3), b.choose([0.0, 0.5])
    amounts = [0, 0] * (len(value.shape) - value.dim) + [before, after]
    return b.add(
        f"pad {amounts} with {number}",
        [x],
        value.resized(value.width + before + after),
        lambda y: F.pad(y, amounts, value=number),
    )


@op()
def crop_channels(b: Builder, x: int) -> int | None:
    """Padding by a negative amount."""
    value = b.values[x]
    if value.width < 2:
        return None
    amounts = [0, 0] * (len(value.shape) - value.dim) + [b.choose([0, 1]), -1]
    return b.add(f"pad {amounts}", [x], value.resized(value.width + sum(amounts)), lambda y: F.pad(y, amounts))
