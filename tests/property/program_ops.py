"""The ops of random programs: each adds itself to a builder where it suits a value."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.property.programs import Builder, Shape

Op = Callable[[Builder, int], int | None]
OPS: list[Op] = []


def op(rank: int) -> Callable[[Op], Op]:
    """Registers an op for values of a rank (3 images, 2 tokens, 1 features, 0 any)."""

    def register(function: Op) -> Op:
        def suited(builder: Builder, value: int) -> int | None:
            return function(builder, value) if rank in (0, len(builder.shapes[value])) else None

        suited.__name__ = function.__name__
        OPS.append(suited)
        return suited

    return register


def dim_of(shape: Shape) -> int:
    """The dim of the channels, counted with the batch."""
    return 1 if len(shape) == 3 else len(shape)


def width_of(shape: Shape) -> int:
    """The number of channels."""
    return shape[0] if len(shape) == 3 else shape[-1]


def resized(shape: Shape, width: int) -> Shape:
    """The shape with another number of channels."""
    return (width, *shape[1:]) if len(shape) == 3 else (*shape[:-1], width)


def divisors(number: int) -> list[int]:
    """Divisors between 1 and the number itself."""
    return [each for each in range(2, number) if number % each == 0]


# Layers


@op(3)
def convolution(b: Builder, x: int) -> int | None:
    channels, height, width = b.shapes[x]
    groups = b.choose([1, 1, *divisors(channels)])
    out = groups * b.choose([1, 2, 3]) if groups > 1 else b.choose([3, 4, 6, 8])
    stride = b.choose([1, 1, 2])
    layer = nn.Conv2d(channels, out, 3, stride, padding=1, groups=groups, bias=bool(b.below(2)))
    return b.add_layer(layer, x, (out, -(-height // stride), -(-width // stride)))


@op(3)
def depthwise(b: Builder, x: int) -> int | None:
    channels, *size = b.shapes[x]
    times = b.choose([1, 1, 2])
    return b.add_layer(nn.Conv2d(channels, channels * times, 3, padding=1, groups=channels), x, (channels * times,
        *size))


@op(3)
def transposed(b: Builder, x: int) -> int | None:
    channels, height, width = b.shapes[x]
    groups = b.choose([1, 1, channels, *divisors(channels)])
    out = groups * b.choose([1, 2]) if groups > 1 else b.choose([4, 6])
    layer = nn.ConvTranspose2d(channels, out, 2, groups=groups)
    return b.add_layer(layer, x, (out, height + 1, width + 1))


@op(0)
def linear(b: Builder, x: int) -> int | None:
    shape = b.shapes[x]
    if len(shape) == 3:
        return b.add_layer(nn.Conv2d(shape[0], 6, 1), x, (6, *shape[1:]))
    out = b.choose([4, 6, 8, 12])
    return b.add_layer(nn.Linear(shape[-1], out, bias=bool(b.below(2))), x, resized(shape, out))


@op(3)
def norm_of_images(b: Builder, x: int) -> int | None:
    channels, *size = b.shapes[x]
    groups = b.choose([1, channels, *divisors(channels)])
    options = [nn.BatchNorm2d(channels), nn.GroupNorm(groups, channels), nn.LayerNorm([channels, *size])]
    if size[0] * size[1] > 1:
        options.append(nn.InstanceNorm2d(channels, affine=True))
    return b.add_layer(b.choose(options), x, b.shapes[x])


@op(2)
def norm_of_tokens(b: Builder, x: int) -> int | None:
    width = b.shapes[x][-1]
    return b.add_layer(b.choose([nn.LayerNorm(width), nn.RMSNorm(width), nn.PReLU()]), x, b.shapes[x])


@op(1)
def norm_of_features(b: Builder, x: int) -> int | None:
    return b.add_layer(b.choose([nn.BatchNorm1d(b.shapes[x][0]), nn.LayerNorm(b.shapes[x][0])]), x, b.shapes[x])


@op(2)
def attention(b: Builder, x: int) -> int | None:
    width = b.shapes[x][-1]
    heads = b.choose([1, *divisors(width)])
    layer = nn.MultiheadAttention(width, heads, batch_first=True)
    value = b.add_layer(layer, x, b.shapes[x])
    b.steps[-1].compute = lambda module, y: module(y, y, y, need_weights=False)[0]
    return value


@op(2)
def fused_attention(b: Builder, x: int) -> int | None:
    length, width = b.shapes[x]
    heads, size = b.choose([1, 2, 3]), b.choose([2, 4])
    qkv = b.add_layer(nn.Linear(width, 3 * heads * size), x, (length, 3 * heads * size))

    def attend(y: Tensor) -> Tensor:
        q, k, v = y.reshape(y.shape[0], length, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        out = functional.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).reshape(y.shape[0], length, -1)

    return b.add(f"attend {heads}x{size}", [qkv], (length, heads * size), attend)


@op(0)
def shared_layer(b: Builder, x: int) -> int | None:
    """Calls an earlier layer again, where it keeps the shape."""
    known = {str(b.shapes[x]): None}
    names = [
        step.layer
        for index, step in enumerate(b.steps)
        if step.layer and str(b.shapes[index + 1]) in known and b.shapes[step.inputs[0]] == b.shapes[x]
        and not isinstance(b.layers[step.layer], nn.MultiheadAttention)
    ]  # fmt: skip
    return b.add_shared(b.choose(names), x) if names else None


# Elementwise and reductions


@op(0)
def activation(b: Builder, x: int) -> int | None:
    name = b.choose(["relu", "sigmoid", "gelu", "silu", "tanh", "hardswish"])
    return b.add(name, [x], b.shapes[x], getattr(functional, name))


@op(0)
def residual(b: Builder, x: int) -> int | None:
    same = [other for other in range(1, len(b.shapes)) if b.shapes[other] == b.shapes[x]]
    return b.add("add", [x, b.choose(same)], b.shapes[x], lambda y, z: y + z)


@op(0)
def product(b: Builder, x: int) -> int | None:
    same = [other for other in range(1, len(b.shapes)) if b.shapes[other] == b.shapes[x]]
    return b.add("gate", [x, b.choose(same)], b.shapes[x], lambda y, z: y * torch.sigmoid(z))


@op(3)
def squeeze_excite(b: Builder, x: int) -> int | None:
    channels = b.shapes[x][0]
    pooled = b.add("pool", [x], (channels, 1, 1), lambda y: y.mean((2, 3), keepdim=True))
    down = b.add_layer(nn.Conv2d(channels, 3, 1), pooled, (3, 1, 1))
    up = b.add_layer(nn.Conv2d(3, channels, 1), down, (channels, 1, 1))
    return b.add("scale", [x, up], b.shapes[x], lambda y, scale: y * torch.sigmoid(scale))


@op(0)
def over_channels(b: Builder, x: int) -> int | None:
    """Statistics over the channels."""
    dim = dim_of(b.shapes[x])
    name, compute = b.choose([
        ("softmax", lambda y: y.softmax(dim)), ("centre", lambda y: y - y.mean(dim, keepdim=True)),
        ("amax", lambda y: y * y.amax(dim, keepdim=True).sigmoid()), ("unit", lambda y: functional.normalize(y,
            dim=dim)),
    ])  # fmt: skip
    return b.add(name, [x], b.shapes[x], compute)


@op(3)
def pooling(b: Builder, x: int) -> int | None:
    channels, height, width = b.shapes[x]
    if min(height, width) < 2:
        return None
    pool = b.choose([functional.max_pool2d, functional.avg_pool2d])
    return b.add("pool 2", [x], (channels, height // 2, width // 2), lambda y: pool(y, 2))


@op(3)
def upsample(b: Builder, x: int) -> int | None:
    channels, height, width = b.shapes[x]
    return b.add("upsample", [x], (channels, 2 * height, 2 * width), lambda y: functional.interpolate(y,
        scale_factor=2.0))


@op(0)
def mean_over_positions(b: Builder, x: int) -> int | None:
    shape = b.shapes[x]
    dims = tuple(dim for dim in range(1, len(shape) + 1) if dim != dim_of(shape))
    return b.add(f"mean{dims}", [x], (width_of(shape),), lambda y: y.mean(dims)) if dims else None


# Movement of channels


@op(0)
def concat(b: Builder, x: int) -> int | None:
    shape = b.shapes[x]
    fits = [other for other in b.recent(len(shape)) if resized(b.shapes[other], 0) == resized(shape, 0)]
    if not fits:
        return None
    others = [b.choose(fits) for _ in range(b.choose([1, 2]))]
    width = width_of(shape) + sum(width_of(b.shapes[other]) for other in others)
    dim = dim_of(shape)
    return b.add(f"cat({dim})", [x, *others], resized(shape, width), lambda *y: torch.cat(y, dim))


@op(2)
def concat_tokens(b: Builder, x: int) -> int | None:
    length, width = b.shapes[x]
    fits = [other for other in b.recent(2) if b.shapes[other][1] == width]
    if not fits:
        return None
    other = b.choose(fits)
    return b.add("cat(1)", [x, other], (length + b.shapes[other][0], width), lambda y, z: torch.cat([y, z], 1))


@op(0)
def split(b: Builder, x: int) -> int | None:
    """Two parts, of which either goes on alone or both meet again in another order."""
    shape, dim, width = b.shapes[x], dim_of(b.shapes[x]), width_of(b.shapes[x])
    if width < 2:
        return None
    at = 1 + b.below(width - 1)
    first = b.add(f"split {at} [0]", [x], resized(shape, at), lambda y: torch.split(y, [at, width - at], dim)[0])
    second = b.add(f"split {at} [1]", [x], resized(shape, width - at), lambda y: y.split([at, width - at], dim)[1])
    return second if b.below(3) else first


@op(0)
def gated_halves(b: Builder, x: int) -> int | None:
    shape, dim, width = b.shapes[x], dim_of(b.shapes[x]), width_of(b.shapes[x])
    if width % 2:
        return None

    def gate(y: Tensor) -> Tensor:
        first, second = y.chunk(2, dim)
        return first * second.sigmoid()

    compute = b.choose([gate, lambda y: functional.glu(y, dim)])
    return b.add("gated halves", [x], resized(shape, width // 2), compute)


@op(0)
def slices(b: Builder, x: int) -> int | None:
    shape, dim, width = b.shapes[x], dim_of(b.shapes[x]), width_of(b.shapes[x])
    start, step = b.below(width), 1 + b.below(2)
    stop = start + 1 + b.below(width - start)
    where = (slice(None),) * dim + (slice(start, stop, step),)
    return b.add(f"[{start}:{stop}:{step}]", [x], resized(shape, len(range(start, stop, step))), lambda y: y[where])


@op(0)
def reorder(b: Builder, x: int) -> int | None:
    shape, dim, width = b.shapes[x], dim_of(b.shapes[x]), width_of(b.shapes[x])
    shift = b.below(width)
    order = [(index * (width - 1) + shift) % width for index in range(width)]
    name, compute = b.choose([
        ("flip", lambda y: y.flip(dim)), (f"roll {shift}", lambda y: y.roll(shift, dim)),
        (f"select {order}", lambda y: y.index_select(dim, torch.tensor(order))),
        (f"index {order}", lambda y: y[(slice(None),) * dim + (order,)]),
    ])  # fmt: skip
    return b.add(name, [x], shape, compute)


@op(0)
def repeat(b: Builder, x: int) -> int | None:
    shape, dim, width = b.shapes[x], dim_of(b.shapes[x]), width_of(b.shapes[x])
    counts = [1] * (len(shape) + 1)
    counts[dim] = 2
    name, compute = b.choose([
        ("repeat", lambda y: y.repeat(counts)), ("repeat_interleave", lambda y: y.repeat_interleave(2, dim))
    ])  # fmt: skip
    return b.add(name, [x], resized(shape, 2 * width), compute)


@op(3)
def channel_shuffle(b: Builder, x: int) -> int | None:
    channels, height, width = b.shapes[x]
    if not divisors(channels):
        return None
    groups = b.choose(divisors(channels))

    def by_view(y: Tensor) -> Tensor:
        return y.view(-1, groups, channels // groups, height, width).transpose(1, 2).reshape(y.shape)

    compute = b.choose([by_view, lambda y: functional.channel_shuffle(y, groups)])
    return b.add(f"shuffle {groups}", [x], b.shapes[x], compute)


@op(3)
def pixel_shuffle(b: Builder, x: int) -> int | None:
    channels, height, width = b.shapes[x]
    if channels % 4 == 0:
        return b.add("pixel_shuffle", [x], (channels // 4, 2 * height, 2 * width), lambda y: functional.pixel_shuffle(y,
            2))
    if height % 2 == 0 and width % 2 == 0:
        shape = (channels * 4, height // 2, width // 2)
        return b.add("pixel_unshuffle", [x], shape, lambda y: functional.pixel_unshuffle(y, 2))
    return None


@op(3)
def pad(b: Builder, x: int) -> int | None:
    channels, height, width = b.shapes[x]
    amounts = (b.below(2), b.below(2), 0, 0, b.below(3), b.below(3))
    shape = (channels + amounts[4] + amounts[5], height, width + amounts[0] + amounts[1])
    return b.add(f"pad {amounts}", [x], shape, lambda y: functional.pad(y, amounts))


# Changes of layout


@op(3)
def image_to_tokens(b: Builder, x: int) -> int | None:
    channels, height, width = b.shapes[x]
    if b.below(2):
        return b.add("tokens", [x], (height * width, channels), lambda y: y.flatten(2).transpose(1, 2))
    return b.add("nhwc", [x], (height * width, channels), lambda y: y.permute(0, 2, 3, 1).reshape(y.shape[0], -1,
        channels))


@op(2)
def tokens_to_image(b: Builder, x: int) -> int | None:
    length, width = b.shapes[x]
    return b.add("image", [x], (width, length, 1), lambda y: y.transpose(1, 2).unsqueeze(-1))


@op(0)
def flatten(b: Builder, x: int) -> int | None:
    shape = b.shapes[x]
    if len(shape) == 1:
        return None
    size = torch.Size(shape).numel()
    name, compute = b.choose([
        ("flatten", lambda y: y.flatten(1)), ("view", lambda y: y.reshape(y.size(0), -1)),
        ("last first", lambda y: y.movedim(-1, 1).flatten(1)), ("literal", lambda y: y.reshape(-1, size)),
    ])  # fmt: skip
    return b.add(name, [x], (size,), compute)


@op(1)
def features_to_image(b: Builder, x: int) -> int | None:
    (width,) = b.shapes[x]
    side = b.choose([1, *divisors(width)])
    name, compute = b.choose([
        ("view", lambda y: y.view(-1, width // side, side, 1)),
        ("unflatten", lambda y: y.unflatten(1, (width // side, side, 1))),
    ])  # fmt: skip
    return b.add(f"{name} {side}", [x], (width // side, side, 1), compute)


@op(0)
def regroup(b: Builder, x: int) -> int | None:
    """The channels as a table, transposed and flat again."""
    shape, dim, width = b.shapes[x], dim_of(b.shapes[x]), width_of(b.shapes[x])
    if not divisors(width):
        return None
    rows = b.choose(divisors(width))
    return b.add(
        f"regroup {rows}", [x], shape,
        lambda y: y.unflatten(dim, (rows, width // rows)).transpose(dim, dim + 1).flatten(dim, dim + 1),
    )  # fmt: skip
