"""Sizes that hold the batch and heads in one dim are scaled, not fixed to the example's batch, whatever came before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.ops.case import net
from tests.regressions.pruning import assert_prunes_right

WORDS = torch.randint(0, 9, (2, 5))


def _attend(self: Any, x: Tensor) -> Tensor:
    """Heads in the batch dim."""
    n, length = x.shape[0], x.shape[1]
    q = self.q(x).view(n, length, 4, 2).transpose(1, 2).reshape(n * 4, length, 2)
    y = torch.bmm(torch.bmm(q, q.transpose(1, 2)).softmax(-1), q)
    result: Tensor = self.head(y.view(n, 4, length, 2).transpose(1, 2).reshape(n, length, 8))
    return result


LOOKUPS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "embedding": lambda self, x: F.embedding(x, self.table),
    "index_select": lambda self, x: self.table.index_select(0, x.flatten()).view(*x.shape, 6),
    "embedding_bag": lambda self, x: F.embedding_bag(x, self.table).unsqueeze(1).expand(-1, 3, -1),
}


@pytest.mark.parametrize("lookup", LOOKUPS.values(), ids=LOOKUPS)
def test_after_a_lookup(lookup: Callable[[Any, Tensor], Tensor]) -> None:
    model = net(
        lambda self, x: _attend(self, lookup(self, x)),
        table=nn.Parameter(torch.randn(9, 6)),
        q=nn.Linear(6, 8),
        head=nn.Linear(8, 3),
    )
    assert_prunes_right(model, WORDS)


def test_after_an_op_without_a_rule() -> None:
    model = net(
        lambda self, x: _attend(self, torch.linalg.cholesky_ex(x @ x.mT + 9 * torch.eye(5, dtype=x.dtype))[0]),
        q=nn.Linear(5, 8),
        head=nn.Linear(8, 3),
    )
    assert_prunes_right(model, torch.randn(2, 5, 5))
