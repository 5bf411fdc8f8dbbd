"""Convolutions and products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from tests.property.programs import Builder, Value, op, project


def divisors(number: int) -> list[int]:
    """Divisors between 1 and the number itself."""
    return [each for each in range(2, number) if number % each == 0]


def split_width(b: Builder, width: int) -> int:
    """A number of groups that divides a width: 1, all, or between."""
    return int(b.choose([1, width, *divisors(width)]))


@op("image")
def convolution(b: Builder, x: int) -> int | None:
    channels, height, width = b.values[x].shape
    groups = b.choose([1, 1, *divisors(channels)])
    out = groups * b.choose([1, 2, 3]) if groups > 1 else b.choose([3, 4, 6, 8])
    stride = b.choose([1, 1, 2])
    mode = b.choose(["zeros", "zeros", "circular", "replicate"])
    layer = nn.Conv2d(channels, out, 3, stride, 1, groups=groups, bias=bool(b.below(2)), padding_mode=mode)
    return b.add_layer(layer, x, Value("image", (out, -(-height // stride), -(-width // stride))))


@op("image")
def depthwise(b: Builder, x: int) -> int | None:
    value = b.values[x]
    times = b.choose([1, 1, 2])
    layer = nn.Conv2d(value.width, value.width * times, 3, padding=1, groups=value.width)
    return b.add_layer(layer, x, value.resized(value.width * times))


@op("image")
def transposed(b: Builder, x: int) -> int | None:
    channels, height, width = b.values[x].shape
    groups = split_width(b, channels)
    out = groups * b.choose([1, 2]) if groups > 1 else b.choose([4, 6])
    layer = nn.ConvTranspose2d(channels, out, 2, groups=groups, bias=bool(b.below(2)))
    return b.add_layer(layer, x, Value("image", (out, height + 1, width + 1)))


@op("sequence")
def convolution_in_time(b: Builder, x: int) -> int | None:
    channels, length = b.values[x].shape
    groups = split_width(b, channels)
    out = groups * b.choose([1, 2]) if groups > 1 else b.choose([4, 6])
    if b.below(3):
        layer: nn.Module = nn.Conv1d(channels, out, 3, padding=2, dilation=2, groups=groups)
        return b.add_layer(layer, x, Value("sequence", (out, length)))
    layer = nn.ConvTranspose1d(channels, out, 2, groups=groups)
    return b.add_layer(layer, x, Value("sequence", (out, length + 1)))


@op("volume")
def convolution_of_volumes(b: Builder, x: int) -> int | None:
    channels, *size = b.values[x].shape
    groups = split_width(b, channels)
    out = groups * b.choose([1, 2]) if groups > 1 else b.choose([4, 6])
    if b.below(3):
        layer: nn.Module = nn.Conv3d(channels, out, (1, 3, 3), padding=(0, 1, 1), groups=groups)
        return b.add_layer(layer, x, Value("volume", (out, *size)))
    layer = nn.ConvTranspose3d(channels, out, (2, 1, 1), groups=groups)
    return b.add_layer(layer, x, Value("volume", (out, size[0] + 1, *size[1:])))


@op("image", "sequence")
def functional_convolution(b: Builder, x: int) -> int | None:
    value = b.values[x]
    rank = len(value.spatial)
    out = b.choose([4, 5, 6])
    convolve = F.conv2d if rank == 2 else F.conv1d
    depthwise, weight = b.below(3) == 0, [1] * rank
    if depthwise:
        name = b.parameter(value.width, 1, *weight)
        return b.map("depthwise conv", x, lambda w, y: convolve(y, w, groups=y.shape[1]), name)
    if b.below(3) == 0:
        turned = F.conv_transpose2d if rank == 2 else F.conv_transpose1d
        name = b.parameter(value.width, out, *weight)
        return b.add("conv_transpose", [x], value.resized(out), lambda w, y: turned(y, w), name)
    names = b.parameter(out, value.width, *weight), b.parameter(out)
    return b.add("conv", [x], value.resized(out), lambda w, bias, y: convolve(y, w, bias), *names)


@op()
def linear(b: Builder, x: int) -> int | None:
    return project(b, x, b.choose([4, 6, 8, 12]), bias=bool(b.below(2)))


@op("features", "tokens", "nhwc")
def product_with_a_parameter(b: Builder, x: int) -> int | None:
    value, out = b.values[x], b.choose([4, 6])
    weight, shift = b.parameter(value.width, out), b.parameter(out)
    compute = b.choose([
        lambda w, s, y: y @ w + s, lambda w, s, y: torch.matmul(y, w) * s,
        lambda w, s, y: F.linear(y, w.t(), s), lambda w, s, y: torch.einsum("...i,io->...o", y, w) - s,
    ])  # fmt: skip
    if value.kind == "tokens" and b.below(3) == 0:
        compute = b.choose(
            [
                lambda w, s, y: torch.baddbmm(s, y, w.expand(y.shape[0], -1, -1)),
                lambda w, s, y: torch.addmm(s, y.flatten(0, 1), w, beta=0.5).view(y.shape[0], y.shape[1], out),
                lambda w, s, y: torch.stack([torch.mv(w.t(), s @ w.t()), s]).sum(0) * (y @ w),
            ]
        )
    return b.add("@", [x], value.resized(out), compute, weight, shift)


@op("tokens")
def einsum_to_heads(b: Builder, x: int) -> int | None:
    length, width = b.values[x].shape
    heads, size = b.choose([2, 3]), b.choose([2, 3])
    weight = b.parameter(heads, width, size)
    form = b.choose(["bnd,hde->bnhe", "bnd,hde->bneh"])
    result = Value("tokens", (length, heads * size))
    return b.add(form, [x], result, lambda w, y: torch.einsum(form, y, w).flatten(2), weight)


@op("tokens", "features")
def block_diagonal(b: Builder, x: int) -> int | None:
    """A linear layer per block of channels, as one batched product."""
    value = b.values[x]
    groups = split_width(b, value.width)
    inner, out = value.width // groups, b.choose([1, 2, 3])
    weight = b.parameter(groups, inner, out)

    def by_einsum(w: Tensor, y: Tensor) -> Any:
        return torch.einsum("...gi,gio->...go", y.unflatten(-1, (groups, inner)), w).flatten(-2)

    def by_matmul(w: Tensor, y: Tensor) -> Any:
        return (y.unflatten(-1, (groups, 1, inner)) @ w).flatten(-3)

    return b.add(f"{groups} blocks", [x], value.resized(groups * out), b.choose([by_einsum, by_matmul]), weight)


@op("features")
def bilinear(b: Builder, x: int) -> int | None:
    fits = [other for other, value in enumerate(b.values) if value.kind == "features"]
    y = b.choose(fits)
    layer = b.store(nn.Bilinear(b.values[x].width, b.values[y].width, 5))
    return b.add("bilinear", [x, y], Value("features", (5,)), lambda module, u, v: module(u, v), layer)


@op("tokens", mixing=True)
def mix_tokens(b: Builder, x: int) -> int | None:
    """Layers over the positions, as in an MLP-Mixer: they become channels, over which later ops take statistics."""
    length = b.values[x].shape[0]
    first, second = b.store(nn.Linear(length, 6)), b.store(nn.Linear(6, length))

    def mix(up: nn.Module, down: nn.Module, y: Tensor) -> Tensor:
        result: Tensor = down(F.gelu(up(y.transpose(1, 2)))).transpose(1, 2)
        return result

    return b.map("mix tokens", x, mix, first, second)


@op("features", "tokens", "image", mixing=True)
def normed_weight(b: Builder, x: int) -> int | None:
    value = b.values[x]
    layer = nn.Conv2d(value.width, 4, 1) if value.kind == "image" else nn.Linear(value.width, 4)
    return b.add_layer(weight_norm(layer), x, value.resized(4))


@op("image", mixing=True)
def standardised_weight(b: Builder, x: int) -> int | None:
    """Weight standardisation: each filter has mean zero and length one."""
    value = b.values[x]
    weight = b.parameter(5, value.width, 1, 1)

    def convolve(w: Tensor, y: Tensor) -> Tensor:
        centred = w - w.mean((1, 2, 3), keepdim=True)
        return F.conv2d(y, centred * torch.rsqrt(centred.square().sum((1, 2, 3), keepdim=True) + 0.1))

    return b.add("standardised conv", [x], value.resized(5), convolve, weight)
