"""Rows that the example happens not to look up must stay: another input may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.ops.case import net
from tests.regressions.pruning import analysed, prunable

WORDS = torch.tensor([[1, 2, 2, 1], [3, 1, 2, 3]])


def _index_select(self: Any, x: Tensor) -> Tensor:
    result: Tensor = self.head(self.table.index_select(0, x.flatten()).view(*x.shape, 6))
    return result


def _index(self: Any, x: Tensor) -> Tensor:
    result: Tensor = self.head(self.table[x + 1])
    return result


def _gather(self: Any, x: Tensor) -> Tensor:
    result: Tensor = self.head(self.table.gather(0, x.flatten()[:, None].expand(-1, 6)).view(*x.shape, 6))
    return result


@pytest.mark.parametrize("forward", [_index_select, _index, _gather])
def test_rows_that_the_example_does_not_look_up(forward: Callable[..., Tensor]) -> None:
    program = analysed(net(forward, table=nn.Parameter(torch.randn(9, 6)), head=nn.Linear(6, 3)), WORDS)
    assert prunable(program, "table", 0) == 0
