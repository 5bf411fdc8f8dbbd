"""Each family of rules broken on purpose: verification has to see it.

A rule, a rewriting rule or the slicing of tensors is replaced by one with a typical mistake. The analysis, the prune
or the
proof then has to end in an internal error; a silent pass would mean that the proof proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.capture import capture
from graphprune.dependencies import Dependencies
from graphprune.equivalence import MaskedProgram, verify_compact
from graphprune.errors import InvariantError, VerificationError
from graphprune.ops import normalisation
from graphprune.ops.call import OpCall
from graphprune.ops.contraction import convolution
from graphprune.ops.registry import RULES
from graphprune.passes import pipelines
from graphprune.planes import Planes, channel_planes, drop
from graphprune.rewrite import compact
from graphprune.rewrite.literals import RESIZERS
from graphprune.rewrite.sizes import Resize
from graphprune.runner import Runner, check
from tests.ops.case import net, randomised

aten = torch.ops.aten
Broken = Callable[[OpCall], list[Planes]]


def prune_and_verify(model: nn.Module, example: Tensor, seed: int = 0) -> None:
    """Analyses, removes about half of each group, checks the invariants and verifies."""
    torch.manual_seed(0)
    program = Runner().run(pipelines.analysis(), capture(randomised(model), example))
    assert program.dependencies is not None and program.dependencies.groups, "the broken rule left nothing to prune"
    dependencies: Dependencies = program.dependencies
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(dependencies.channels, generator=generator) < 0.5
    for group in dependencies.groups:
        keep[group.start + 1 : group.start + 2] = True
        keep[group.start] = group.channels == 1
    module = compact.compact_module(program, dependencies, keep)
    shapes = compact.foretold_shapes(dependencies, keep)
    smaller = program.pruned(module, dependencies.kept(keep), shapes=shapes)
    check(smaller, "after a prune")
    verify_compact(MaskedProgram.of(program, dependencies, keep), smaller)


def image_model(middle: Callable[[Tensor], Tensor] | nn.Module, width: int = 8) -> nn.Module:
    parts: dict[str, nn.Module] = {"a": nn.Conv2d(3, 8, 3), "head": nn.Conv2d(width, 4, 1)}
    if isinstance(middle, nn.Module):
        return net(lambda self, x: self.head(self.middle(self.a(x)).relu()), **parts, middle=middle)
    return net(lambda self, x: self.head(middle(self.a(x)).relu()), **parts)


def token_model(middle: Callable[[Tensor], Tensor] | nn.Module) -> nn.Module:
    parts: dict[str, nn.Module] = {"a": nn.Linear(5, 8), "head": nn.Linear(8, 4)}
    if isinstance(middle, nn.Module):
        return net(lambda self, x: self.head(self.middle(self.a(x))), **parts, middle=middle)
    return net(lambda self, x: self.head(middle(self.a(x))), **parts)


def without_unions(rule: Any) -> Broken:
    """The rule, but nothing is tied."""

    def broken(call: OpCall) -> list[Planes]:
        call.union = lambda first, second, reason: None  # type: ignore[method-assign]
        return list(rule(call))

    return broken


def without_mixing(rule: Any) -> Broken:
    """The rule, but statistics are taken over removed channels as well."""

    def broken(call: OpCall) -> list[Planes]:
        planes = list(rule(call))
        call.mixes = None
        return planes

    return broken


def with_planes(rule: Any, change: Callable[[Tensor], Tensor]) -> Broken:
    """The rule, but the channel planes of its results are changed."""

    def broken(call: OpCall) -> list[Planes]:
        return [tuple(change(plane) for plane in channel_planes(planes)) for planes in rule(call)]

    return broken


def swapped(plane: Tensor) -> Tensor:
    """The labels in the opposite order along the channels."""
    return plane.flip(1) if plane.dim() > 1 else plane


def swapped_parts(rule: Any) -> Broken:
    """A split whose parts have each other's labels."""
    return lambda call: list(reversed(list(rule(call))))


def elementwise_scan(call: OpCall) -> list[Planes]:
    """An op without a rule, guessed to act on each element by itself."""
    operand = call.operand("self")
    assert operand is not None
    return [operand.planes] * len(call.outputs)


def only_outputs(call: OpCall) -> list[Planes]:
    """A product that knows its output channels but not what it sums over."""
    weight = call.operand("mat2")
    assert weight is not None
    planes = (drop(plane, [0]) for plane in weight.planes if plane.stride(1))
    return [tuple(plane.expand(call.shape) for plane in planes)]


IMAGE, TOKENS, FEATURES = torch.randn(2, 3, 6, 6), torch.randn(2, 7, 5), torch.randn(2, 5)


def exchanged(x: Tensor) -> Tensor:
    first, second = x.split([4, 4], 1)
    return torch.cat([second, first * 2], 1)


def sorted_between(x: Tensor) -> Tensor:
    return torch.sort(x, -1)[0]


BROKEN_RULES = [
    pytest.param(aten.convolution, without_unions(convolution), image_model(nn.Conv2d(8, 8, 3)), IMAGE,
        id="convolution"),
    pytest.param(aten.addmm, only_outputs, token_model(nn.Linear(8, 8)), FEATURES, id="linear"),
    pytest.param(aten.native_batch_norm, without_unions(normalisation.batch_norm), image_model(nn.BatchNorm2d(8)),
        IMAGE,
                 id="batch norm"),
    pytest.param(aten.native_layer_norm, without_mixing(normalisation.layer_norm), token_model(nn.LayerNorm(8)), TOKENS,
                 id="layer norm without mixing"),
    pytest.param(aten.native_group_norm, without_mixing(normalisation.group_norm), image_model(nn.GroupNorm(2, 8)),
        IMAGE,
                 id="group norm without mixing"),
    pytest.param(aten._softmax, without_mixing(RULES[aten._softmax]), token_model(lambda x: x.softmax(-1)), TOKENS,
                 id="softmax without mixing"),
    pytest.param(aten.mean, without_mixing(RULES[aten.mean]), token_model(lambda x: x - x.mean(-1, keepdim=True)),
        TOKENS,
                 id="mean without mixing"),
    pytest.param(torch.Tag.pointwise, without_unions(RULES[torch.Tag.pointwise]),
                 net(lambda self, x: self.head(self.a(x) + self.b(x)), a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(3, 8, 3),
                     head=nn.Conv2d(8, 4, 1)), IMAGE, id="residual"),
    pytest.param(aten.cat, with_planes(RULES[aten.cat], lambda plane: plane.roll(1, 1)),
                 net(lambda self, x: self.head(torch.cat([self.a(x), self.b(x)], 1)), a=nn.Conv2d(3, 8, 3),
                     b=nn.Conv2d(3, 8, 3), head=nn.Conv2d(16, 4, 1)), IMAGE, id="concat with shifted offsets"),
    pytest.param(aten.split_with_sizes, swapped_parts(RULES[aten.split_with_sizes]),
                 image_model(exchanged), IMAGE,
                 id="split with swapped halves"),
    pytest.param(aten.view.default, with_planes(RULES[aten.view.default], lambda plane: plane.roll(1, 1)),
                 net(lambda self, x: self.head(self.a(x).view(x.shape[0], -1)), a=nn.Conv2d(3, 8, 3),
                     head=nn.Linear(128, 4)), IMAGE, id="flatten shifted"),
    pytest.param(aten.flip, with_planes(RULES[aten.flip], swapped), image_model(lambda x: x.flip(1)), IMAGE, id="flip"),
    pytest.param(aten.roll, with_planes(RULES[aten.roll], lambda plane: plane.roll(1, 1)),
                 image_model(lambda x: x.roll(2, 1)), IMAGE, id="roll"),
    pytest.param(aten.sort, elementwise_scan,
                 net(lambda self, x: self.head(self.b(sorted_between(self.a(x)))), a=nn.Linear(5, 8), b=nn.Linear(8, 6),
                     head=nn.Linear(6, 4)), TOKENS,
                 id="an op without a rule guessed elementwise"),
    pytest.param(aten.embedding, with_planes(RULES[aten.embedding], lambda plane: plane.flip(2)),
                 nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4)), torch.randint(0, 9, (2, 5)), id="embedding"),
    pytest.param(aten.max_pool2d_with_indices, with_planes(RULES[aten.max_pool2d_with_indices], swapped),
                 image_model(nn.MaxPool2d(2)), IMAGE, id="pooling"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "broken", "model", "example"), BROKEN_RULES)
def test_a_broken_coupling_rule_is_seen(
    target: Any, broken: Broken, model: nn.Module, example: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune_and_verify(model, example)
    monkeypatch.setitem(RULES, target, broken)
    with pytest.raises((VerificationError, InvariantError)):
        prune_and_verify(model, example)


def off_by_one(resize: Resize) -> None:
    """Parts that are as long as they should be, but begin one channel late."""
    node, source, result = resize.node, resize.source, resize.result
    assert source is not None and result is not None
    start = min(source.rank_of(int(str(node.args[2])), 1) + 1, source.size(1) - result.size(1))
    node.args = (node.args[0], 1, start, result.size(1))


def in_the_opposite_order(resize: Resize) -> None:
    """The right positions, of the channels in the opposite order."""
    index_select(resize)
    node = resize.node
    with node.graph.inserting_before(node):
        flipped = node.graph.call_function(torch.flip, (node.args[0], (1,)))
    node.args = (flipped, *node.args[1:])


def nothing(resize: Resize) -> None:
    """A rule that forgets to rewrite."""


index_select = RESIZERS["index_select"]

BROKEN_RESIZERS = [
    pytest.param("narrow", off_by_one, image_model(lambda x: x.narrow(1, 0, 6) * 2, 6), IMAGE, id="narrow"),
    pytest.param("roll", nothing, image_model(lambda x: x.roll(3, 1)), IMAGE, id="roll"),
    pytest.param("scaled_dot_product_attention", nothing,
                 token_model(lambda x: functional.scaled_dot_product_attention(x, x.sigmoid(), x)), TOKENS,
                 id="attention scale"),
    pytest.param("index_select", in_the_opposite_order,
                 image_model(lambda x: x.index_select(1, torch.tensor([1, 0, 2, 3, 7, 6, 5, 4]))), IMAGE,
                     id="index_select"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "broken", "model", "example"), BROKEN_RESIZERS)
def test_a_broken_rewriting_rule_is_seen(
    name: str, broken: Callable[[Resize], None], model: nn.Module, example: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune_and_verify(model, example)
    monkeypatch.setitem(RESIZERS, name, broken)
    with pytest.raises((VerificationError, InvariantError)):
        prune_and_verify(model, example)


def test_a_size_that_no_rule_rewrites_freezes_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RESIZERS, "view", nothing)
    model = net(
        lambda self, x: self.head(self.a(x).view(-1, 128)), a=nn.Conv2d(3, 8, 3), head=nn.Linear(128, 4)
    )
    program = Runner().run(pipelines.analysis(), capture(model, IMAGE))
    assert program.dependencies is not None
    assert not program.dependencies.groups
    assert program.pins and "view" in program.pins[0][0]


@pytest.mark.parametrize("name", ["a.weight", "norm.running_mean", "head.weight"])
def test_wrong_slices_of_one_tensor_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slice_tensors = compact.slice_tensors

    def wrong(module: nn.Module, kept: Any) -> None:
        slice_tensors(module, {key: indices.flip(0) if key[0] == name else indices for key, indices in kept.items()})

    model = net(
        lambda self, x: self.head(self.norm(self.a(x)).relu()),
        a=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), head=nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    prune_and_verify(model, IMAGE)
    monkeypatch.setattr(compact, "slice_tensors", wrong)
    with pytest.raises(VerificationError, match="first node that differs"):
        prune_and_verify(model, IMAGE)
