"""A batched product whose weight has an index for each block and one within: of the two only one can shrink freely."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune.program.program import Attention
from tests.ops.case import net
from tests.regressions.pruning import assert_prunes_right


def _blocks(self: Any, x: Tensor) -> Tensor:
    y = self.a(x).unflatten(-1, (4, 2))
    result: Tensor = self.head(torch.einsum("...gi,gio->...go", y, self.w).flatten(-2))
    return result


@pytest.mark.parametrize("attention", ["heads", "head_dim"])
def test_block_diagonal_layer(attention: Attention) -> None:
    model = net(_blocks, a=nn.Linear(5, 8), w=nn.Parameter(torch.randn(4, 2, 3)), head=nn.Linear(12, 4))
    assert_prunes_right(model, torch.randn(2, 7, 5), attention)
