"""Literals that earlier rewriting rules got wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.ops.case import net
from tests.regressions.pruning import assert_prunes_right

MIDDLES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "padding by a negative amount": (lambda x: F.pad(x, (-1, -2)), 5),
    "padding and cutting": (lambda x: F.pad(x, (2, -1)), 9),
    "cutting and padding": (lambda x: F.pad(x, (-2, 1)), 7),
    "roll along one dim twice": (lambda x: x.roll((1, 2), (-1, 1)), 8),
    "squeeze of a dim that is wider": (lambda x: x.squeeze(-1), 8),
    "squeeze of several dims": (lambda x: x.unsqueeze(1).squeeze((1, -1)), 8),
}


@pytest.mark.parametrize(("middle", "left"), MIDDLES.values(), ids=MIDDLES)
def test_positions(middle: Callable[[Tensor], Tensor], left: int) -> None:
    model = net(lambda self, x: self.head(middle(self.a(x))), a=nn.Linear(5, 8), head=nn.Linear(left, 4))
    assert_prunes_right(model, torch.randn(3, 5))
