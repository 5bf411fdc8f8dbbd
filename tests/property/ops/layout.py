"""Changes of layout: from images to tokens and back, flatten, tables of channels."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from tests.property.ops.layers import divisors
from tests.property.programs import Builder, Kind, Value, op


@op("image")
def image_to_tokens(b: Builder, x: int) -> int | None:
    channels, height, width = b.values[x].shape
    name, compute = b.choose(
        [
            ("flatten, transpose", lambda y: y.flatten(2).transpose(1, 2)),
            ("nhwc, reshape", lambda y: y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, channels)),
            ("view by sizes", lambda y: y.contiguous().view(y.size(0), y.size(1), -1).permute(0, 2, 1)),
            ("literal", lambda y: y.reshape(-1, channels, height * width).mT),
        ]
    )
    return b.add(name, [x], Value("tokens", (height * width, channels)), compute)


@op("image")
def image_to_nhwc(b: Builder, x: int) -> int | None:
    channels, height, width = b.values[x].shape
    name, compute = b.choose([
        ("permute", lambda y: y.permute(0, 2, 3, 1)), ("movedim", lambda y: y.movedim(1, -1)),
        ("contiguous", lambda y: y.permute(0, 2, 3, 1).contiguous()),
    ])  # fmt: skip
    return b.add(name, [x], Value("nhwc", (height, width, channels)), compute)


@op("nhwc")
def nhwc_to_image(b: Builder, x: int) -> int | None:
    height, width, channels = b.values[x].shape
    return b.add("permute", [x], Value("image", (channels, height, width)), lambda y: torch.permute(y, (0, 3, 1, 2)))


@op("nhwc")
def nhwc_to_tokens(b: Builder, x: int) -> int | None:
    height, width, channels = b.values[x].shape
    compute = b.choose([lambda y: y.flatten(1, 2), lambda y: y.view(y.shape[0], height * width, y.shape[-1])])
    return b.add("flatten(1, 2)", [x], Value("tokens", (height * width, channels)), compute)


@op("tokens")
def tokens_to_image(b: Builder, x: int) -> int | None:
    length, width = b.values[x].shape
    side = b.choose([1, *divisors(length)])
    name, compute = b.choose(
        [
            ("unflatten", lambda y: y.transpose(1, 2).unflatten(2, (length // side, side))),
            ("reshape", lambda y: y.permute(0, 2, 1).reshape(y.shape[0], width, length // side, side)),
            ("view", lambda y: y.view(-1, length // side, side, width).permute(0, 3, 1, 2)),
        ]
    )
    return b.add(name, [x], Value("image", (width, length // side, side)), compute)


@op("tokens", "sequence")
def turn(b: Builder, x: int) -> int | None:
    """Tokens and sequences are each other's transpose."""
    value = b.values[x]
    compute = b.choose([lambda y: y.transpose(1, 2), lambda y: y.swapaxes(-1, -2), lambda y: y.mT.contiguous()])
    kind: Kind = "sequence" if value.kind == "tokens" else "tokens"
    return b.add("transpose", [x], Value(kind, value.shape[::-1]), compute)


@op("image", "volume")
def image_and_volume(b: Builder, x: int) -> int | None:
    """Another dim of positions, or one less."""
    value = b.values[x]
    channels, *size = value.shape
    if value.kind == "image":
        return b.add("unsqueeze(2)", [x], Value("volume", (channels, 1, *size)), lambda y: y.unsqueeze(2))
    name, compute, result = b.choose(
        [
            ("flatten(2, 3)", lambda y: y.flatten(2, 3), Value("image", (channels, size[0] * size[1], size[2]))),
            ("[:, :, 0]", lambda y: y[:, :, 0], Value("image", (channels, size[1], size[2]))),
            ("mean(2)", lambda y: y.mean(2), Value("image", (channels, size[1], size[2]))),
            ("into channels", lambda y: y.flatten(1, 2), Value("image", (channels * size[0], size[1], size[2]))),
        ]
    )
    return b.add(name, [x], result, compute)


@op("tokens")
def one_token(b: Builder, x: int) -> int | None:
    length, width = b.values[x].shape
    index = b.below(length)
    compute = b.choose([lambda y: y[:, index], lambda y: y.select(1, index), lambda y: y.unbind(1)[index]])
    return b.add(f"token {index}", [x], Value("features", (width,)), compute)


@op()
def flatten(b: Builder, x: int) -> int | None:
    value = b.values[x]
    if value.kind == "features":
        return None
    size = prod(value.shape)
    name, compute = b.choose([
        ("flatten", lambda y: y.flatten(1)), ("view", lambda y: y.reshape(y.size(0), -1)),
        ("last first", lambda y: y.movedim(-1, 1).flatten(1)), ("literal", lambda y: y.reshape(-1, size)),
        ("by sizes", lambda y: torch.reshape(y, (y.shape[0], y[0].numel()))),
    ])  # fmt: skip
    return b.add(name, [x], Value("features", (size,)), compute)


@op("image", "tokens", "sequence", "nhwc", "volume")
def there_and_back(b: Builder, x: int) -> int | None:
    """Flattened into one dim of positions, and back by sizes that are read at run time."""
    value = b.values[x]
    channels_first = value.dim == 1

    def by_shape(y: Tensor) -> Tensor:
        shape = y.shape
        return y.reshape(shape[0], -1, shape[-1]).relu().view(shape)

    def by_star(y: Tensor) -> Tensor:
        return y.reshape(y.shape[0], -1).sigmoid().reshape(*y.shape)

    def by_size(y: Tensor) -> Tensor:
        n, last = y.size(0), y.size(-1)
        rest = y.numel() // (n * last)
        return (y.contiguous().view(n, rest, last) * 2).view(y.size())

    def by_view_as(y: Tensor) -> Tensor:
        return y.flatten(1).tanh().view_as(y)

    def scaled(y: Tensor) -> Any:
        return y * y.shape[1 if channels_first else -1] ** -0.5

    def by_list(y: Tensor) -> Tensor:
        return torch.reshape(y.flatten(), [-1, *value.shape])

    name, compute = b.choose([
        ("by shape", by_shape), ("by *shape", by_star), ("by size", by_size), ("by view_as", by_view_as),
        ("scaled by the width", scaled), ("by list", by_list),
    ])  # fmt: skip
    return b.map(f"there and back {name}", x, compute)


@op("features", mixing=True)
def features_to_image(b: Builder, x: int) -> int | None:
    """Channels become positions as well, over which later ops may take statistics."""
    (width,) = b.values[x].shape
    side = b.choose([1, *divisors(width)])
    name, compute = b.choose(
        [
            ("view", lambda y: y.view(-1, width // side, side, 1)),
            ("[..., None]", lambda y: y.unflatten(1, (-1, side))[..., None]),
            ("unflatten", lambda y: y.unflatten(1, (width // side, side, 1))),
        ]
    )
    return b.add(f"{name} {side}", [x], Value("image", (width // side, side, 1)), compute)


@op("features", mixing=True)
def features_to_tokens(b: Builder, x: int) -> int | None:
    """Likewise."""
    (width,) = b.values[x].shape
    length = b.choose([1, *divisors(width)])
    compute = b.choose([lambda y: y.view(y.shape[0], length, -1), lambda y: y.reshape(-1, length, width // length)])
    return b.add(f"{length} tokens", [x], Value("tokens", (length, width // length)), compute)


@op()
def regroup(b: Builder, x: int) -> int | None:
    """The channels as a table, transposed and flat again."""
    value = b.values[x]
    dim, width = value.dim, value.width
    if not divisors(width):
        return None
    rows = b.choose(divisors(width))
    return b.map(
        f"regroup {rows}",
        x,
        lambda y: y.unflatten(dim, (rows, width // rows)).transpose(dim, dim + 1).flatten(dim, dim + 1),
    )


@op(mixing=True)
def reduced_table(b: Builder, x: int) -> int | None:
    """The channels as a table, of which rows or columns are added up."""
    value = b.values[x]
    dim, width = value.dim, value.width
    if not divisors(width):
        return None
    rows, of_rows = b.choose(divisors(width)), b.below(2)
    name, reduce = b.choose([("sum", torch.sum), ("mean", torch.mean), ("amax", torch.amax)])
    result = value.resized(width // rows if of_rows else rows)
    at = dim if of_rows else dim + 1
    return b.add(
        f"{name} of {'rows' if of_rows else 'columns'} of {rows}",
        [x],
        result,
        lambda y: reduce(y.unflatten(dim, (rows, width // rows)), at),
    )


@op()
def squeezed(b: Builder, x: int) -> int | None:
    """Dims of size 1 come and go."""
    value = b.values[x]
    dim = value.dim
    name, compute = b.choose([
        ("unsqueeze, squeeze", lambda y: y.unsqueeze(dim).squeeze(dim)),
        ("squeeze of nothing", lambda y: y.squeeze(dim) if value.width > 1 else y),
        ("[None], [0]", lambda y: y.unsqueeze(0)[0]), ("[..., None], squeeze(-1)", lambda y: y[..., None].squeeze(-1)),
        ("expand", lambda y: y.unsqueeze(1).expand(-1, 2, *[-1] * len(value.shape)).sum(1)),
        ("in place", lambda y: y.clone().unsqueeze_(dim).transpose_(dim, dim + 1).squeeze_(dim + 1)),
    ])  # fmt: skip
    return b.map(name, x, compute)


@op("image")
def windows(b: Builder, x: int) -> int | None:
    """Window partition: each window becomes a sample, and comes back."""
    _, height, width = b.values[x].shape
    if height % 2 or width % 2:
        return None

    def part(y: Tensor) -> Tensor:
        n, c, h, w = y.shape
        z = y.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
        z = z - z.mean(1, keepdim=True)
        return z.view(n, h // 2, w // 2, 2, 2, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)

    return b.map("windows", x, part)
