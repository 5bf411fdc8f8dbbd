"""Parts of the channels: splits, slices, gates between halves, assignment to a slice."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.property.programs import Builder, op, project


def around(dim: int, entry: Any) -> tuple[Any, ...]:
    """An index that has ``entry`` at one dim and takes everything of the dims before."""
    return (*[slice(None)] * dim, entry)


@op()
def split(b: Builder, x: int) -> int | None:
    """Two unequal parts, of which one goes on; the other stays for later steps."""
    value = b.values[x]
    dim, width = value.dim, value.width
    if width < 2:
        return None
    at = 1 + b.below(width - 1)
    sizes = [at, width - at]
    name, compute = b.choose([
        ("split", lambda y: torch.split(y, sizes, dim)), ("y.split", lambda y: y.split(sizes, dim=dim)),
        ("tensor_split", lambda y: torch.tensor_split(y, (at,), dim=dim)),
        ("narrow", lambda y: (y.narrow(dim, 0, at), torch.narrow(y, dim, at, width - at))),
        ("slices", lambda y: (y[around(dim, slice(None, at))], y[around(dim, slice(at, None))])),
    ])  # fmt: skip
    first = b.add(f"{name} {at} [0]", [x], value.resized(at), lambda y: compute(y)[0])
    second = b.add(f"{name} {at} [1]", [x], value.resized(width - at), lambda y: compute(y)[1])
    return second if b.below(3) else first


@op()
def equal_parts(b: Builder, x: int) -> int | None:
    """Equal parts that go through different ops and meet again in another order."""
    value = b.values[x]
    dim, width = value.dim, value.width
    counts = [count for count in (2, 3, 4) if width % count == 0]
    if not counts:
        return None
    count = b.choose(counts)
    name, cut = b.choose([
        ("split", lambda y: y.split(width // count, dim)), ("chunk", lambda y: torch.chunk(y, count, dim)),
        ("unbind", lambda y: y.unflatten(dim, (count, width // count)).unbind(dim)),
        ("inner unbind", lambda y: y.unflatten(dim, (width // count, count)).unbind(dim + 1)),
        ("strided", lambda y: [y[around(dim, slice(start, None, count))] for start in range(count)]),
        ("hsplit" if dim == 1 else "chunk", lambda y: torch.hsplit(y, count) if dim == 1 else y.chunk(count, dim)),
    ])  # fmt: skip
    meet, compute = b.choose(
        [
            ("cat", lambda first, *rest: torch.cat([*rest, first.relu()], dim)),
            ("cat of means", lambda first, *rest: torch.cat([reduce(torch.add, rest) / count, first, *rest[1:]], dim)),
            ("sum", lambda first, *rest: first * reduce(torch.add, rest).sigmoid()),
            ("pool", lambda first, *rest: torch.cat([first.tanh(), *rest[::-1]], dim)),
            ("swap", lambda first, *rest: torch.cat([rest[0] * first, first, *rest[1:]], dim)),
        ]
    )
    result = value.resized(width // count) if meet == "sum" else value

    def through(y: Tensor) -> Any:
        parts = cut(y)
        return compute(*(parts[index] for index in range(count)))

    return b.add(f"{name} {count}, {meet}", [x], result, through)


@op("image")
def branches(b: Builder, x: int) -> int | None:
    """A cross-stage block: one half is kept, the other one goes through layers, every result is concatenated."""
    value = b.values[x]
    if value.width % 2:
        return None
    half = value.resized(value.width // 2)
    first = b.add("chunk[0]", [x], half, lambda y: y.chunk(2, 1)[0])
    second = b.add("chunk[1]", [x], half, lambda y: y.chunk(2, 1)[1])
    third = project(b, second, half.width)
    fourth = project(b, third, 3)
    return b.add("cat", [fourth, first, third, second], value.resized(3 * half.width + 3), lambda *y: torch.cat(y, 1))


@op()
def gated_halves(b: Builder, x: int) -> int | None:
    value = b.values[x]
    dim = value.dim
    if value.width % 2:
        return None

    def gate(y: Tensor) -> Tensor:
        first, second = y.chunk(2, dim)
        return first * second.sigmoid()

    compute = b.choose([gate, lambda y: F.glu(y, dim)])
    return b.add("gated halves", [x], value.resized(value.width // 2), compute)


@op()
def slices(b: Builder, x: int) -> int | None:
    value = b.values[x]
    start, step = b.below(value.width), 1 + b.below(2)
    stop = start + 1 + b.below(value.width - start)
    where = around(value.dim, slice(start, stop, step))
    kept = len(range(start, stop, step))
    return b.add(f"[{start}:{stop}:{step}]", [x], value.resized(kept), lambda y: y[where])


@op()
def overlapping(b: Builder, x: int) -> int | None:
    """Slices that share channels, next to each other."""
    value = b.values[x]
    dim, width = value.dim, value.width
    if width < 3:
        return None
    first, second = around(dim, slice(None, -1)), around(dim, slice(1, None))
    return b.add("overlap", [x], value.resized(2 * width - 2), lambda y: torch.cat([y[second], y[first].tanh()], dim))


@op()
def one_channel(b: Builder, x: int) -> int | None:
    value = b.values[x]
    dim, index = value.dim, b.below(value.width)
    name, compute = b.choose(
        [
            ("select", lambda y: y * y.select(dim, index).unsqueeze(dim)),
            ("getitem", lambda y: y + y[around(dim, index)].unsqueeze(dim)),
            ("slice", lambda y: y * y[around(dim, slice(index, index + 1))]),
        ]
    )
    return b.map(f"{name} {index}", x, compute)


@op()
def assigned_slice(b: Builder, x: int) -> int | None:
    """Writes to a part of a copy."""
    value = b.values[x]
    dim, width = value.dim, value.width
    if width < 2:
        return None
    at = 1 + b.below(width - 1)
    head, tail = around(dim, slice(None, at)), around(dim, slice(at, None))
    same, shifted = around(dim, slice(None, width // 2)), around(dim, slice(width - width // 2, None))

    def number(y: Tensor) -> Tensor:
        z = y.clone()
        z[head].fill_(0.5)
        return z

    def itself(y: Tensor) -> Tensor:
        z = torch.zeros_like(y)
        z[tail].copy_(y[tail] * 2)
        return z

    def shift(y: Tensor) -> Tensor:
        z = y.clone()
        z[same].copy_(y[shifted] + 1)
        return z

    def in_place(y: Tensor) -> Tensor:
        z = y * 1
        z[head].mul_(3)
        z[tail].neg_()
        return z

    def assign(y: Tensor) -> Tensor:
        z = y.clone()
        z[same] = y[shifted] + 1
        z[head] *= 3
        return z

    # torch.fx does not follow `z[...] = `, and torch.export takes ten times as long, so that one is rare
    return b.map(f"assign {at}", x, b.choose([number, itself, shift, in_place] * 5 + [assign]))


@op("tokens", "sequence")
def temporal_shift(b: Builder, x: int) -> int | None:
    """Some channels look one step back, others one step ahead."""
    value = b.values[x]
    if value.width < 3:
        return None
    last = value.kind == "tokens"
    third = value.width // 3

    def shift(y: Tensor) -> Tensor:
        y = y if last else y.transpose(1, 2)
        z = torch.zeros_like(y)
        z[:, 1:, :third].copy_(y[:, :-1, :third])
        z[:, :-1, third : 2 * third].copy_(y[:, 1:, third : 2 * third])
        z[:, :, 2 * third :].copy_(y[:, :, 2 * third :])
        return z if last else z.transpose(1, 2)

    return b.map("temporal shift", x, shift)
