"""Coupling rules with a typical mistake each, and a model that shows it; `test_verifier_can_fail.py` uses them.

At least one row for every file of `graphprune/ops` that has rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from graphprune.labels.planes import Planes, channel_planes, drop
from graphprune.ops.call import OpCall
from graphprune.ops.registry import RULES
from tests.ops.case import net

aten = torch.ops.aten
Broken = Callable[[OpCall], list[Planes]]


@dataclass(frozen=True)
class BrokenRule:
    """A row.

    Attributes:
        name: What the mistake is.
        target: The entry of the table of rules that is replaced.
        broken: What replaces it.
        model: Verifies with the right rule, and must not with the broken one.
        example: Its input.
        frozen: With the right rule nothing of the model can be removed.
    """

    name: str
    target: Any
    broken: Broken
    model: nn.Module
    example: Tensor
    frozen: bool = False


IMAGE, TOKENS, FEATURES = torch.randn(2, 3, 6, 6), torch.randn(2, 7, 5), torch.randn(2, 5)


def image_model(middle: Callable[[Tensor], Tensor] | nn.Module, width: int = 8) -> nn.Module:
    """A convolution to 8 channels, something that leaves ``width`` of them, and a head that reads those."""
    parts: dict[str, nn.Module] = {"a": nn.Conv2d(3, 8, 3), "head": nn.Conv2d(width, 4, 1)}
    if isinstance(middle, nn.Module):
        return net(lambda self, x: self.head(self.middle(self.a(x)).relu()), **parts, middle=middle)
    return net(lambda self, x: self.head(middle(self.a(x)).relu()), **parts)


def token_model(middle: Callable[[Tensor], Tensor] | nn.Module, width: int = 8) -> nn.Module:
    """The same for tokens."""
    parts: dict[str, nn.Module] = {"a": nn.Linear(5, 8), "head": nn.Linear(width, 4)}
    if isinstance(middle, nn.Module):
        return net(lambda self, x: self.head(self.middle(self.a(x))), **parts, middle=middle)
    return net(lambda self, x: self.head(middle(self.a(x))), **parts)


def two_branches(meet: Callable[[Tensor, Tensor], Tensor], width: int = 8) -> nn.Module:
    """Two convolutions of one input, whose results meet."""
    return net(
        lambda self, x: self.head(meet(self.a(x), self.b(x))),
        a=nn.Conv2d(3, 8, 3),
        b=nn.Conv2d(3, 8, 3),
        head=nn.Conv2d(width, 4, 1),
    )


# Typical mistakes


class Untied(OpCall):
    """A call in which nothing is tied."""

    __slots__ = ()

    def union(self, first: Tensor, second: Tensor, reason: str) -> None:
        """Ties nothing."""


def without_unions(target: Any) -> Broken:
    """Nothing is tied."""
    rule = RULES[target]

    def broken(call: OpCall) -> list[Planes]:
        call.__class__ = Untied
        return list(rule(call))

    return broken


def without_mixing(target: Any) -> Broken:
    """Statistics are taken over removed channels as well, and sums over what they are worth when masked."""
    rule = RULES[target]

    def broken(call: OpCall) -> list[Planes]:
        planes = list(rule(call))
        call.mixes, call.sums = None, False
        return planes

    return broken


def with_planes(target: Any, change: Callable[[Tensor], Tensor]) -> Broken:
    """The channel planes of the results are changed."""
    rule = RULES[target]

    def broken(call: OpCall) -> list[Planes]:
        return [tuple(change(plane) for plane in channel_planes(planes)) for planes in rule(call)]

    return broken


def swapped(plane: Tensor) -> Tensor:
    """The labels in the opposite order along dim 1."""
    return plane.flip(1) if plane.dim() > 1 else plane


def shifted(plane: Tensor) -> Tensor:
    """The labels one place further along dim 1."""
    return plane.roll(1, 1)


def swapped_parts(target: Any) -> Broken:
    """A split whose parts have each other's labels."""
    rule = RULES[target]
    return lambda call: list(reversed(list(rule(call))))


def elementwise(call: OpCall) -> list[Planes]:
    """Guessed to act on each element by itself."""
    operand = call.operand("self")
    assert operand is not None
    return [operand.planes] * len(call.outputs)


def only_outputs(call: OpCall) -> list[Planes]:
    """A product that knows its output channels but not what it sums over."""
    weight = call.operand("weight")
    assert weight is not None
    planes = (drop(plane, [1]) for plane in weight.planes if plane.stride(0))
    return [tuple(plane.expand(call.shape) for plane in planes)]


def pairs(plane: Tensor) -> Tensor:
    """Every second label twice: half as many channels as there are."""
    return plane[:, ::2].repeat_interleave(2, 1) if plane.dim() > 1 else plane


# Models that need more than one line


def exchanged(x: Tensor) -> Tensor:
    first, second = x.split([4, 4], 1)
    return torch.cat([second, first * 2], 1)


def recurrent_model() -> nn.Module:
    return net(
        lambda self, x: self.head(self.cell(self.a(x))[0]),
        a=nn.Linear(5, 8),
        cell=nn.LSTM(8, 6, batch_first=True),
        head=nn.Linear(6, 4),
    )


BROKEN_RULES = (
    BrokenRule("convolution that ties nothing", aten.convolution, without_unions(aten.convolution),
               image_model(nn.Conv2d(8, 8, 3)), IMAGE),
    BrokenRule("grouped convolution that ties nothing", aten.convolution, without_unions(aten.convolution),
               image_model(nn.Conv2d(8, 8, 3, groups=2)), IMAGE),
    BrokenRule("linear that knows its outputs only", aten.linear, only_outputs, token_model(nn.Linear(8, 8)), TOKENS),
    BrokenRule("product of data, removed channels not zero", aten.bmm, without_mixing(aten.bmm),
               token_model(lambda x: x.sigmoid() @ x.sigmoid().transpose(1, 2) @ x), TOKENS),
    BrokenRule("embedding, shifted", aten.embedding, with_planes(aten.embedding, lambda plane: plane.flip(2)),
               nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4)), torch.randint(0, 9, (2, 5))),
    BrokenRule("ones as many as half the channels", aten.ones_like, with_planes(aten.ones_like, pairs),
               image_model(lambda x: torch.cat([torch.ones_like(x), x], 1), 16), IMAGE),
    BrokenRule("Fourier transform taken for elementwise", aten._fft_r2c, elementwise,
               token_model(lambda x: torch.fft.fft(x, dim=-1).real), TOKENS, frozen=True),
    BrokenRule("index_select, swapped", aten.index_select, with_planes(aten.index_select, swapped),
               image_model(lambda x: x.index_select(1, torch.tensor([1, 0, 2, 3, 4, 7, 6, 5]))), IMAGE),
    BrokenRule("index, shifted", aten.index.Tensor, with_planes(aten.index.Tensor, shifted),
               image_model(lambda x: x[:, [1, 0, 2, 3, 4, 7, 6, 5]]), IMAGE),
    BrokenRule("concat with shifted offsets", aten.cat, with_planes(aten.cat, shifted),
               two_branches(lambda x, y: torch.cat([x, y], 1), 16), IMAGE),
    BrokenRule("split with swapped halves", aten.split_with_sizes, swapped_parts(aten.split_with_sizes),
               image_model(exchanged), IMAGE),
    BrokenRule("flatten, shifted", aten.view.default, with_planes(aten.view.default, shifted),
               net(lambda self, x: self.head(self.a(x).view(x.shape[0], -1)), a=nn.Conv2d(3, 8, 3),
                   head=nn.Linear(128, 4)), IMAGE),
    BrokenRule("flip that leaves the order", aten.flip, with_planes(aten.flip, swapped),
               image_model(lambda x: x.flip(1)), IMAGE),
    BrokenRule("roll, one too far", aten.roll, with_planes(aten.roll, shifted), image_model(lambda x: x.roll(2, 1)),
               IMAGE),
    BrokenRule("padding in the wrong place", aten.constant_pad_nd, with_planes(aten.constant_pad_nd, swapped),
               image_model(lambda x: F.pad(x, (0, 0, 0, 0, 1, 3)), 12), IMAGE),
    BrokenRule("batch norm that ties nothing", aten.native_batch_norm, without_unions(aten.native_batch_norm),
               image_model(nn.BatchNorm2d(8)), IMAGE),
    BrokenRule("layer norm over removed channels", aten.native_layer_norm, without_mixing(aten.native_layer_norm),
               token_model(nn.LayerNorm(8)), TOKENS),
    BrokenRule("group norm over removed channels", aten.native_group_norm, without_mixing(aten.native_group_norm),
               image_model(nn.GroupNorm(2, 8)), IMAGE),
    BrokenRule("sort taken for elementwise", aten.sort, elementwise,
               net(lambda self, x: self.head(self.b(torch.sort(self.a(x), -1)[0])), a=nn.Linear(5, 8),
                   b=nn.Linear(8, 6), head=nn.Linear(6, 4)), TOKENS),
    BrokenRule("distances that tie nothing", aten._cdist_forward, without_unions(aten._cdist_forward),
               net(lambda self, x: self.head(torch.cdist(self.a(x), self.b(x))), a=nn.Linear(5, 8),
                   b=nn.Linear(5, 8), head=nn.Linear(7, 4)), TOKENS),
    BrokenRule("residual that ties nothing", torch.Tag.pointwise, without_unions(torch.Tag.pointwise),
               two_branches(lambda x, y: x + y), IMAGE),
    BrokenRule("random numbers taken for elementwise", torch.Tag.nondeterministic_seeded, elementwise,
               token_model(lambda x: x * torch.rand_like(x)), TOKENS, frozen=True),
    BrokenRule("recurrent layer that ties nothing", aten.lstm.input, without_unions(aten.lstm.input),
               recurrent_model(), TOKENS),
    BrokenRule("softmax over removed channels", aten._softmax, without_mixing(aten._softmax),
               token_model(lambda x: x.softmax(-1)), TOKENS),
    BrokenRule("mean over removed channels", aten.mean, without_mixing(aten.mean),
               token_model(lambda x: x - x.mean(-1, keepdim=True)), TOKENS),
    BrokenRule("channel shuffle, swapped", aten.channel_shuffle, with_planes(aten.channel_shuffle, swapped),
               image_model(lambda x: F.channel_shuffle(x, 2)), IMAGE),
    BrokenRule("pixel shuffle that ties nothing", aten.pixel_shuffle, without_unions(aten.pixel_shuffle),
               image_model(lambda x: F.pixel_shuffle(x, 2), 2), IMAGE),
    BrokenRule("pooling, swapped", aten.max_pool2d_with_indices, with_planes(aten.max_pool2d_with_indices, swapped),
               image_model(nn.MaxPool2d(2)), IMAGE),
    BrokenRule("windows, one row too far", aten.im2col, with_planes(aten.im2col, shifted),
               net(lambda self, x: self.head(F.unfold(self.a(x), 2)), a=nn.Conv2d(3, 8, 3), head=nn.Conv1d(32, 4, 1)),
               IMAGE),
    BrokenRule("boxes, one channel too far", "torchvision::roi_align", with_planes("torchvision::roi_align", shifted),
               net(lambda self, x: self.head(roi_align(self.a(x), self.boxes, output_size=2)),
                   a=nn.Conv2d(3, 8, 3), head=nn.Conv2d(8, 4, 1), boxes=Tensor([[0.0, 0, 0, 3, 3], [0, 1, 1, 4, 4]])),
               IMAGE),
)  # fmt: skip
