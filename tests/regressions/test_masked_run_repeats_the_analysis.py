"""The masked program is run with values, so torch may take ops apart in another way; labels and choices hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.ops.case import net
from tests.regressions.pruning import assert_prunes_right


def test_choice_among_flattened_channels() -> None:
    """Heads and widths come to share a dim, which one keeps."""
    model = net(
        lambda self, x: self.head(self.norm(torch.einsum("bnd,hde->bnhe", self.a(x), self.w).flatten(2))),
        a=nn.Linear(5, 4), w=nn.Parameter(torch.randn(2, 4, 3)), norm=nn.LayerNorm(6), head=nn.Linear(6, 4),
    )  # fmt: skip
    assert_prunes_right(model, torch.randn(2, 7, 5), mixing=True)


def _copies(self: Any, x: Tensor) -> Tensor:
    y = self.mix(self.a(x).transpose(1, 2)).transpose(1, 2)
    y = torch.matmul(y + y.flip(2), self.w)
    result: Tensor = self.head(y.unsqueeze(3).expand(-1, -1, -1, 2).flatten(2))
    return result


def test_copies_that_only_one_of_the_two_runs_makes() -> None:
    """A product of matrices is one of them, or a batched one with copies of the weight: its strides decide."""
    model = net(
        _copies, a=nn.Linear(5, 6), mix=nn.Linear(7, 7), w=nn.Parameter(torch.randn(6, 5)), head=nn.Linear(10, 3)
    )
    assert_prunes_right(model, torch.randn(2, 7, 5))
