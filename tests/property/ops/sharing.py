"""Parameters and buffers in unusual places: shared, tied, without a layer, chosen by a fixed route."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.property.programs import Builder, Value, op, project


@op()
def shared_layer(b: Builder, x: int) -> int | None:
    """Calls an earlier layer again."""
    calls = [
        (step.parts[0], b.values[b.inputs + index])
        for index, step in enumerate(b.steps)
        if len(step.parts) == 1 and step.text.startswith(step.parts[0]) and b.values[step.inputs[0]] == b.values[x]
    ]
    if not calls:
        return None
    name, result = b.choose(calls)
    return b.call(name, x, result)


class Residual(nn.Module):
    """Layers around which the input goes, once with a learned weight."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, width))
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.scale * self.layers(x)
        return result


@op("features", "tokens", "nhwc")
def residual_block(b: Builder, x: int) -> int | None:
    """A module of modules, called once or twice."""
    block = b.store(Residual(b.values[x].width, b.choose([5, 7])))
    return b.map("residual block", x, b.choose([lambda block, y: block(y), lambda block, y: block(block(y))]), block)


@op("image")
def inverted_bottleneck(b: Builder, x: int) -> int | None:
    """Wide, depthwise, normalised, narrow again, and a shortcut."""
    width = b.values[x].width
    block = b.store(nn.Sequential(
        nn.Conv2d(width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width), nn.Hardswish(),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False), nn.BatchNorm2d(2 * width),
        nn.ReLU6(), nn.Conv2d(2 * width, width, 1, bias=False), nn.BatchNorm2d(width),
    ))  # fmt: skip
    return b.map("inverted bottleneck", x, lambda block, y: y + block(y), block)


@op("features", "tokens", "nhwc")
def tied_layer(b: Builder, x: int) -> int | None:
    """Two layers with one weight, or an autoencoder whose decoder is the transpose of its encoder."""
    value = b.values[x]
    first, second = nn.Linear(value.width, 5), nn.Linear(value.width, 5)
    second.weight = first.weight
    encoder, other = b.store(first), b.store(second)

    def both(u: nn.Module, v: nn.Module, y: Tensor) -> Tensor:
        result: Tensor = u(y) * v(y).sigmoid()
        return result

    def decoded(u: nn.Linear, v: nn.Module, y: Tensor) -> Tensor:
        return F.linear(u(y).relu() + v(y), u.weight.t())

    if b.below(2):
        return b.add("tied pair", [x], value.resized(5), both, encoder, other)
    return b.map("tied decoder", x, decoded, encoder, other)


@op("tokens")
def tied_embedding(b: Builder, x: int) -> int | None:
    """Scores for each word of an earlier embedding of the same width."""
    value = b.values[x]
    tables = [name for name, part in b.stored.items() if isinstance(part, nn.Embedding)]
    fits = [name for name in tables if b.stored[name].embedding_dim == value.width]
    if not fits:
        return None
    name = b.choose(fits)
    words = b.stored[name].num_embeddings
    return b.add("tied to embedding", [x], value.resized(words), lambda table, y: F.linear(y, table.weight), name)


@op()
def scale_per_channel(b: Builder, x: int) -> int | None:
    """A buffer, a parameter or a constant along the channels."""
    value = b.values[x]
    shape = [1] * (len(value.shape) + 1)
    shape[value.dim] = value.width
    form = b.below(5)
    if form == 0:
        return b.map("buffer", x, lambda s, y: y * s, b.store(torch.rand(shape) + 0.5))
    if form == 1:
        return b.map("buffer.view", x, lambda s, y: y * s.view(shape), b.store(torch.rand(value.width) + 0.5))
    if form == 2:
        return b.map("layer scale", x, lambda s, y: y + s * y.tanh(), b.parameter(*shape[1:]))
    if form == 3:
        return b.map("arange", x, lambda y: y * torch.arange(value.width, dtype=y.dtype).view(shape))
    return b.map("scalar", x, lambda s, y: y * s, b.store(nn.Parameter(torch.tensor(0.7))))


@op("tokens", "image", "sequence")
def position_embedding(b: Builder, x: int) -> int | None:
    shape = b.values[x].shape
    if b.below(2):
        return b.map("+ positions", x, lambda p, y: y + p, b.parameter(1, *shape))
    return b.map("+ positions in a buffer", x, lambda p, y: y + p[:, : y.shape[1]], b.store(torch.randn(1, *shape)))


@op("tokens")
def class_token(b: Builder, x: int) -> int | None:
    length, width = b.values[x].shape
    token = b.parameter(1, 1, width)
    result = Value("tokens", (length + 1, width))
    return b.add("class token", [x], result, lambda t, y: torch.cat([t.expand(y.shape[0], -1, -1), y], 1), token)


@op("tokens", "features")
def experts(b: Builder, x: int) -> int | None:
    """A mixture of experts with a fixed route."""
    value = b.values[x]
    up, down, gate = b.parameter(3, value.width, 4), b.parameter(3, 4, value.width), b.store(torch.rand(3))

    def stacked(u: Tensor, d: Tensor, g: Tensor, y: Tensor) -> Tensor:
        hidden = torch.einsum("...d,edh->...eh", y, u).relu()
        return torch.einsum("...eh,ehd,e->...d", hidden, d, g)

    def one_by_one(u: Tensor, d: Tensor, g: Tensor, y: Tensor) -> Tensor:
        each = [(y @ u[index]).tanh() @ d[index] * g[index] for index in (2, 0)]
        return each[0] + each[1]

    return b.map("experts", x, b.choose([stacked, one_by_one]), up, down, gate)


@op("tokens")
def routed_experts(b: Builder, x: int) -> int | None:
    """Whole layers as experts; every position has its own, given by its place."""
    value = b.values[x]
    length = value.shape[0]
    route = [index % 2 for index in range(length)]
    first, second = project(b, x, 5), project(b, x, 5)

    def join(y: Tensor, z: Tensor) -> Tensor:
        return torch.stack([(y, z)[expert][:, place] for place, expert in enumerate(route)], 1)

    return b.add(f"route {route}", [first, second], value.resized(5), join)


@op("features", mixing=True)
def two_heads_in_one(b: Builder, x: int) -> int | None:
    """A layer whose output another layer multiplies as weights for groups of channels."""
    (width,) = b.values[x].shape
    groups = [count for count in (2, 3) if width % count == 0]
    if not groups:
        return None
    count = b.choose(groups)
    gate = project(b, x, count)

    def weigh(y: Tensor, g: Tensor) -> Any:
        return (y.unflatten(1, (count, width // count)) * g.softmax(-1).unsqueeze(-1)).flatten(1)

    return b.add(f"gates of {count}", [x, gate], b.values[x], weigh)
