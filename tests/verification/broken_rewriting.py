"""Rewriting with a typical mistake each, and a model that shows it; `test_verifier_can_fail.py` uses them.

At least one row for every file of `graphprune/rewrite` that rewrites.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from graphprune.coupling import first_analysis
from graphprune.passes import fix_channel_sizes
from graphprune.program import surgery
from graphprune.rewrite import attributes, compact
from graphprune.rewrite.literals import RESIZERS
from graphprune.rewrite.sizes import Resize, Survivors
from tests.ops.case import net
from tests.verification.broken_rules import IMAGE, TOKENS, image_model, token_model


@dataclass(frozen=True)
class BrokenRewriting:
    """A row.

    Attributes:
        name: What the mistake is.
        file: The file of `graphprune.rewrite` that it is in.
        breaks: Makes it.
        model: Verifies without it, and must not with it.
        example: Its input.
    """

    name: str
    file: str
    breaks: Callable[[pytest.MonkeyPatch], None]
    model: nn.Module
    example: Tensor


def replaced(name: str, broken: Callable[[Resize], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """Replaces the rule for an op."""
    return lambda patch: patch.setitem(RESIZERS, name, broken)


def nothing(*given: Any) -> None:
    """Forgets to rewrite."""


def off_by_one(resize: Resize) -> None:
    """A part that is as long as it should be, but begins one channel late."""
    node, source, result = resize.node, resize.source, resize.result
    assert source is not None and result is not None
    start = min(source.rank_of(int(str(node.args[2])), 1) + 1, source.size(1) - result.size(1))
    node.args = (node.args[0], 1, start, result.size(1))


INDEX_SELECT, SPLIT, PAD = (RESIZERS[name] for name in ("index_select", "split", "pad"))


def in_the_opposite_order(resize: Resize) -> None:
    """The right positions, of the channels in the opposite order."""
    INDEX_SELECT(resize)
    node = resize.node
    with node.graph.inserting_before(node):
        flipped = node.graph.call_function(torch.flip, (node.args[0], (1,)))
    node.args = (flipped, *node.args[1:])


def one_too_many(resize: Resize) -> None:
    """A split whose first part takes one channel of the second."""
    SPLIT(resize)
    sizes: Any = resize.node.args[1]
    resize.node.args = (resize.node.args[0], [sizes[0] + 1, sizes[1] - 1], 1)


def at_the_other_end(resize: Resize) -> None:
    """As many padded channels as there should be, in the wrong place."""
    PAD(resize)
    pad: Any = resize.node.args[1]
    resize.node.args = (resize.node.args[0], [*pad[:-2], pad[-1], pad[-2]])


def parts(x: Tensor) -> Tensor:
    first, second = x.split([3, 5], 1)
    return torch.cat([first * 2, second.sigmoid()], 1)


def attributes_stay(kind: type[nn.Module]) -> Callable[[pytest.MonkeyPatch], None]:
    """A layer keeps its old sizes."""
    return lambda patch: patch.setitem(attributes._UPDATERS, kind, nothing)


def one_group(patch: pytest.MonkeyPatch) -> None:
    """A group norm that takes all channels for one group."""

    def update(module: nn.GroupNorm, source: Survivors, result: Survivors) -> None:
        module.num_groups, module.num_channels = 1, result.size(1)

    patch.setitem(attributes._UPDATERS, nn.GroupNorm, update)


def sizes_stay_computed(patch: pytest.MonkeyPatch) -> None:
    """A size that the program reads of its channels follows a prune, though it should be what it was."""
    for module in (first_analysis, fix_channel_sizes):
        patch.setattr(module, "with_fixed_channel_sizes", lambda given, dependencies: (given, 0))


def wrong_slices(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """One tensor keeps its indices in the opposite order."""
    slice_tensors = surgery.slice_tensors

    def wrong(module: nn.Module, kept: Any) -> None:
        slice_tensors(module, {key: indices.flip(0) if key[0] == name else indices for key, indices in kept.items()})

    return lambda patch: patch.setattr(compact, "slice_tensors", wrong)


def nothing_is_tried(patch: pytest.MonkeyPatch) -> None:
    """Every node is taken for one without sizes, and the rule for `view` is missing."""
    patch.setattr(first_analysis, "is_sizeless", lambda module, node: True)
    patch.setitem(RESIZERS, "view", nothing)


def normed() -> nn.Module:
    """A convolution, a batch norm and a head."""
    return net(
        lambda self, x: self.head(self.norm(self.a(x)).relu()),
        a=nn.Conv2d(3, 8, 3),
        norm=nn.BatchNorm2d(8),
        head=nn.Conv2d(8, 4, 1),
    )


BROKEN_REWRITING = (
    BrokenRewriting("narrow, off by one", "positions", replaced("narrow", off_by_one),
                    image_model(lambda x: x.narrow(1, 0, 6) * 2, 6), IMAGE),
    BrokenRewriting("split, one channel too many", "positions", replaced("split", one_too_many), image_model(parts),
                    IMAGE),
    BrokenRewriting("roll, forgotten", "positions", replaced("roll", nothing), image_model(lambda x: x.roll(3, 1)),
                    IMAGE),
    BrokenRewriting("padding at the other end", "positions", replaced("pad", at_the_other_end),
                    image_model(lambda x: F.pad(x, (0, 0, 0, 0, 3, 1)), 12), IMAGE),
    BrokenRewriting("index_select in the opposite order", "positions", replaced("index_select", in_the_opposite_order),
                    image_model(lambda x: x.index_select(1, torch.tensor([1, 0, 2, 3, 7, 6, 5, 4]))), IMAGE),
    BrokenRewriting("scale of attention, forgotten", "literals", replaced("scaled_dot_product_attention", nothing),
                    token_model(lambda x: F.scaled_dot_product_attention(x, x.sigmoid(), x)), TOKENS),
    BrokenRewriting("size of a view, forgotten", "sizeless", nothing_is_tried,
                    net(lambda self, x: self.head(self.a(x).view(-1, 128)), a=nn.Conv2d(3, 8, 3),
                        head=nn.Linear(128, 4)), IMAGE),
    BrokenRewriting("groups of a convolution, forgotten", "attributes", attributes_stay(_ConvNd),
                    image_model(nn.Conv2d(8, 8, 3, groups=8)), IMAGE),
    BrokenRewriting("one group of a norm", "attributes", one_group, image_model(nn.GroupNorm(8, 8)), IMAGE),
    BrokenRewriting("a size that should have become a literal", "channel_sizes", sizes_stay_computed,
                    token_model(lambda x: x * x.shape[-1] ** -0.5), TOKENS),
    *(BrokenRewriting(f"wrong slices of {name}", "compact", wrong_slices(name), normed(), IMAGE)
      for name in ("a.weight", "norm.running_mean", "head.weight")),
)  # fmt: skip
