"""Memory that one tensor gave back and another got must not make the two look like views of each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.ops.case import net
from tests.property.checks import dependencies_of
from tests.regressions.pruning import analysed


def _strided_then_written(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    y = torch.cat([y[:, 1::2], y[:, ::2].relu()], 1)
    for _ in range(4):
        z = torch.tanh(y * 2 + 1).clone()
        z[:, :3].fill_(0.5)
        y = z + y
    result: Tensor = self.head(y)
    return result


def test_memory_that_is_used_again() -> None:
    model = net(_strided_then_written, a=nn.Linear(5, 8), head=nn.Linear(8, 4))
    groups = [dependencies_of(analysed(model, torch.randn(3, 5))).groups for _ in range(5)]
    assert sum(group.channels for group in groups[0]) == 8
    assert all(each == groups[0] for each in groups)
